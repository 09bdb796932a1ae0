"""The derivatives of every primitive, in both directions.

A rule has a ``jvp``, which takes the tangents of a node's operands to that of its result, and a
``vjp``, which takes the cotangent of its result to that of one operand. Most come from less: an
elementwise function from its derivative, by which both multiply; a linear operator from its
transpose, since its tangent is the operator itself, applied to tangents; a bilinear one from the
two transposes. What the rules emit is again made of operators that have rules, so that derivatives
of derivatives need nothing more.

A cotangent may be smaller than its value: of size one along an axis on which all its elements are
equal. What a sum of many elements sends back to each of them is then never written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from graph_init.autodiff import transposes
from graph_init.ir import Builder, Node, Shape, Value
from graph_init.lowering.activation import step

#: (builder, node, result, tangents of the operands: None for zero) -> tangent of the result
Jvp = Callable[[Builder, Node, Value, Sequence[Value | None]], Value | None]


class Vjp(Protocol):
    """The cotangent of the operand at ``position``, from ``c``, that of the result ``y``."""

    def __call__(self, b: Builder, node: Node, y: Value, c: Value, position: int) -> Value: ...


@dataclass(frozen=True)
class Rule:
    """How one operator is differentiated.

    ``positions`` says on which operands each of its outputs depends smoothly; None: on all.
    """

    jvp: Jvp
    vjp: Vjp
    positions: tuple[tuple[int, ...], ...] | None = None
    #: Operands are broadcast, so that what ``vjp`` gives has to be summed to the operand's shape.
    broadcasts: bool = False
    #: ``vjp`` takes cotangents that are smaller than the result.
    takes_small: bool = False

    def operands(self, node: Node) -> Sequence[int]:
        """The positions of the operands in which ``node`` can be differentiated."""
        return range(len(node.inputs)) if self.positions is None else self.positions[_which(node)]


def _which(node: Node) -> int:
    """The number of the output that exists; nodes with derivatives have one."""
    return next(i for i, o in enumerate(node.outputs) if o is not None)


def sum_to(b: Builder, cotangent: Value, wide: Shape, shape: Shape) -> Value:
    """The cotangent of an operand of ``shape`` that was broadcast to ``wide``.

    ``cotangent`` belongs to the broadcast operand, and may be smaller than it.
    """
    missing = len(wide) - len(shape)
    padded = (1,) * missing + shape
    given = (1,) * (len(wide) - cotangent.rank) + cotangent.dims
    spread = [i for i, (n, w) in enumerate(zip(padded, wide, strict=True)) if n == 1 != w]
    axes = [i - len(wide) + cotangent.rank for i in spread if given[i] != 1]
    times = math.prod(wide[i] for i in spread if given[i] == 1)
    dims = [1 if i in spread else d for i, d in enumerate(given)][missing:]
    keeps = cotangent.rank - len(axes) != len(dims) or any(a >= missing for a in axes)
    total = b.sum(cotangent, axes, keepdims=keeps) if axes else cotangent
    return b.reshape(b.scale(total, times), dims)


# -- kinds of rules -------------------------------------------------------------------------------


def _elementwise(derivative: Callable[[Builder, Value, Value], Value]) -> Rule:
    """``derivative`` is a function of the operand and the result."""

    def jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
        return None if ts[0] is None else vjp(b, node, y, ts[0], position=0)

    def vjp(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
        x = node.inputs[0]
        assert x is not None
        return b.mul(derivative(b, x, y), c)

    return Rule(jvp, vjp, ((0,),), takes_small=True)


def _symmetric(formula: Callable[[Builder, Node, Value, Value], Value]) -> Rule:
    """One operand, and a derivative that is its own transpose."""
    return Rule(
        lambda b, node, y, ts: None if ts[0] is None else formula(b, node, y, ts[0]),
        lambda b, node, y, c, position: formula(b, node, y, c),
        ((0,),),
        takes_small=True,
    )


def _again(b: Builder, node: Node, replaced: Mapping[int, Value | None]) -> Value:
    """The same operator call with some operands replaced."""
    inputs = [replaced.get(i, v) for i, v in enumerate(node.inputs)]
    wanted = [o is not None for o in node.outputs]
    made = b.multi(node.op, inputs, wanted, domain=node.domain, attrs=node.attrs)
    return next(o for o in made if o is not None)


def _zeros(b: Builder, like: Value) -> Value:
    return (
        b.expand(b.scalar(0.0, like), like.dims)
        if like.size > 1
        else b.constant(np.zeros(like.dims), like.dtype)
    )


def _linear(
    transpose: Vjp, *positions: int, broadcasts: bool = False, takes_small: bool = False
) -> Rule:
    """Jointly linear in the operands at ``positions``."""

    def jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
        if all(ts[i] is None for i in positions):
            return None
        replaced: dict[int, Value | None] = {}
        for i in positions:
            operand, t = node.inputs[i], ts[i]
            assert operand is not None
            zero = b.scalar(0.0, operand) if broadcasts else _zeros(b, operand)
            replaced[i] = zero if t is None else t
        if node.op == "Pad" and len(node.inputs) > 2:
            replaced[2] = b.scalar(0.0, y)
        out = _again(b, node, replaced)
        return out if out.shape == y.shape else b.expand(out, y.dims)

    return Rule(
        jvp=jvp,
        vjp=transpose,
        positions=(positions,),
        broadcasts=broadcasts,
        takes_small=takes_small,
    )


def _bilinear(
    transpose: Vjp,
    *pairs: tuple[int, int],
    broadcasts: bool = False,
    takes_small: bool = False,
) -> Rule:
    """Linear in each of two operands: the pair that belongs to the output that exists."""

    def jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
        pair = pairs[_which(node)]
        terms = [_again(b, node, {i: ts[i]}) for i in pair if ts[i] is not None]
        return reduce(b.add, terms) if terms else None

    return Rule(
        jvp=jvp, vjp=transpose, positions=pairs, broadcasts=broadcasts, takes_small=takes_small
    )


# -- formulas -------------------------------------------------------------------------------------


def _one_minus(b: Builder, v: Value) -> Value:
    return b.sub(b.scalar(1.0, v), v)


def _softmax(b: Builder, node: Node, y: Value, t: Value) -> Value:
    return b.mul(y, b.sub(t, b.sum(b.mul(y, t), [node.attrs["axis"]])))


def _log_softmax_jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
    t = ts[0]
    if t is None:
        return None
    return b.sub(t, b.sum(b.mul(b.op("Exp", y), t), [node.attrs["axis"]]))


def _log_softmax_vjp(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    return b.sub(c, b.mul(b.op("Exp", y), b.sum(c, [node.attrs["axis"]])))


def _sum_jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
    first, second = ts
    if node.op == "Sub" and second is not None:
        out = b.op("Neg", second) if first is None else b.sub(first, second)
    elif first is not None and second is not None:
        out = b.add(first, second)
    else:
        out = first or second  # type: ignore[assignment]
    return out if out.shape == y.shape else b.expand(out, y.dims)


def _concat_jvp(b: Builder, node: Node, y: Value, ts: Sequence[Value | None]) -> Value | None:
    parts = [
        _zeros(b, v) if t is None else t
        for v, t in zip(node.inputs, ts, strict=True)
        if v is not None
    ]
    return b.op("Concat", *parts, axis=node.attrs["axis"])


def _mul_vjp(b: Builder, node: Node, y: Value, c: Value, position: int) -> Value:
    other = node.inputs[1 - position]
    assert other is not None
    return b.mul(c, other)


#: Every operator that can be differentiated.
RULES: dict[str, Rule] = {
    "Exp": _elementwise(lambda b, x, y: y),
    "Log": _elementwise(lambda b, x, y: b.reciprocal(x)),
    "Sqrt": _elementwise(lambda b, x, y: b.scale(b.reciprocal(y), 0.5)),
    "Reciprocal": _elementwise(lambda b, x, y: b.op("Neg", b.mul(y, y))),
    "Sigmoid": _elementwise(lambda b, x, y: b.mul(y, _one_minus(b, y))),
    "Tanh": _elementwise(lambda b, x, y: _one_minus(b, b.mul(y, y))),
    "Erf": _elementwise(
        lambda b, x, y: b.scale(b.op("Exp", b.op("Neg", b.mul(x, x))), 2 / math.sqrt(math.pi))
    ),
    "Sin": _elementwise(lambda b, x, y: b.op("Cos", x)),
    "Cos": _elementwise(lambda b, x, y: b.op("Neg", b.op("Sin", x))),
    "Abs": _elementwise(lambda b, x, y: b.op("Sign", x)),
    "Relu": _elementwise(lambda b, x, y: step(b, y)),
    "Softmax": _symmetric(_softmax),
    "LogSoftmax": Rule(_log_softmax_jvp, _log_softmax_vjp, ((0,),)),
    "Add": Rule(_sum_jvp, transposes.identity, broadcasts=True, takes_small=True),
    "Sub": Rule(_sum_jvp, transposes.difference, broadcasts=True, takes_small=True),
    "Concat": Rule(_concat_jvp, transposes.concat),
    "Identity": _linear(transposes.identity, 0, takes_small=True),
    "Neg": _linear(transposes.negation, 0, takes_small=True),
    "Cast": _linear(transposes.cast, 0, takes_small=True),
    "Reshape": _linear(transposes.reshape, 0, takes_small=True),
    "Transpose": _linear(transposes.transpose, 0, takes_small=True),
    "Expand": _linear(transposes.identity, 0, broadcasts=True, takes_small=True),
    "ReduceSum": _linear(transposes.reduce_sum, 0, takes_small=True),
    "Slice": _linear(transposes.slices, 0),
    "Pad": _linear(transposes.pad, 0),
    "Where": _linear(transposes.where, 1, 2, broadcasts=True, takes_small=True),
    "Gather": _linear(transposes.gather, 0),
    "GatherElements": _linear(transposes.gather_elements, 0),
    "GatherND": _linear(transposes.gather_nd, 0),
    "GatherGrad": _linear(transposes.gather_grad, 2),
    "GatherElementsGrad": _linear(transposes.gather_elements_grad, 0),
    "GatherNDGrad": _linear(transposes.gather_nd_grad, 2),
    "ScatterND": _linear(transposes.scatter_nd, 0, 2),
    "ScatterElements": _linear(transposes.scatter_elements, 0, 2),
    "Mul": _bilinear(_mul_vjp, (0, 1), broadcasts=True, takes_small=True),
    "MatMul": _bilinear(transposes.product, (0, 1)),
    "FusedMatMul": _bilinear(transposes.product, (0, 1)),
    "Conv": _bilinear(transposes.conv, (0, 1)),
    # The derivative in X from (dY, W), and that in W from (dY, X).
    "ConvGrad": _bilinear(transposes.conv_grad, (0, 2), (0, 1)),
}
