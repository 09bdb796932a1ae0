"""Every tangent rule, and random compositions, against central differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graph_init.autodiff.rules import RULES as DERIVATIVES
from graph_init.autodiff.tangent import tangents
from graph_init.ir import MICROSOFT, Builder, Value
from graph_init.lowering import run
from tests.derivatives import Derivatives, evaluator

pytest.importorskip("onnxruntime")

DOUBLE = TensorProto.DOUBLE
Make = Callable[..., Value]


def conv_grad(output: int) -> Make:
    def make(b: Builder, dy: Value, x: Value, w: Value) -> Value:
        wanted = [k == output for k in range(output + 1)]
        attrs = {
            "group": 1,
            "kernel_shape": [3, 3],
            "strides": [1, 1],
            "dilations": [1, 1],
            "pads": [1, 1, 1, 1],
        }
        made = b.multi("ConvGrad", [dy, x, w], wanted, domain=MICROSOFT, attrs=attrs)[-1]
        assert made is not None
        return made

    return make


def ints(b: Builder, *numbers: int, shape: tuple[int, ...] | None = None) -> Value:
    return b.constant(np.asarray(numbers, np.int64).reshape(shape or (len(numbers),)))


#: operator, how to call it, shapes of its moving operands
RULES: list[tuple[str, Make, list[tuple[int, ...]]]] = [
    *(
        (op, lambda b, x, op=op: b.op(op, x), [(2, 3)])
        for op in "Neg Exp Reciprocal Sigmoid Tanh Erf Sin Cos Abs Relu".split()
    ),
    *(
        (op, lambda b, x, op=op: b.op(op, b.add(b.mul(x, x), b.scalar(0.1, x))), [(2, 3)])
        for op in ("Log", "Sqrt")
    ),
    *((op, lambda b, x, op=op: b.op(op, x, axis=-1), [(2, 3)]) for op in ("Softmax", "LogSoftmax")),
    *((op, lambda b, x, y, op=op: b.op(op, x, y), [(2, 3), (3,)]) for op in ("Add", "Sub", "Mul")),
    ("Identity", lambda b, x: b.barrier(x), [(2, 3)]),
    ("Cast", lambda b, x: b.op("Cast", b.op("Cast", x, to=1), to=11), [(2, 3)]),
    ("Reshape", lambda b, x: b.reshape(x, [6]), [(2, 3)]),
    ("Transpose", lambda b, x: b.transpose(x, [1, 0]), [(2, 3)]),
    ("Slice", lambda b, x: b.op("Slice", x, *(ints(b, k) for k in (1, 3, 1, 1))), [(2, 3)]),
    ("Expand", lambda b, x: b.expand(x, [4, 2, 3]), [(2, 1)]),
    ("ReduceSum", lambda b, x: b.sum(x, [1]), [(2, 3)]),
    ("Pad", lambda b, x: b.op("Pad", x, ints(b, 1, 0, 0, 2), b.scalar(7.0, x)), [(2, 3)]),
    ("Gather", lambda b, x: b.op("Gather", x, ints(b, 2, 0, 2), axis=1), [(2, 3)]),
    (
        "GatherElements",
        lambda b, x: b.op("GatherElements", x, ints(b, 2, 0, 1, 1, shape=(2, 2)), axis=1),
        [(2, 3)],
    ),
    ("GatherND", lambda b, x: b.op("GatherND", x, ints(b, 1, 2, 0, 0, shape=(2, 2))), [(2, 3)]),
    (
        "GatherGrad",
        lambda b, x: b.op(
            "GatherGrad", ints(b, 2, 4), ints(b, 2, 0, 2), x, domain=MICROSOFT, axis=1
        ),
        [(2, 3)],
    ),
    (
        "GatherElementsGrad",
        lambda b, x: b.op(
            "GatherElementsGrad",
            x,
            ints(b, 2, 4),
            ints(b, *[2, 0, 2] * 2, shape=(2, 3)),
            domain=MICROSOFT,
            axis=1,
        ),
        [(2, 3)],
    ),
    (
        "GatherNDGrad",
        lambda b, x: b.op(
            "GatherNDGrad", ints(b, 4, 3), ints(b, 1, 3, shape=(2, 1)), x, domain=MICROSOFT
        ),
        [(2, 3)],
    ),
    (
        "ScatterND",
        lambda b, x, u: b.op("ScatterND", x, ints(b, 1, 0, shape=(2, 1)), u, reduction="add"),
        [(4, 3), (2, 3)],
    ),
    (
        "ScatterElements",
        lambda b, x, u: b.op("ScatterElements", x, ints(b, 1, 0, 2, shape=(1, 3)), u, axis=0),
        [(4, 3), (1, 3)],
    ),
    (
        "Where",
        lambda b, x, y: b.where(b.constant(np.array([True, False, True])), x, y),
        [(2, 3), (2, 3)],
    ),
    ("Concat", lambda b, x, y: b.op("Concat", x, y, axis=1), [(2, 3), (2, 1)]),
    ("MatMul", lambda b, x, y: b.op("MatMul", x, y), [(2, 3, 4), (4, 2)]),
    (
        "FusedMatMul",
        lambda b, x, y: b.op("FusedMatMul", x, y, domain=MICROSOFT, transA=1, alpha=0.5),
        [(4, 3), (4, 2)],
    ),
    (
        "Conv",
        lambda b, x, w: b.op("Conv", x, w, group=2, pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        [(2, 4, 3, 3), (2, 2, 3, 3)],
    ),
    ("ConvGrad", conv_grad(0), [(1, 3, 4, 4), (1, 2, 4, 4), (3, 2, 3, 3)]),
    ("ConvGrad", conv_grad(1), [(1, 3, 4, 4), (1, 2, 4, 4), (3, 2, 3, 3)]),
]


def test_every_rule_has_a_case() -> None:
    assert {op for op, _, _ in RULES} == set(DERIVATIVES)


@pytest.mark.parametrize(("op", "make", "shapes"), RULES, ids=[op for op, _, _ in RULES])
def test_tangents_of_tangents(op: str, make: Make, shapes: list[tuple[int, ...]]) -> None:
    """First and mixed second tangent of a nonlinear function of the operator's result."""
    rng = np.random.default_rng(0)
    b = Builder(DOUBLE)
    xs, ts, us = (
        [b.input(f"{name}{k}", DOUBLE, s, requires_grad=True) for k, s in enumerate(shapes)]
        for name in "xtu"
    )
    y = b.op("Tanh", make(b, *xs))
    assert op in {n.op for n in b.nodes}
    first = tangents(b, b.needed([y]), dict(zip(xs, ts, strict=True)))[y]
    second = tangents(b, b.needed([first]), dict(zip(xs, us, strict=True)))[first]
    evaluate = evaluator(b.model([b.barrier(v) for v in (y, first, second)], unused_inputs=True))
    feeds = {v.name: rng.standard_normal(v.dims) for v in b.inputs}
    h = 1e-3 if op == "Cast" else 1e-5  # its numbers have passed through single precision

    def along(name: str) -> list[np.ndarray]:
        moved = []
        for sign in (1, -1):
            there = dict(feeds)
            for k in range(len(shapes)):
                there[f"x{k}"] = feeds[f"x{k}"] + sign * h * feeds[f"{name}{k}"]
            moved.append(evaluate(there))
        return [(p - m) / (2 * h) for p, m in zip(*moved, strict=True)]

    _, t, tu = evaluate(feeds)
    tolerance = 1e-3 if op == "Cast" else 1e-7
    np.testing.assert_allclose(t, along("t")[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(tu, along("u")[1], rtol=tolerance, atol=tolerance)


UNARY = (
    "Tanh Sigmoid Sin Cos Softplus Mish Gelu Erf Elu Selu Celu Swish Softsign Relu LeakyRelu "
    "HardSwish Atan Asinh Abs Sqrt Square Neg LayerNorm Softmax LogSoftmax Flip CumSum "
    "ReduceMean MaxOver Transpose Half"
).split()
BINARY = "Add Sub Mul Max Min Div MatMul Concat Where Gate".split()


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Operators with the numbers (counted from the newest) of the values that they read."""
    length = draw(st.integers(3, 9))
    return [
        (draw(st.sampled_from(UNARY + BINARY)), draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        for _ in range(length)
    ]


def nodes_of(op: str, x: str, y: str, out: str) -> list[helper.NodeProto]:  # type: ignore[name-defined]
    """``out`` (4, 4) from ``x`` and ``y``, both (4, 4)."""

    def node(op: str, inputs: list[str], output: str = out, **attrs: object) -> object:
        return helper.make_node(op, inputs, [output], **attrs)

    table = {
        "Square": [node("Mul", [x, x])],
        "Sqrt": [
            node("Mul", [x, x], f"{out}a"),
            node("Add", [f"{out}a", "one"], f"{out}b"),
            node("Sqrt", [f"{out}b"]),
        ],
        "Div": [
            node("Mul", [y, y], f"{out}a"),
            node("Add", [f"{out}a", "one"], f"{out}b"),
            node("Div", [x, f"{out}b"]),
        ],
        "LayerNorm": [node("LayerNormalization", [x, "gain"])],
        "Flip": [node("Gather", [x, "flip"], axis=1)],
        "CumSum": [node("CumSum", [x, "zero"])],
        "ReduceMean": [
            node("ReduceMean", [x], f"{out}a", axes=[1], keepdims=1),
            node("Sub", [x, f"{out}a"]),
        ],
        "MaxOver": [
            node("ReduceMax", [x], f"{out}a", axes=[0], keepdims=1),
            node("Mul", [y, f"{out}a"]),
        ],
        "Transpose": [node("Transpose", [x], perm=[1, 0])],
        "Half": [node("Split", [x], f"{out}a"), node("Identity", [f"{out}a"])],
        "Concat": [
            node("Concat", [x, y], f"{out}a", axis=0),
            node("Slice", [f"{out}a", "two", "six", "zero"]),
        ],
        "Where": [node("Greater", [x, y], f"{out}a"), node("Where", [f"{out}a", x, y])],
        "Gate": [node("Sigmoid", [x], f"{out}a"), node("Mul", [f"{out}a", y])],
    }
    return table.get(op) or [node(op, [x, y] if op in BINARY else [x])]  # type: ignore[return-value]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.integers(0, 2**16))
def test_random_graphs(program: list[tuple[str, int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = Builder(DOUBLE)
    environment: dict[str, Value | None] = {"": None}
    for name in ("w0", "w1", "w2", "gain"):
        shape = (4,) if name == "gain" else (4, 4)
        environment[name] = b.input(name, DOUBLE, shape, requires_grad=True)
    constants = {
        "one": np.ones(()),
        "flip": np.array([3, -3, 0, 0]),
        "zero": np.array([0]),
        "two": np.array([2]),
        "six": np.array([6]),
    }
    environment |= {n: b.constant(a) for n, a in constants.items()}
    values = ["w0", "w1", "w2"]
    for k, (op, i, j) in enumerate(program):
        x, y = values[-1 - i % len(values)], values[-1 - j % len(values)]
        run(b, nodes_of(op, x, y, f"v{k}"), environment, 20 if op == "Gelu" else 17)
        values.append(f"v{k}")
    last = environment[values[-1]]
    assert last is not None
    point = {v.name: rng.standard_normal(v.dims) for v in b.inputs}
    check = Derivatives(b, [last], point, seed)
    errors = check.errors() if check.used else (0.0, 0.0, 0.0)
    # Within the step of a kink differences mean nothing; such points are rare but drawn.
    if max(errors) > 1e-4:
        elsewhere = {n: a + 0.01 * rng.standard_normal(a.shape) for n, a in point.items()}
        errors = Derivatives(b, [last], elsewhere, seed).errors()
    assert max(errors) < 1e-4
