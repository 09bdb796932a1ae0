"""One meta-step of the published algorithm: PyTorch's triple backprop against graph-init.

    python tools/benchmark.py [--models vit mlp …] [--rounds 3] [--steps 3] [--threads 2]
                              [--engine auto] [--python OTHER/bin/python]

The same models, weights, batches and threads, each run in a process of its own, in turn. A row is
a model; ratios are graph-init's number over PyTorch's, the median over the rounds with the spread
from the lowest to the highest. ``--engine`` says what runs graph-init's graphs, and ``--python``
where: engines of one environment exclude each other. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

#: Products of a meta-step in units of the forward pass: 3 for the gradient, 6 for each of the two
#: first tangents, 12 for the mixed one. Triple backprop has as many.
FORWARD_PASSES = 27


@dataclass(frozen=True)
class Setting:
    """How both sides run: steps that are timed, threads; graph-init's engine, device and Python."""

    steps: int
    threads: int
    engine: str = "auto"
    device: str = "cpu"
    python: str = sys.executable


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def times(step: Any, count: int) -> list[float]:
    """Seconds of each of ``count`` calls, after one that is not counted."""
    step()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return found


def run_torch(name: str, folder: Path, count: int, threads: int) -> dict[str, Any]:
    """The published algorithm from its formula: norms' gradient by three nested backprops."""
    import torch

    torch.set_num_threads(threads)
    model, x, target = _prepared(name)
    weights = [p for p in model.parameters() if p.requires_grad]
    scaled = [p.ndim >= 2 for p in weights]
    elements = sum(p.numel() for p in weights)

    def loss() -> torch.Tensor:
        logits = model(x)
        return torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
        )

    def gradient() -> None:
        torch.autograd.grad(loss(), weights)

    last: dict[str, Any] = {}

    def step() -> None:
        first = torch.autograd.grad(loss(), weights, create_graph=True)
        half = sum((g * g).sum() for g in first) / 2
        second = torch.autograd.grad(half, weights, create_graph=True)
        total: Any = 0
        for g, hg in zip(first, second, strict=True):
            e = torch.where(g.detach() >= 0, 1e-5, -1e-5)
            total = total + ((g - hg) / (g + e) - 1).abs().sum()
        deviation = total / elements
        third = torch.autograd.grad(deviation, weights)
        slopes = [float((t * w).sum()) for t, w, s in zip(third, weights, scaled, strict=True) if s]
        last.update(deviation=float(deviation), slopes=slopes)

    base = peak()
    plain = times(gradient, count)
    seconds = times(step, count)
    return {"seconds": seconds, "gradient": plain, "memory": peak() - base, **last}


def run_graph_init(folder: Path, setting: Setting) -> dict[str, Any]:
    """graph-init's meta-step of the exported model, and the memory of an accelerator."""
    import numpy as np

    from graph_init.analysis import analyze
    from graph_init.deviation.evaluator import prepare
    from graph_init.engine.choice import choose
    from graph_init.model.load import load
    from graph_init.options import Options
    from graph_init.problem.forward_graph import initial_values
    from graph_init.problem.workload import build

    os.environ["OMP_NUM_THREADS"] = str(setting.threads)
    engine, device = setting.engine, setting.device
    _ = choose(engine, device).version  # loads the library, which is not what is measured
    start = time.perf_counter()
    with np.load(folder / "batch.npz") as archive:
        data = {k: archive[k] for k in archive.files}
    loaded = load(folder / "model.onnx")
    values = initial_values(loaded)
    base = peak()  # like PyTorch's: with the libraries, the weights and the batch
    free = _device_memory(setting)
    options = Options(
        data=data,
        loss="cross-entropy",
        whole_file=True,
        scale_gradient=True,
        engine=engine,
        device=device,
    )
    evaluator = prepare(build(loaded, analyze(loaded.ir), values, options), values)
    batch, scales = evaluator.source.search.batch(0), np.ones(len(evaluator.scaled))
    evaluator.step(batch, scales)
    ready = time.perf_counter() - start
    seconds = times(lambda: evaluator.step(batch, scales), setting.steps)
    found = evaluator.step(batch, scales)
    return {
        "seconds": seconds,
        "memory": peak() - base,
        "device_memory": _device_memory(setting) - free,
        "first": ready,
        "nodes": len(loaded.proto.graph.node),
        "deviation": float(found.gradient_deviation),
        "slopes": [float(s) for s in found.log_scale_gradient],
    }


def _device_memory(setting: Setting) -> float:
    """MB on the accelerator: PyTorch's largest so far, else all that the card's driver counts."""
    if setting.device == "cpu":
        return 0.0
    if setting.engine == "torch":
        import torch

        if setting.device == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        return torch.cuda.max_memory_allocated() / 2**20
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[0])


def run_rate(threads: int) -> dict[str, Any]:
    """GFLOP/s of float32 matrix products of 2,048."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2, 2048, 2048).unbind(0)
    seconds = min(times(lambda: a @ b, 8))
    return {"gflops": 2 * 2048**3 / seconds / 1e9}


def _prepared(name: str) -> Any:
    import torch

    from tools.benchmark_models import CASES, SMALL

    torch.manual_seed(0)
    model, x, target = {**CASES, **SMALL}[name]()
    return model, x, target


def write(name: str, folder: Path) -> dict[str, Any]:
    """Export the model and its batch; count the forward pass's floating point operations."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, x, target = _prepared(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    program = torch.onnx.export(model, (x,), dynamo=True, optimize=False, verbose=False)
    assert program is not None
    program.save(str(folder / "model.onnx"))
    entry = program.model_proto.graph.input[0].name
    np.savez(folder / "batch.npz", **{entry: x.numpy(), "target": target.numpy()})
    return {"flops": counter.get_total_flops()}


def child(
    task: str, name: str, folder: Path, setting: Setting, *, timeout: float | None = None
) -> dict[str, Any]:
    """Run one task in a process of its own; subprocess.TimeoutExpired after ``timeout`` seconds."""
    threads = str(setting.threads)
    options = ["--task", task, "--models", name, "--folder", str(folder)]
    options += ["--steps", str(setting.steps), "--threads", threads, "--engine", setting.engine]
    options += ["--device", setting.device]
    python = setting.python if task == "graph-init" else sys.executable
    process = subprocess.run(
        [python, __file__, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    if process.returncode:
        raise SystemExit(f"{task} of {name} failed:\n{process.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def compare(name: str, rounds: int, setting: Setting, rate: float) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flops = child("write", name, folder, setting)["flops"]
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(child("torch", name, folder, setting))
            ours.append(child("graph-init", name, folder, setting))
    best_theirs = [min(r["seconds"]) for r in theirs]
    best_ours = [min(r["seconds"]) for r in ours]
    time_ratio = [a / b for a, b in zip(best_ours, best_theirs, strict=True)]
    memory_ratio = [a["memory"] / b["memory"] for a, b in zip(ours, theirs, strict=True)]
    achieved = FORWARD_PASSES * flops / min(best_ours) / 1e9
    difference = abs(ours[0]["deviation"] / theirs[0]["deviation"] - 1)
    units = min(best_ours) / min(min(r["gradient"]) for r in theirs)
    torch_units = min(best_theirs) / min(min(r["gradient"]) for r in theirs)
    return (
        f"| {name} | {min(best_ours):.2f} | {min(best_theirs):.2f} | {spread(time_ratio)} | "
        f"{ours[0]['memory']:.0f} | {theirs[0]['memory']:.0f} | {spread(memory_ratio)} | "
        f"{achieved:.0f} ({100 * achieved / rate:.0f}%) | {units:.1f} / {torch_units:.1f} | "
        f"{min(r['first'] for r in ours):.1f} ({ours[0]['nodes']}) | {difference:.0e} |"
    )


def main() -> None:
    names = ["plain_cnn", "resnet18", "resnet50", "vit", "gpt", "mlp"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--python", default=sys.executable, help="that has this engine")
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    setting = Setting(
        given.steps, given.threads, given.engine, device=given.device, python=given.python
    )
    unknown = [] if given.task else [n for n in given.models if n not in names]
    if unknown:
        parser.error(f"there is no model '{unknown[0]}'; choose from {', '.join(names)}")
    if given.task:
        name = given.models[0]
        tasks = {
            "torch": lambda: run_torch(name, given.folder, given.steps, given.threads),
            "graph-init": lambda: run_graph_init(given.folder, setting),
            "write": lambda: write(name, given.folder),
            "rate": lambda: run_rate(given.threads),
        }
        print(json.dumps(tasks[given.task]()))
        return
    rate = child("rate", given.models[0], ROOT, setting)["gflops"]
    print(
        f"{given.threads} threads, matrix products at {rate:.0f} GFLOP/s, graph-init on "
        f"{given.engine}\n"
    )
    print(
        "| model | step (s) | PyTorch | time ratio | memory (MB) | PyTorch | memory ratio | "
        "GFLOP/s | step in gradients, ours / PyTorch's | first step (s, nodes) | GD differs by |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in given.models:
        print(compare(name, given.rounds, setting, rate), flush=True)


if __name__ == "__main__":
    main()
