"""What it costs that a command does its work in a process of its own.

    python tools/isolation_cost.py [--runs 20]

``inspect`` on a small model, with that process and with ``--trusted`` in turns, so that what else
the machine does meets both alike; the median difference of a pair is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.small_models import plain_cnn


def seconds(model: Path, *more: str) -> tuple[float, float]:
    """What one command takes: on the wall, and of the processor, in both processes."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "graph_init", "inspect", str(model), "--json", *more],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "frontends")))},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"inspect has ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "m.onnx"
        onnx.save(plain_cnn(3), model)
        seconds(model)  # what is read from the disk for the first time
        pairs = []
        for k in range(given.runs):
            # Each is first in half of the pairs.
            order = ("", "--trusted") if k % 2 else ("--trusted", "")
            took = {more: seconds(model, *filter(None, [more])) for more in order}
            pairs.append((took[""], took["--trusted"]))
    for at, name in enumerate(("on the wall", "of the processor")):
        trusted = statistics.median(b[at] for _, b in pairs)
        difference = statistics.median(a[at] - b[at] for a, b in pairs)
        print(f"{name}: --trusted {trusted:.2f} s, else {difference:+.3f} s")
    print(f"medians of {given.runs} pairs")


if __name__ == "__main__":
    main()
