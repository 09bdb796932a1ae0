"""Sessions: the memory that they take, and give back."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from graph_init.builder import Builder
from graph_init.engine.session import Session

pytest.importorskip("onnxruntime")
ROWS = 4096


def resident() -> float:
    """Of this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_memory_of_a_session_is_given_back_with_it() -> None:
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (ROWS, 1))
    product = b.op("MatMul", b.op("Tanh", x), b.transpose(x, [1, 0]))  # 64 MB
    session = Session(b.program([b.sum(b.mul(b.op("Sin", product), product), keepdims=False)]))
    before = resident()
    for _ in range(3):
        session({"x": np.full((ROWS, 1), 0.1, np.float32)})
    during = resident()
    del session
    gc.collect()
    after = resident()
    assert during > before + 100
    assert after < before + 20


def test_runs_bound_to_arrays_equal_plain_ones() -> None:
    b = Builder()
    x, y = (b.input(n, TensorProto.FLOAT, (3,)) for n in "xy")
    session = Session(b.program([b.barrier(b.mul(x, y))]))
    (name,) = session.outputs
    fixed, out = np.array([1, 2, 3], np.float32), np.zeros(3, np.float32)
    run = session.bind({"x": fixed}, {name: out})
    for scale in (1.0, 5.0):
        changing = np.full(3, scale, np.float32)
        run({"y": changing})
        np.testing.assert_array_equal(out, session({"x": fixed, "y": changing})[name])
