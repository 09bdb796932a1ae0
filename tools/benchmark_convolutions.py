"""A convolution and its two derivatives: the engine's own against gathered patches.

    python tools/benchmark_convolutions.py [--batch 16]

Kernels of 3×3 over (channels, size) as in a ResNet; the ratio is patches' time over the engine's,
gather included, the least of several runs in turn. Says from how many channels on patches are
worth it (``MANY``, ``FEW`` and ``SMALL`` in ``graph_init.lowering.patches``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.engine.session import Session, open_session
from graph_init.ir import MICROSOFT, Array, Builder, Value
from graph_init.lowering import patches

SIZES = (
    (64, 32),
    (128, 16),
    (256, 8),
    (512, 4),
    (256, 16),
    (512, 8),
    (16, 4),
    (64, 4),
    (256, 4),
)
RUNS = 10


def session(channels: int, size: int, batch: int, which: str, ours: bool) -> Session:
    """The engine's own, or ours, for ``which`` of forward, input and kernel."""
    shape, kernel = (batch, channels, size, size), (channels, channels, 3, 3)
    attrs = {
        "group": 1,
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "dilations": [1, 1],
        "pads": [1, 1, 1, 1],
    }
    b = Builder(fuses=True)
    x = b.input("x", TensorProto.FLOAT, shape)
    delta = b.input("delta", TensorProto.FLOAT, shape)
    w = b.input("w", TensorProto.FLOAT, kernel)
    place = patches.Window((3, 3), (1, 1), (1, 1, 1, 1))

    def engine_gradient(output: int) -> Value | None:
        mask = tuple(k == output for k in range(output + 1))
        return b.multi("ConvGrad", [delta, x, w], mask, domain=MICROSOFT, attrs=attrs)[output]

    rules: dict[tuple[str, bool], Callable[[], Value | None]] = {
        ("forward", False): lambda: b.op("Conv", x, w, **attrs),
        ("forward", True): lambda: patches.convolve(b, x, w, place),
        ("input", False): lambda: engine_gradient(0),
        ("input", True): lambda: patches.input_derivative(b, delta, x, w, place=place),
        ("kernel", False): lambda: engine_gradient(1),
        ("kernel", True): lambda: patches.kernel_derivative(b, delta, x, w, place=place),
    }
    value = rules[which, ours]()
    assert value is not None
    return open_session(b.program([b.barrier(value)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    batch = parser.parse_args().batch
    rng = np.random.default_rng(0)
    print("| channels | size | of | engine (GFLOP/s) | patches (GFLOP/s) | time ratio |")
    print("|---:|---:|---|---:|---:|---:|")
    for channels, size in SIZES:
        shape, kernel = (batch, channels, size, size), (channels, channels, 3, 3)
        feeds: dict[str, Array] = {
            n: rng.standard_normal(s, dtype=np.float32)
            for n, s in (("x", shape), ("delta", shape), ("w", kernel))
        }
        work = 2 * 9 * batch * size**2 * channels**2 / 1e9
        for which in ("forward", "input", "kernel"):
            both = [session(channels, size, batch, which, ours=ours) for ours in (False, True)]
            times: list[list[float]] = [[], []]
            for _ in range(RUNS):
                for run, found in zip(both, times, strict=True):
                    start = time.perf_counter()
                    run(feeds)
                    found.append(time.perf_counter() - start)
            a, b = (min(t[1:]) for t in times)
            print(
                f"| {channels} | {size} | {which} | {work / a:.0f} | {work / b:.0f} | "
                f"{b / a:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
