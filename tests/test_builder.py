"""What happens while building: shapes, folding, sharing, simplification."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from graph_init.errors import UnsupportedModelError
from graph_init.ir import (
    GRAPH_INIT,
    STOP_GRADIENT,
    Array,
    Builder,
    Value,
    all_equal,
    evaluate,
    topological,
)

F = TensorProto.FLOAT


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(b: Builder, *outputs: Value) -> list[str]:
    return [n.op for n in b.needed(outputs)]


def test_constants_are_folded() -> None:
    b = Builder()
    y = b.add(b.constant(floats(3)), b.mul(b.constant(floats(3)), b.constant(np.float32(2))))
    assert y.const is not None
    np.testing.assert_allclose(y.const, 3 * floats(3), rtol=1e-6)
    assert not b.nodes


def test_shape_chains_fold() -> None:
    b = Builder()
    x = b.input("x", F, (2, 3, 4))
    first = b.op("Gather", b.op("Shape", x), b.ints([0]), axis=0)
    y = b.op("Reshape", x, b.op("Concat", first, b.ints([-1]), axis=0))
    assert y.dims == (2, 12)
    assert ops(b, y) == ["Reshape"]


def test_equal_nodes_are_one() -> None:
    b = Builder()
    x, y = b.input("x", F, (2,)), b.input("y", F, (2,))
    assert b.add(x, y) is b.add(x, y)
    assert b.add(x, y) is not b.add(y, x)
    assert b.op("Softmax", x, axis=-1) is not b.op("Softmax", x, axis=0)


def test_random_nodes_are_never_one() -> None:
    b = Builder()
    x = b.input("x", F, (2,))
    assert b.op("RandomNormalLike", x) is not b.op("RandomNormalLike", x)


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_adding_zero_is_nothing_unless_it_broadcasts(op: str) -> None:
    b = Builder()
    x = b.input("x", F, (2, 3))
    assert b.op(op, x, b.constant(np.float32(0))) is x
    assert b.op(op, x, b.constant(np.zeros((4, 2, 3), np.float32))).dims == (4, 2, 3)


def test_chains_of_views_are_one() -> None:
    b = Builder()
    x = b.input("x", F, (2, 3, 4))
    assert b.transpose(b.transpose(x, [1, 2, 0]), [2, 0, 1]) is x
    assert b.reshape(b.reshape(x, [6, 4]), [2, 3, 4]) is x
    assert ops(b, b.reshape(b.reshape(x, [6, 4]), [24])) == ["Reshape"]


def test_unknown_shapes_are_named() -> None:
    b = Builder()
    x = b.input("x", F, (4,))
    places = b.op("NonZero", x)
    with pytest.raises(UnsupportedModelError, match="NonZero"):
        _ = places.dims


def test_frozen_values_do_not_move() -> None:
    b = Builder()
    x = b.input("x", F, (4,), requires_grad=True)
    assert b.mul(x, x).requires_grad
    assert not b.stop_gradient(x).requires_grad
    assert b.stop_gradient(b.input("y", F, (4,))) is b.inputs[-1]


def test_stopped_gradients_are_in_the_graph_to_differentiate_and_not_in_the_one_to_run() -> None:
    b = Builder()
    x = b.input("x", F, (4,), requires_grad=True)
    stopped = b.stop_gradient(x)
    y = b.mul(x, b.op("Exp", stopped))
    assert ops(b, y) == ["StopGradient", "Exp", "Mul"]
    assert [n.op_type for n in b.model([y]).graph.node] == ["StopGradient", "Exp", "Mul"]
    program = b.program([y, stopped])
    assert sorted(n.op_type for n in program.model.graph.node) == ["Exp", "Identity", "Mul"]
    onnx.checker.check_model(program.model, full_check=True)
    feed = floats(4)
    value, same = ReferenceEvaluator(program.model).run(None, {"x": feed})
    np.testing.assert_allclose(value, feed * np.exp(feed), rtol=1e-6)
    np.testing.assert_array_equal(same, feed)


def test_stopped_gradients_of_constants_fold() -> None:
    b = Builder()
    constant = b.constant(floats(3))
    folded = b.op(STOP_GRADIENT, constant, domain=GRAPH_INIT)
    assert folded.const is not None and not b.nodes
    np.testing.assert_array_equal(folded.const, floats(3))


#: nodes 0 to 4: what each reads, and what it makes
READS, MAKES = [["e"], ["a"], [], ["in"], ["c"]], [["z"], ["e"], ["a"], ["c"], ["d", "f"]]


def test_nodes_are_sorted_by_readiness_or_rank() -> None:
    assert topological(READS, MAKES) == [2, 3, 1, 4, 0]
    assert topological(READS, MAKES, rank=lambda i: i) == [2, 1, 0, 3, 4]
    assert topological(READS, MAKES, rank=lambda i: -i) == [3, 4, 2, 1, 0]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros(0), True),
        (np.array([3.0]), True),
        (np.full((2, 3), 7), True),
        (np.array([[1, 1], [2, 1]]), False),
        (np.array([1.0, 1.0, np.nan]), False),
    ],
)
def test_whether_all_elements_are_equal(array: Array, expected: bool) -> None:
    assert all_equal(array) is expected


def test_models_leave_out_what_is_not_needed() -> None:
    b = Builder()
    x, y = b.input("x", F, (2,)), b.input("y", F, (2,))
    b.mul(y, y)
    made = b.model([b.add(x, x)])
    onnx.checker.check_model(made, full_check=True)
    assert [i.name for i in made.graph.input] == ["x"]
    assert [n.op_type for n in made.graph.node] == ["Add"]


#: operator -> attributes and shapes of operands, of which shapes are worked out by a rule of ours
SHAPED = [
    ("MatMul", {}, [(2, 1, 3, 4), (5, 4, 6)]),
    ("MatMul", {}, [(4,), (4, 6)]),
    ("MatMul", {}, [(3, 4), (4,)]),
    ("Transpose", {"perm": [2, 0, 1]}, [(2, 3, 4)]),
    ("Concat", {"axis": -1}, [(2, 3), (2, 5)]),
    ("Where", {}, [(2, 3), (3,)]),
    ("Gather", {"axis": 1}, [(2, 3, 4)]),
]


@pytest.mark.parametrize(("op", "attrs", "shapes"), SHAPED)
def test_shapes_are_those_of_the_standard(
    op: str, attrs: dict[str, object], shapes: list[tuple[int, ...]]
) -> None:
    b = Builder()
    values = [b.input(f"x{k}", F, s) for k, s in enumerate(shapes)]
    feeds: dict[str, Array] = {f"x{k}": floats(*s) for k, s in enumerate(shapes)}
    if op == "Where":
        values.insert(0, b.constant(np.ones((4, 1, 1), bool)))
    if op == "Gather":
        values.append(b.ints([0, 2, 1, 1]))
    y = b.op(op, *values, **attrs)
    (found,) = ReferenceEvaluator(b.model([y])).run(None, feeds)
    assert y.dims == found.shape


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.data(),
)
def test_reductions_have_the_right_shape_and_value(dims: list[int], data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.integers(0, len(dims) - 1)))
    keep = data.draw(st.booleans())
    b = Builder()
    x = b.input("x", F, tuple(dims))
    y = b.barrier(b.sum(x, sorted(axes) if axes else None, keep))
    expected = floats(*dims).sum(axis=tuple(sorted(axes)) if axes else None, keepdims=keep)
    (found,) = ReferenceEvaluator(b.model([y])).run(None, {"x": floats(*dims)})
    assert y.dims == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_operators_that_the_reference_lacks_are_not_folded() -> None:
    assert evaluate("NoSuchOperator", [floats(2)], {}, 1) is None
