"""Sessions: the memory that they take, and give back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from graph_init.engine.session import open_session
from graph_init.ir import Builder

pytest.importorskip("onnxruntime")

#: Prints the resident memory of its process, in MB, before, while and after a session needs 128.
_MEASURED = """
import gc
from pathlib import Path
import numpy as np
from onnx import TensorProto
from graph_init.ir import Builder
from graph_init.engine.session import open_session

def resident():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

b, rows = Builder(), 4096
x = b.input("x", TensorProto.FLOAT, (rows, 1))
product = b.op("MatMul", b.op("Tanh", x), b.transpose(x, [1, 0]))
session = open_session(b.program([b.sum(b.mul(b.op("Sin", product), product), keepdims=False)]))
print(resident())
for _ in range(3):
    session({"x": np.full((rows, 1), 0.1, np.float32)})
print(resident())
del session
gc.collect()
print(resident())
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="it reads a process' memory from /proc, which this system does not have; run on Linux",
)
def test_the_memory_of_a_session_is_given_back_with_it() -> None:
    # In a process of its own: blocks that other sessions still hold are not given back.
    found = subprocess.run(
        [sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True
    )
    before, during, after = (float(x) for x in found.stdout.split())
    assert during > before + 100
    assert after < before + 20


def test_runs_bound_to_arrays_equal_plain_ones() -> None:
    b = Builder()
    x, y = (b.input(n, TensorProto.FLOAT, (3,)) for n in "xy")
    session = open_session(b.program([b.barrier(b.mul(x, y))]))
    (name,) = session.outputs
    fixed, out = np.array([1, 2, 3], np.float32), np.zeros(3, np.float32)
    run = session.bind({"x": fixed}, {name: out})
    for scale in (1.0, 5.0):
        changing = np.full(3, scale, np.float32)
        run({"y": changing})
        np.testing.assert_array_equal(out, session({"x": fixed, "y": changing})[name])


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("3", 3), ("4,2", 4), ("", 0), ("x", 0)])
def test_the_environment_says_how_many_threads(
    said: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (4,))
    program = b.program([b.op("Tanh", x)])
    for given, expected in ((None, threads), (2, 2)):
        engine = open_session(program, threads=given)._engine[0]
        assert engine.get_session_options().intra_op_num_threads == expected
