"""Milliseconds of a training update on small networks: ours against PyTorch, one thread each.

    python tools/benchmark_training.py [--updates 300]

The networks of tools/compare_examples.py with batches of 32 and SGD with momentum; the two take
turns, and each shows the least of three rounds. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.analysis import analyze
from graph_init.model.load import load
from graph_init.options import Options
from graph_init.problem import workload
from graph_init.problem.forward_graph import initial_values
from graph_init.training import runner
from tools.compare_examples import CASES, export

ROUNDS, RATE = 3, 1e-3


def ours(net: nn.Module, data: Any, batches: list[Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(net, data["x"], path)
        loaded = load(path)
        parameters = analyze(loaded.ir)
        values = initial_values(loaded)
        options = Options(data=data, batch_size=32, loss="cross-entropy", scale_gradient=True)
        problem = workload.build(loaded, parameters, values, options).problem
        trainer = runner.Trainer(problem, "sgd")
        start = runner.pack(problem, values)
        trainer(start, itertools.cycle(batches), 5, RATE)
        before = time.perf_counter()
        trainer(start, iter(batches), len(batches), RATE)
        return (time.perf_counter() - before) / len(batches)


def theirs(net: nn.Module, batches: list[Any]) -> float:
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    before = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        logits = net(torch.from_numpy(batch["x"]))
        nn.functional.cross_entropy(logits, torch.from_numpy(batch["target"])).backward()
        optimizer.step()
    return (time.perf_counter() - before) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=300)
    updates = parser.parse_args().updates
    warnings.simplefilter("ignore")
    print("| network | parameters | ours (ms) | PyTorch (ms) | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name, (build, rows) in CASES.items():
        data, _ = rows()
        batches = list(itertools.islice(runner.epochs(data, 32, 0), updates))
        torch.manual_seed(0)
        net = build()
        count = sum(p.numel() for p in net.parameters())
        found = [(ours(net, data, batches), theirs(net, batches)) for _ in range(ROUNDS)]
        a, b = (1e3 * min(times) for times in zip(*found, strict=True))
        print(f"| {name} | {count:,} | {a:.2f} | {b:.2f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
