"""Steps on large models: seconds, and the peak of the process's resident memory.

    python tools/large_models.py [medium billion …] [--steps 2]

``medium`` is a GPT of the size of GPT-2 medium, exactly and in slices; ``billion`` one of over 10⁹
parameters by finite differences. Exports are written to a temporary folder with external data (up
to 5 GB), each model in processes of its own. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
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

LENGTH, VOCABULARY = 64, 50257


@dataclass(frozen=True)
class Case:
    width: int
    depth: int
    batch: int
    method: str
    micro_batch: int
    title: str


CASES = {
    "small": Case(
        width=256, depth=4, batch=4, method="taylor", micro_batch=2, title="exact, slices of 2"
    ),
    "medium": Case(
        width=1024, depth=24, batch=4, method="taylor", micro_batch=2, title="exact, slices of 2"
    ),
    "billion": Case(
        width=1792,
        depth=24,
        batch=2,
        method="finite-difference",
        micro_batch=2,
        title="finite differences",
    ),
}


def write(name: str, folder: Path) -> dict[str, Any]:
    """Export the model with a dynamic batch."""
    import torch

    from tools.benchmark_models import GPT

    case = CASES[name]
    torch.manual_seed(0)
    model = GPT(case.width, case.depth, LENGTH, VOCABULARY)
    model.head.weight = model.words.weight  # as GPT-2 has it
    with torch.no_grad():
        model.words.weight.mul_(0.02)
    program = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, LENGTH, dtype=torch.long),),
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=({0: "batch"},),
    )
    assert program is not None
    program.save(str(folder / "model.onnx"), external_data=True)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def steps(name: str, folder: Path, count: int) -> dict[str, Any]:
    """``count`` steps as the tuner takes them, and the writing of a scaled model."""
    import numpy as np

    import graph_init
    from graph_init.analysis import analyze
    from graph_init.deviation.evaluator import prepare
    from graph_init.model.load import load
    from graph_init.options import Options
    from graph_init.problem.forward_graph import initial_values
    from graph_init.problem.workload import build

    case = CASES[name]
    start = time.perf_counter()
    loaded = load(folder / "model.onnx")
    options = Options(
        batch_size=case.batch,
        loss="cross-entropy",
        method=case.method,
        micro_batch=case.micro_batch,
        scale_gradient=True,
    )
    values = initial_values(loaded)
    evaluator = prepare(build(loaded, analyze(loaded.ir), values, options), values)
    scales = np.full(len(evaluator.scaled), 0.99)
    ready = time.perf_counter() - start
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        found = evaluator.step(evaluator.source.search.batch(number), scales)
        taken.append(time.perf_counter() - begun)
    assert np.isfinite(found.log_scale_gradient).all()
    scaled = evaluator.scaled
    stepped = _peak()
    del evaluator
    gc.collect()
    begun = time.perf_counter()
    factors = {n: float(s) for n, s in zip(scaled, scales, strict=True)}
    graph_init.apply(
        {"format": "graph-init/scales", "version": 1, "scales": factors}, folder / "model.onnx"
    ).save(folder / "out.onnx")
    return {
        "seconds": min(taken),
        "ready": ready,
        "written": time.perf_counter() - begun,
        "deviation": found.gradient_deviation,
        "stepped": stepped,
        "peak": _peak(),
    }


def _peak() -> float:
    """The largest resident size of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def child(task: str, name: str, folder: Path, count: int) -> dict[str, Any]:
    process = subprocess.run(
        [
            sys.executable,
            __file__,
            name,
            "--task",
            task,
            "--folder",
            str(folder),
            "--steps",
            str(count),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{task} of {name} failed:\n{process.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=["medium", "billion"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.task:
        name = given.models[0]
        work = {
            "write": lambda: write(name, given.folder),
            "steps": lambda: steps(name, given.folder, given.steps),
        }
        print(json.dumps(work[given.task]()))
        return
    print(
        f"{os.cpu_count()} cores\n\n"
        "| model | M parameters | sequences of 64 | method | from file to ready (s) | step (s) | "
        "writing the scaled model (s) | GD | peak resident, steps (GB) | whole process (GB) |"
    )
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for name in given.models:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            size = child("write", name, folder, 0)["parameters"] / 1e6
            row = child("steps", name, folder, given.steps)
        print(
            f"| {name} | {size:.0f} | {case.batch} | {case.title} | {row['ready']:.0f} | "
            f"{row['seconds']:.1f} | {row['written']:.0f} | {row['deviation']:.4g} | "
            f"{row['stepped']:.1f} | {row['peak']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
