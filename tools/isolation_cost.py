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


def seconds(model: Path, *more: str) -> float:
    """That one command takes."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "graph_init", "inspect", str(model), "--json", *more],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "frontends")))},
    )
    return time.perf_counter() - begun


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
    own, trusted = (statistics.median(side) for side in zip(*pairs, strict=True))
    difference = statistics.median(a - b for a, b in pairs)
    print(f"with a process of its own {own:.2f} s, --trusted {trusted:.2f} s")
    print(
        f"median difference of {given.runs} pairs: {difference:+.3f} s, {difference / trusted:+.1%}"
    )


if __name__ == "__main__":
    main()
