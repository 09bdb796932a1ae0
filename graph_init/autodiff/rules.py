"""The tangent of every primitive.

Linear operators are declared (their rule is the operator itself, applied to the tangent), so are
bilinear ones (one term an operand); the rest are formulas in the operands ``x``, the result ``y``
and the tangent ``t``. What these rules emit is again made of primitives, so that tangents of
tangents need nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graph_init.ir import Builder, Node, Value
from graph_init.lowering.activation import step

# -- linear: operator -> positions of the operands in which it is jointly linear ----------------

LINEAR: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("Identity Neg Cast Reshape Transpose Slice Expand ReduceSum Pad".split(), (0,)),
    **dict.fromkeys("Gather GatherElements GatherND GatherElementsGrad".split(), (0,)),
    **dict.fromkeys("GatherGrad GatherNDGrad".split(), (2,)),
    "Where": (1, 2),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
}

# -- bilinear: operator -> the two operands, by which output exists -----------------------------

BILINEAR: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys("Mul MatMul FusedMatMul Conv".split(), ((0, 1),)),
    "ConvGrad": ((0, 2), (0, 1)),  # dX from (dY, W), dW from (dY, X)
}

# -- nonlinear: operator -> (builder, x, y, t) -> tangent ---------------------------------------

Formula = Callable[[Builder, Value, Value, Value, Node], Value]


def _one_minus(b: Builder, v: Value) -> Value:
    return b.sub(b.scalar(1.0, v), v)


def _relu(b: Builder, x: Value, y: Value, t: Value, node: Node) -> Value:
    return b.mul(t, step(b, y))


def _softmax(b: Builder, x: Value, y: Value, t: Value, node: Node) -> Value:
    return b.mul(y, b.sub(t, b.sum(b.mul(y, t), [node.attrs["axis"]])))


def _log_softmax(b: Builder, x: Value, y: Value, t: Value, node: Node) -> Value:
    return b.sub(t, b.sum(b.mul(b.op("Exp", y), t), [node.attrs["axis"]]))


NONLINEAR: dict[str, Formula] = {
    "Exp": lambda b, x, y, t, n: b.mul(y, t),
    "Log": lambda b, x, y, t, n: b.mul(b.reciprocal(x), t),
    "Sqrt": lambda b, x, y, t, n: b.mul(b.scale(b.reciprocal(y), 0.5), t),
    "Reciprocal": lambda b, x, y, t, n: b.mul(b.op("Neg", b.mul(y, y)), t),
    "Sigmoid": lambda b, x, y, t, n: b.mul(b.mul(y, _one_minus(b, y)), t),
    "Tanh": lambda b, x, y, t, n: b.mul(_one_minus(b, b.mul(y, y)), t),
    "Erf": lambda b, x, y, t, n: b.mul(
        b.scale(b.op("Exp", b.op("Neg", b.mul(x, x))), 2 / math.sqrt(math.pi)), t
    ),
    "Sin": lambda b, x, y, t, n: b.mul(b.op("Cos", x), t),
    "Cos": lambda b, x, y, t, n: b.mul(b.op("Neg", b.op("Sin", x)), t),
    "Abs": lambda b, x, y, t, n: b.mul(b.op("Sign", x), t),
    "Relu": _relu,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
}

SPECIAL = frozenset({"Add", "Sub", "Concat"})

#: Every operator that has a tangent rule.
COVERED = frozenset(LINEAR) | frozenset(BILINEAR) | frozenset(NONLINEAR) | SPECIAL
