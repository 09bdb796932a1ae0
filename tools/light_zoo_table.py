"""Write docs/light-zoo.md: nine zoo architectures, initialised, with seconds and peak memory.

Each command runs in a process of its own, one after the other. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "light-zoo.md"
STEPS = 3


@dataclass(frozen=True)
class Run:
    """One command: its JSON output, or what went wrong."""

    content: dict[str, Any]
    failure: str
    seconds: float
    peak: float  # GB


def run(*arguments: str) -> Run:
    """``graph-init arguments --json`` in a child process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "graph_init", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stderr is not None
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    unit = 1 if platform.system() == "Darwin" else 1024  # of ru_maxrss, in bytes
    peak = usage.ru_maxrss * unit / 1e9
    if status:
        return Run({}, errors.strip().splitlines()[-1] if errors else str(status), seconds, peak)
    return Run(json.loads(output), "", seconds, peak)


def models() -> dict[str, Path]:
    """The architectures in the onnx package, smallest file first."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    files = sorted(folder.glob("*.onnx"), key=lambda f: f.stat().st_size)
    return {f.stem.removeprefix("light_"): f for f in files}


def row(name: str, path: Path, folder: Path) -> str:
    """Inspect, initialise, and measure the result, on batches of the model's own size."""
    seen = run("inspect", str(path))
    target = folder / f"{name}.onnx"
    made = run(
        "initialize",
        str(path),
        "-o",
        str(target),
        "--scheme",
        "he",
        "--tuner",
        "metainit",
        "--steps",
        str(STEPS),
    )
    failure = seen.failure or made.failure
    if failure:
        return f"| {name} | {failure} | | | | | | |"
    found = run("measure", str(target))
    failure = found.failure
    if failure:
        return f"| {name} | {failure} | | | | | | |"
    before, after = made.content["before"], made.content["after"]
    target.unlink()
    return (
        f"| {name} | {found.content['elements'] / 1e6:.1f} | "
        f"{before['gradient_deviation']:.4g} | {after['gradient_deviation']:.4g} | "
        f"{seen.seconds:.1f} | {made.seconds:.0f} | {found.seconds:.0f} | "
        f"{max(made.peak, found.peak):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of models; nothing is written then")
    only = parser.parse_args().only
    lines = [
        "# The light zoo",
        "",
        f"Written by `python tools/light_zoo_table.py`; do not edit. {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, onnx {onnx.__version__}.",
        "",
        "The nine architectures of the onnx package, whose weights are placeholders, through "
        f"`inspect`, `initialize --scheme he --tuner metainit --steps {STEPS}` and `measure` of "
        "the result, at their own input and batch size. Seconds are wall clock of the whole "
        "command; the memory is the peak of the process.",
        "",
        "| model | M parameters | GD filled by he | after tuning | inspect (s) | initialize (s) | "
        "measure (s) | peak (GB) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models().items():
            if only and name not in only:
                continue
            lines.append(row(name, path, Path(folder)))
            print(lines[-1], flush=True)
    if not only:
        TABLE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
