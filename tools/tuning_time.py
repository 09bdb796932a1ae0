"""How long the whole command takes, against the published algorithm in PyTorch.

    python tools/tuning_time.py [--models vit lstm …] [--write]

`graph-init initialize MODEL -o OUT` with its default tuner, start of the process included, against
500 steps of triple backprop: the time of a process that imports PyTorch, builds the same model and
takes one step, and 499 times the median of some further steps. Both on all cores, one after the
other. The models are those of ``tools/benchmark.py`` and the networks of the experiments. Needs the
``dev`` extra.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tools import benchmark
from tools.benchmark_models import CASES, SMALL

STEPS = 500
_SAMPLED = 2
MARK = "<!-- tools/tuning_time.py --write -->"


def published(name: str, folder: Path, threads: int) -> float:
    """Seconds of the published algorithm's process."""
    begun = time.perf_counter()
    found = benchmark.child("torch", name, folder, benchmark.Setting(_SAMPLED, threads))
    whole = time.perf_counter() - begun
    others = sum(found["seconds"]) + sum(found["gradient"])
    return whole - others + (STEPS - 1) * statistics.median(found["seconds"])


def command(folder: Path) -> float:
    """Seconds of our process."""
    begun = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "graph_init",
            "initialize",
            str(folder / "model.onnx"),
            "-o",
            str(folder / "out.onnx"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    whole = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"graph-init failed: {done.stderr[-2000:]}")
    return whole


def row(name: str, threads: int) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        benchmark.child("write", name, folder, benchmark.Setting(1, threads))
        theirs = published(name, folder, threads)
        ours = command(folder)
    ratio = ours / theirs
    return f"| {name} | {ours:.1f} | {theirs:.0f} | {ratio:.3f} |", ratio


def main() -> None:
    names = [n for n in (*CASES, *SMALL) if n != "resnet50"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=names, choices=names)
    parser.add_argument("--write", action="store_true", help="into docs/evidence/tuning-time.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    threads = os.cpu_count() or 1
    lines = [
        f"Seconds on {threads} cores:",
        "",
        "| model | `initialize`, whole command | published, 500 steps in PyTorch | ratio |",
        "|---|---:|---:|---:|",
    ]
    print("\n".join(lines))
    ratios = []
    for name in given.models:
        line, ratio = row(name, threads)
        print(line, flush=True)
        lines.append(line)
        ratios.append(ratio)
    lines += ["", f"Ratio: median {statistics.median(ratios):.3f}, largest {max(ratios):.3f}."]
    print("\n".join(lines[-2:]))
    if given.write:
        page = ROOT / "docs" / "evidence" / "tuning-time.md"
        head, found, _ = page.read_text(encoding="utf-8").partition(MARK)
        assert found, f"{page} has no line {MARK}"
        page.write_text(f"{head}{MARK}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
