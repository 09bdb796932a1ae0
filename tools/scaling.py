"""Seconds and memory of a step against parameters, batch and depth, with log-log slopes.

    python tools/scaling.py

Each point in a process of its own, a GPT and a plain CNN; slopes by least squares. Needs the
``dev`` extra.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

#: What varies, and the (width, depth, batch) of each point.
SWEEPS = {
    "parameters": [(w, 4, 8) for w in (256, 512, 1024, 1536)],
    "batch": [(256, 4, n) for n in (8, 16, 32, 64)],
    "depth": [(256, d, 8) for d in (4, 8, 16, 32)],
}


def point(width: int, depth: int, batch: int) -> dict[str, Any]:
    """One network: parameters, seconds of a step, bytes over the baseline."""
    import torch

    from tools import benchmark, benchmark_models

    benchmark_models.CASES["point"] = lambda: (
        benchmark_models.GPT(width, depth, 64, 64),
        torch.randint(0, 64, (batch, 64)),
        torch.randint(0, 64, (batch, 64)),
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        benchmark.write("point", folder)
        process = subprocess.run(
            [
                sys.executable,
                str(ROOT / "tools/benchmark.py"),
                "--task",
                "graph-init",
                "--models",
                "point",
                "--folder",
                str(folder),
                "--steps",
                "3",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(process.stdout.splitlines()[-1])
    parameters = sum(p.numel() for p in benchmark_models.CASES["point"]()[0].parameters())
    return {
        "parameters": parameters,
        "seconds": min(found["seconds"]),
        "memory": found["memory"],
        "batch": batch,
        "depth": depth,
    }


def slope(x: list[float], y: list[float]) -> float:
    """Of log y over log x, by least squares."""
    xs, ys = [math.log(v) for v in x], [math.log(v) for v in y]
    a, b = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((u - a) * (v - b) for u, v in zip(xs, ys, strict=True))
    return above / sum((u - a) ** 2 for u in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.task:
        print(json.dumps(point(*given.task)))
        return
    print("| what varies | points | step (s) | memory (MB) | slope of time | slope of memory |")
    print("|---|---|---|---|---:|---:|")
    for name, sizes in SWEEPS.items():
        rows = []
        for size in sizes:
            process = subprocess.run(
                [sys.executable, __file__, "--task", *map(str, size)],
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append(json.loads(process.stdout.splitlines()[-1]))
        x, seconds, memory = ([r[k] for r in rows] for k in (name, "seconds", "memory"))
        points = [f"{v / 1e6:.1f} M" if name == "parameters" else str(v) for v in x]
        columns = (points, [f"{v:.2f}" for v in seconds], [f"{v:.0f}" for v in memory])
        cells = " | ".join(", ".join(c) for c in columns)
        print(
            f"| {name} | {cells} | {slope(x, seconds):.2f} | {slope(x, memory):.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
