"""An accelerator beside the CPU: how exact it is, what a meta-step takes, and how much memory.

    python tools/accelerator.py [--device auto] [--models vit mlp …] [--seconds 480]

Each row is a model on an engine that has the device: one meta-step of the published algorithm on
the same weights and batch on both, each in a process of its own. *Differs* is the relative
difference of gradient deviation and the largest difference of its slopes by the norm, in units of
the largest slope. Memory is what the process holds beyond its weights and its batch: on the CPU at
its peak, and on the device as its driver or PyTorch counts it. What is not at its end when the
seconds are over is named and left out. Needs the ``dev`` extra and an engine with the device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.engine import pytorch, runtime
from graph_init.errors import EngineError
from tools import benchmark
from tools.benchmark_models import CASES

MODELS = ("mlp", "plain_cnn", "resnet18", "vit", "gpt", "resnet50")
HEAD = (
    "| model | engine | step on the CPU (s) | on the device | ratio | memory on the CPU (MB) | "
    "on the device | GD differs by | slopes by |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"
)


def devices() -> dict[str, tuple[str, ...]]:
    """The accelerators of each engine that is installed."""
    found = {}
    if pytorch.is_installed():
        found["torch"] = pytorch.devices()
    with contextlib.suppress(EngineError):  # it is not installed
        found["onnxruntime"] = runtime.devices()
    return {engine: tuple(d for d in there if d != "cpu") for engine, there in found.items()}


def card(device: str) -> str:
    """The accelerator's name; that of the processor where the device is part of it."""
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "a card whose name nvidia-smi does not say"
        return done.stdout.splitlines()[0].strip()
    return platform.processor() or platform.machine()


def differences(here: dict[str, Any], there: dict[str, Any]) -> tuple[float, float]:
    """Relative difference of the deviations; largest one of the slopes by the largest slope."""
    deviation = abs(there["deviation"] / here["deviation"] - 1)
    largest = max(map(abs, here["slopes"]))
    apart = max(abs(a - b) for a, b in zip(here["slopes"], there["slopes"], strict=True))
    return deviation, apart / largest


def row(name: str, engine: str, device: str, deadline: float) -> str:
    """One line of the table; SystemExit with what the engine said if a side fails."""
    cpu = benchmark.Setting(3, os.cpu_count() or 1, engine)
    with tempfile.TemporaryDirectory() as temporary:

        def child(task: str, setting: benchmark.Setting) -> dict[str, Any]:
            left = max(deadline - time.monotonic(), 0.0)
            return benchmark.child(task, name, Path(temporary), setting, timeout=left)

        try:
            child("write", cpu)
            here = child("graph-init", cpu)
            there = child("graph-init", replace(cpu, device=device))
        except subprocess.TimeoutExpired:
            return f"| {name} | {engine} | not run to its end: the time was over |"
    deviation, slopes = differences(here, there)
    seconds, other = min(here["seconds"]), min(there["seconds"])
    return (
        f"| {name} | {engine} | {seconds:.3f} | {other:.3f} | {other / seconds:.3f} | "
        f"{here['memory']:.0f} | {there['device_memory']:.0f} | {deviation:.0e} | {slopes:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "mps"))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=480.0, help="of the whole command")
    given = parser.parse_args()
    there = devices()
    pairs = [
        (engine, device)
        for engine, found in there.items()
        for device in found
        if given.device in ("auto", device)
    ]
    if not pairs:
        raise SystemExit(
            f"no engine here has {'an accelerator' if given.device == 'auto' else given.device}: "
            + "; ".join(f"{e} has {', '.join(d) or 'the CPU alone'}" for e, d in there.items())
        )
    deadline = time.monotonic() + given.seconds
    for device in dict.fromkeys(d for _, d in pairs):
        print(f"{card(device)}, beside {os.cpu_count()} cores of {platform.machine()}\n")
        print(HEAD)
        for name in given.models:
            for engine in (e for e, d in pairs if d == device):
                print(row(name, engine, device, deadline), flush=True)


if __name__ == "__main__":
    main()
