"""The order of nodes: the same results, in less memory."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from graph_init.engine.session import open_session
from graph_init.ir import Array, Builder, Value
from graph_init.ir.schedule import arrange, peak_bytes

SHAPE = (32, 256)


def values(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(v) for v in ReferenceEvaluator(model).run(None, feeds)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("Add Mul Sub Relu Transpose MatMul Reshape Sum".split()),
            st.integers(0, 99),
            st.integers(0, 99),
        ),
        min_size=5,
        max_size=40,
    )
)
def test_arranged_graphs_compute_the_same(program: list[tuple[str, int, int]]) -> None:
    b = Builder()
    made = [b.input("x", TensorProto.FLOAT, SHAPE), b.input("y", TensorProto.FLOAT, SHAPE)]
    scalars: list[Value] = []
    for op, i, j in program:
        left, right = made[i % len(made)], made[j % len(made)]
        if op == "Relu":
            made.append(b.op("Relu", left))
        elif op == "Transpose":
            made.append(b.transpose(b.transpose(b.barrier(left), [1, 0]), [1, 0]))
        elif op == "Reshape":
            made.append(b.reshape(b.op("Relu", b.reshape(left, [SHAPE[1], SHAPE[0]])), SHAPE))
        elif op == "MatMul":
            square = b.op("MatMul", left, b.transpose(right, [1, 0]))
            made.append(b.scale(b.op("MatMul", square, right), 1e-3))
        elif op == "Sum":
            scalars.append(b.sum(b.mul(left, right), keepdims=False))
        else:
            made.append(b.op(op, left, right))
    outputs = [b.barrier(v) for v in (made[-1], *scalars)]
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(SHAPE).astype(np.float32) * 0.1 for n in ("x", "y")}
    plain, arranged = b.model(outputs, unused_inputs=True), b.program(outputs)
    onnx.checker.check_model(arranged.model)
    expected = values(plain, feeds)
    read = {i.name for i in arranged.model.graph.input}
    found = values(arranged.model, {n: a for n, a in feeds.items() if n in read})
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert arranged.peak <= peak_bytes(b.needed(outputs), outputs)


def long_lived(b: Builder, count: int) -> tuple[list[Value], list[Value]]:
    """Values that are cheap to make, all read again at the end."""
    x = b.input("x", TensorProto.FLOAT, SHAPE)
    cheap = [b.scale(x, 1.5 + k) for k in range(count)]
    total = x
    for value in cheap:
        total = b.op("MatMul", b.op("MatMul", total, b.transpose(value, [1, 0])), value)
    for value in cheap:
        total = b.add(total, value)
    return [b.barrier(total)], cheap


def test_what_is_cheap_is_made_again() -> None:
    b = Builder()
    outputs, cheap = long_lived(b, 12)
    nodes = b.needed(outputs)
    order = arrange(nodes, outputs, b._again)
    assert len(order) > len(nodes)
    bytes_of_one = 4 * SHAPE[0] * SHAPE[1]
    assert peak_bytes(nodes, outputs) >= len(cheap) * bytes_of_one
    assert peak_bytes(order, outputs) <= 6 * bytes_of_one


def test_sums_run_at_once() -> None:
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, SHAPE)
    products = [
        b.op("MatMul", b.op("MatMul", x, b.transpose(x, [1, 0])), b.scale(x, k + 2.0))
        for k in range(8)
    ]
    outputs = [b.barrier(b.sum(p, keepdims=False)) for p in products]
    nodes = b.needed(outputs)
    order = arrange(nodes, outputs, b._again)
    assert peak_bytes(order, outputs) < 0.5 * peak_bytes(nodes, outputs)


def test_a_session_writes_where_it_is_told() -> None:
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (3,))
    y = b.barrier(b.add(x, x))
    session = open_session(b.program([y]))
    buffer = np.zeros(3, np.float32)
    found = session({"x": np.array([1, 2, 3], np.float32), "not read": buffer}, {y.name: buffer})
    assert found[y.name] is buffer
    np.testing.assert_array_equal(buffer, [2, 4, 6])
