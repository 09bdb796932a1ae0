"""Which loss is attached, and that it equals PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.ir import Array, Builder, Value
from graph_init.lowering import run
from graph_init.problem.loss import Objective, Term, attach, random_target

torch = pytest.importorskip("torch")
rt = pytest.importorskip("onnxruntime")


def attached(
    shape: tuple[int, ...], nodes: list[Any], loss: str = "auto", opset: int = 17
) -> tuple[Builder, Objective]:
    """The objective on ``y``, which ``nodes`` compute from the trainable ``x`` of ``shape``."""
    b = Builder()
    environment: dict[str, Value | None] = {
        "": None,
        "x": b.input("x", TensorProto.FLOAT, shape, requires_grad=True),
    }
    run(b, [*nodes], environment, opset)
    y = environment["y"]
    assert y is not None
    return b, attach(b, [("y", y)], loss)


def only(objective: Objective) -> Term:
    (term,) = objective.terms
    return term


def value(b: Builder, objective: Objective, x: Array, target: Array) -> float:
    session = rt.InferenceSession(b.model([objective.loss]).SerializeToString())
    return float(session.run(None, {"x": x, "target": target})[0])


def node(op: str, **attributes: Any) -> Any:
    return helper.make_node(op, ["x"], ["y"], **attributes)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("shape", "axis", "opset"),
    [
        ((4, 7), -1, 17),
        ((4, 7), 1, 11),
        ((3, 5, 7), -1, 17),
        ((3, 5, 7), 2, 11),
        ((3, 7, 5), 1, 17),
        ((2, 7, 3, 4), 1, 17),
        ((2, 3, 4, 7), -1, 17),
    ],
)
def test_softmax_becomes_cross_entropy_over_its_axis(
    op: str, shape: tuple[int, ...], axis: int, opset: int
) -> None:
    b, objective = attached(shape, [node(op, axis=axis)], opset=opset)
    assert only(objective).kind == "cross-entropy"
    assert only(objective).classes == 7
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    target = random_target(only(objective), only(objective).target.dims, rng)
    assert target.shape == tuple(d for i, d in enumerate(shape) if i != axis % len(shape))
    logits = torch.from_numpy(np.moveaxis(x, axis, 1).copy())
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
    assert value(b, objective, x, target) == pytest.approx(float(expected), rel=1e-5)


def test_softmax_behind_a_transposition() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], axis=-1),
        helper.make_node("Transpose", ["s"], ["y"], perm=[1, 2, 0]),
    ]
    b, objective = attached((3, 5, 7), nodes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    target = random_target(only(objective), only(objective).target.dims, rng)
    assert target.shape == (5, 3)
    logits = torch.from_numpy(x.transpose(1, 2, 0).copy())
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
    assert value(b, objective, x, target) == pytest.approx(float(expected), rel=1e-5)


def _made(text: str, axis: int, shape: tuple[int, ...]) -> list[Any]:
    """Nodes, one a line: ``output = Op inputs``; ``-`` after the operator drops the axis."""
    one = [1 if k == axis else size for k, size in enumerate(shape)]
    constants = {"k": [axis], "one": one, "whole": list(shape)}
    nodes = [helper.make_node("Constant", [], [n], value_ints=v) for n, v in constants.items()]
    for line in text.strip().splitlines():
        output, call = line.split(" = ")
        op, *inputs = call.split()
        options: dict[str, Any] = {}
        if op.startswith("ReduceMax"):
            options["axes"] = [axis]
        if op.startswith("Reduce"):
            options["keepdims"] = int(not op.endswith("-"))
        nodes.append(helper.make_node(op.rstrip("-"), inputs, [output.strip()], **options))
    return nodes


WRITTEN_OUT = {
    "plain": """
        e = Exp x
        t = ReduceSum e k
        y = Div e t""",
    "maximum subtracted": """
        m = ReduceMax x
        z = Sub x m
        e = Exp z
        t = ReduceSum e k
        y = Div e t""",
    "as JAX writes it": """
        m = ReduceMax- x
        n = Reshape m one
        f = Expand n whole
        z = Sub x f
        e = Exp z
        t = ReduceSum- e k
        u = Reshape t one
        v = Expand u whole
        y = Div e v""",
    "times a reciprocal": """
        e = Exp x
        t = ReduceSum e k
        r = Reciprocal t
        y = Mul e r""",
    "logarithm": """
        m = ReduceMax x
        z = Sub x m
        e = Exp z
        t = ReduceSum e k
        l = Log t
        y = Sub z l""",
}


@pytest.mark.parametrize("form", WRITTEN_OUT)
@pytest.mark.parametrize(("shape", "axis"), [((4, 7), 1), ((3, 5, 7), 2), ((2, 7, 3, 4), 1)])
def test_a_softmax_that_is_written_out(form: str, shape: tuple[int, ...], axis: int) -> None:
    b, objective = attached(shape, _made(WRITTEN_OUT[form], axis, shape))
    term = only(objective)
    assert (term.kind, term.classes, term.choice.guess) == ("cross-entropy", 7, False)
    assert "Softmax" in term.choice.reason
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    target = random_target(term, term.target.dims, rng)
    logits = torch.from_numpy(np.moveaxis(x, axis, 1).copy())
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
    assert value(b, objective, x, target) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        "e = Exp x\nt = ReduceSum e\ny = Div e t",  # over all axes
        "e = Exp x\nf = Abs x\nt = ReduceSum f k\ny = Div e t",  # the sum of something else
        "e = Exp x\nt = ReduceSum- e k\nu = Unsqueeze t zero\ny = Div e u",  # another axis
    ],
)
def test_what_only_looks_like_a_softmax(nodes: str) -> None:
    zero = helper.make_node("Constant", [], ["zero"], value_ints=[0])
    _, objective = attached((7, 7), [zero, *_made(nodes, 1, (7, 7))])
    assert "Softmax" not in only(objective).choice.reason


def test_old_softmax_over_images_of_one_pixel() -> None:
    """Before opset 13 the axes from 1 on are one, as in SqueezeNet."""
    b, objective = attached((4, 7, 1, 1), [node("Softmax", axis=1)], opset=9)
    assert only(objective).prediction.dims == (4, 7)
    assert only(objective).target.dims == (4,)


@pytest.mark.parametrize(
    ("shape", "target"),
    [((4, 7), (4,)), ((3, 5, 7), (3, 5)), ((2, 7, 3, 4), (2, 3, 4)), ((2, 7, 1, 1), (2,))],
)
def test_cross_entropy_of_bare_logits(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    _, objective = attached(shape, [node("Identity")], "cross-entropy")
    assert only(objective).classes == 7
    assert only(objective).target.dims == target


def test_sigmoid_becomes_binary_cross_entropy_that_does_not_overflow() -> None:
    b, objective = attached((4, 3), [node("Sigmoid")])
    assert only(objective).kind == "binary-cross-entropy"
    rng = np.random.default_rng(0)
    x = (200 * rng.standard_normal((4, 3))).astype(np.float32)
    target = random_target(only(objective), only(objective).target.dims, rng)
    assert set(np.unique(target)) <= {0.0, 1.0}
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(x), torch.from_numpy(target)
    )
    assert value(b, objective, x, target) == pytest.approx(float(expected), rel=1e-5)


def test_anything_else_becomes_mean_squared_error() -> None:
    b, objective = attached((4, 3), [node("Tanh")])
    assert only(objective).kind == "mse"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    target = random_target(only(objective), only(objective).target.dims, rng)
    expected = np.mean((np.tanh(x) - target) ** 2)
    assert value(b, objective, x, target) == pytest.approx(expected, rel=1e-5)


def test_bad_choices_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="hinge"):
        attached((4, 3), [node("Identity")], "hinge")
    with pytest.raises(UnsupportedModelError, match="class axis"):
        attached((4,), [node("Identity")], "cross-entropy")
