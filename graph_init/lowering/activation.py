"""Elementwise operators: arithmetic that has kinks or powers, and activation functions."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.polynomial import Polynomial

from graph_init.ir import MICROSOFT, Builder, Value
from graph_init.lowering.registry import Call, lowers


def positive(b: Builder, x: Value) -> Value:
    """Whether ``x`` is above zero, element by element."""
    return b.op("Greater", x, b.scalar(0.0, x))


def step(b: Builder, x: Value) -> Value:
    """One where ``x`` is positive, else zero; a product with it takes a thirtieth of a Where."""
    return b.cast(positive(b, x), x.dtype)


@lowers("Div")
def _div(b: Builder, c: Call) -> Value:
    x, y = c[0], c[1]
    if not y.requires_grad or not y.is_float:
        return b.op("Div", x, y) if not x.requires_grad else b.mul(x, b.reciprocal(y))
    return b.mul(x, b.reciprocal(y))


@lowers("Pow")
def _pow(b: Builder, c: Call) -> Value:
    x, y = c[0], c[1]
    if not c.requires_grad:
        return b.op("Pow", x, y)
    power = float(y.const.flat[0]) if y.const is not None and y.const.size == 1 else None
    if power is not None and power == int(power) and 1 <= abs(power) <= 8:
        product = reduce(b.mul, [x] * int(abs(power)))
        return product if power > 0 else b.reciprocal(product)
    if power is not None and abs(power) == 0.5:
        root = b.op("Sqrt", x)
        return root if power > 0 else b.reciprocal(root)
    return b.op("Exp", b.mul(b.cast(y, x.dtype), b.op("Log", x)))


@lowers("Sum")
def _sum(b: Builder, c: Call) -> Value:
    return reduce(b.add, [v for v in c.inputs if v is not None])


@lowers("Mean")
def _mean(b: Builder, c: Call) -> Value:
    return b.scale(_sum(b, c), 1.0 / len(c.inputs))  # type: ignore[arg-type]


def _pick(b: Builder, comparison: str, values: list[Value]) -> Value:
    return reduce(lambda x, y: b.where(b.op(comparison, x, y), x, y), values)


@lowers("Max")
def _max(b: Builder, c: Call) -> Value:
    return _pick(b, "GreaterOrEqual", [v for v in c.inputs if v is not None])


@lowers("Min")
def _min(b: Builder, c: Call) -> Value:
    return _pick(b, "LessOrEqual", [v for v in c.inputs if v is not None])


def clip(b: Builder, x: Value, low: Value | None, high: Value | None) -> Value:
    """min(max(x, low), high), whose derivative is that of ``x`` inside and zero at the bounds."""
    for comparison, bound in (("Greater", low), ("Less", high)):
        if bound is not None:
            x = b.where(b.op(comparison, x, bound), x, bound)
    return x


@lowers("Clip")
def _clip(b: Builder, c: Call) -> Value:
    """The bounds are attributes before opset 11, and inputs since."""
    bounds = (
        b.scalar(c.attrs[key], c[0]) if key in c.attrs else c.get(index)
        for index, key in enumerate(("min", "max"), start=1)
    )
    return clip(b, c[0], *bounds)


@lowers("LeakyRelu")
def _leaky_relu(b: Builder, c: Call) -> Value:
    return b.where(positive(b, c[0]), c[0], b.scale(c[0], c.attrs.get("alpha", 0.01)))


@lowers("PRelu")
def _prelu(b: Builder, c: Call) -> Value:
    x, slope = c[0], c[1]
    if c.opset < 9 or (slope.rank == 1 and x.rank > 1 and slope.size == x.dims[1] != x.dims[-1]):
        slope = b.reshape(slope, [slope.size] + [1] * (x.rank - 2))
    return b.where(positive(b, x), x, b.mul(slope, x))


@lowers("ThresholdedRelu")
def _thresholded_relu(b: Builder, c: Call) -> Value:
    above = b.op("Greater", c[0], b.scalar(c.attrs.get("alpha", 1.0), c[0]))
    return b.where(above, c[0], b.scalar(0.0, c[0]))


def elu(b: Builder, x: Value, alpha: float, gamma: float = 1.0, width: float = 1.0) -> Value:
    """gamma·x above zero, gamma·alpha·(exp(x/width) − 1) below."""
    above = positive(b, x)
    low = b.scale(b.where(above, b.scalar(0.0, x), x), 1.0 / width)
    curve = b.scale(b.sub(b.op("Exp", low), b.scalar(1.0, x)), alpha * gamma)
    return b.where(above, b.scale(x, gamma), curve)


@lowers("Elu")
def _elu_rule(b: Builder, c: Call) -> Value:
    return elu(b, c[0], c.attrs.get("alpha", 1.0))


@lowers("Selu")
def _selu(b: Builder, c: Call) -> Value:
    alpha = c.attrs.get("alpha", 1.67326319217681884765625)
    return elu(b, c[0], alpha, c.attrs.get("gamma", 1.05070102214813232421875))


@lowers("Celu")
def _celu(b: Builder, c: Call) -> Value:
    alpha = c.attrs.get("alpha", 1.0)
    return elu(b, c[0], alpha, width=alpha)


def hard_sigmoid(b: Builder, x: Value, alpha: float, beta: float) -> Value:
    """min(max(alpha·x + beta, 0), 1)."""
    line = b.add(b.scale(x, alpha), b.scalar(beta, x))
    return clip(b, line, b.scalar(0.0, x), b.scalar(1.0, x))


@lowers("HardSigmoid")
def _hard_sigmoid(b: Builder, c: Call) -> Value:
    return hard_sigmoid(b, c[0], c.attrs.get("alpha", 0.2), c.attrs.get("beta", 0.5))


@lowers("HardSwish")
def _hard_swish(b: Builder, c: Call) -> Value:
    return b.mul(c[0], hard_sigmoid(b, c[0], 1 / 6, 0.5))


def softplus(b: Builder, x: Value) -> Value:
    """max(x, 0) + log(1 + exp(−|x|)), which does not overflow."""
    tail = b.op("Log", b.add(b.op("Exp", b.op("Neg", b.op("Abs", x))), b.scalar(1.0, x)))
    return b.add(b.op("Relu", x), tail)


@lowers("Softplus")
def _softplus(b: Builder, c: Call) -> Value:
    return softplus(b, c[0])


@lowers("Mish")
def _mish(b: Builder, c: Call) -> Value:
    return b.mul(c[0], b.op("Tanh", softplus(b, c[0])))


def softsign(b: Builder, x: Value) -> Value:
    """x / (1 + |x|)."""
    return b.mul(x, b.reciprocal(b.add(b.op("Abs", x), b.scalar(1.0, x))))


@lowers("Softsign")
def _softsign(b: Builder, c: Call) -> Value:
    return softsign(b, c[0])


@lowers("Swish")
def _swish(b: Builder, c: Call) -> Value:
    return b.mul(c[0], b.op("Sigmoid", b.scale(c[0], c.attrs.get("alpha", 1.0))))


@lowers("QuickGelu", domain=MICROSOFT)
def _quick_gelu(b: Builder, c: Call) -> Value:
    return b.mul(c[0], b.op("Sigmoid", b.scale(c[0], c.attrs.get("alpha", 1.702))))


def _gelu_erf(b: Builder, x: Value) -> Value:
    """The engine's own operator where a gradient is wanted; its derivatives are in gradient_ops."""
    return b.op("Gelu", x, domain=MICROSOFT) if x.requires_grad else gelu_derivative(b, x, 0)


def gelu_derivative(b: Builder, x: Value, order: int) -> Value:
    """The derivative of x·Φ(x) of this order, with Φ and φ those of the normal distribution.

    It is Φ + xφ for the first order, and Pₖ(x)·φ from the second on, with P₂ = 2 − x² and
    Pₖ₊₁ = Pₖ′ − x·Pₖ since φ′ = −xφ. Written so, a derivative is a function of x alone, which costs
    less to keep and to make than what the rules make of the product.
    """
    if order < 2:
        error = b.op("Erf", b.scale(x, math.sqrt(0.5)))
        share = b.scale(b.add(error, b.scalar(1.0, x)), 0.5)
        value = b.mul(x, share) if order == 0 else b.add(share, b.mul(x, _density(b, x)))
    else:
        factor = Polynomial([2, 0, -1])
        for _ in range(order - 2):
            factor = factor.deriv() - Polynomial([0, 1]) * factor
        value = b.mul(_horner(b, x, factor), _density(b, x))
    b.custom_jvp(value, x, lambda: gelu_derivative(b, x, order + 1))
    return value


def _density(b: Builder, x: Value) -> Value:
    exponent = b.scale(b.mul(x, x), -0.5)
    return b.scale(b.op("Exp", exponent), 1 / math.sqrt(2 * math.pi))


def _horner(b: Builder, x: Value, polynomial: Polynomial) -> Value:
    *lower, leading = polynomial.coef
    total: Value = b.scalar(float(leading), x)
    for coefficient in reversed(lower):
        total = b.mul(total, x)
        total = b.add(total, b.scalar(float(coefficient), x)) if coefficient else total
    return total


def _gelu_tanh(b: Builder, x: Value) -> Value:
    cube = b.mul(b.mul(x, x), x)
    inner = b.scale(b.add(x, b.scale(cube, 0.044715)), math.sqrt(2 / math.pi))
    return b.mul(b.scale(x, 0.5), b.add(b.op("Tanh", inner), b.scalar(1.0, x)))


@lowers("Gelu")
@lowers("Gelu", domain=MICROSOFT)
def _gelu(b: Builder, c: Call) -> Value:
    return (_gelu_tanh if c.attrs.get("approximate") == "tanh" else _gelu_erf)(b, c[0])


@lowers("FastGelu", domain=MICROSOFT)
def _fast_gelu(b: Builder, c: Call) -> Value:
    bias = c.get(1)
    return _gelu_tanh(b, c[0] if bias is None else b.add(c[0], bias))


@lowers("BiasGelu", domain=MICROSOFT)
def _bias_gelu(b: Builder, c: Call) -> Value:
    return _gelu_erf(b, b.add(c[0], c[1]))


@lowers("Tan")
def _tan(b: Builder, c: Call) -> Value:
    return b.mul(b.op("Sin", c[0]), b.reciprocal(b.op("Cos", c[0])))


def _exponentials(b: Builder, x: Value) -> tuple[Value, Value]:
    return b.op("Exp", x), b.op("Exp", b.op("Neg", x))


@lowers("Sinh")
def _sinh(b: Builder, c: Call) -> Value:
    up, down = _exponentials(b, c[0])
    return b.scale(b.sub(up, down), 0.5)


@lowers("Cosh")
def _cosh(b: Builder, c: Call) -> Value:
    up, down = _exponentials(b, c[0])
    return b.scale(b.add(up, down), 0.5)


def softmax_like(b: Builder, c: Call) -> Value:
    """Before opset 13 the axes from ``axis`` on are one; since then ``axis`` alone."""
    x = c[0]
    axis = c.attrs.get("axis", 1 if c.opset < 13 else -1) % max(x.rank, 1)
    if c.opset < 13 and axis != x.rank - 1:
        flat = b.reshape(x, [math.prod(x.dims[:axis]), math.prod(x.dims[axis:])])
        return b.reshape(b.op(c.op, flat, axis=-1), x.dims)
    if axis == x.rank - 1:
        return b.op(c.op, x, axis=-1)
    perm = [i for i in range(x.rank) if i != axis] + [axis]
    back = [int(i) for i in np.argsort(perm)]
    return b.transpose(b.op(c.op, b.transpose(x, perm), axis=-1), back)


lowers("Softmax", "LogSoftmax")(softmax_like)


@lowers("Dropout")
def _dropout(b: Builder, c: Call) -> list[Value | None]:
    """Identity: deviation is measured without the noise of dropout."""
    mask = b.constant(np.ones(c[0].dims, bool)) if len(c.wanted) > 1 and c.wanted[1] else None
    return [c[0], mask]


@lowers("Shrink")
def _shrink(b: Builder, c: Call) -> Value:
    x, bias, width = c[0], c.attrs.get("bias", 0.0), c.attrs.get("lambd", 0.5)
    high = b.op("Greater", x, b.scalar(width, x))
    low = b.op("Less", x, b.scalar(-width, x))
    inner = b.where(low, b.add(x, b.scalar(bias, x)), b.scalar(0.0, x))
    return b.where(high, b.sub(x, b.scalar(bias, x)), inner)


@lowers("Mod")
def _mod(b: Builder, c: Call) -> Value:
    """x − q y with the whole number q taken from the engine's own remainder."""
    x, y, truncate = c[0], c[1], int(c.attrs.get("fmod", 0))
    if not c.requires_grad:
        return b.op("Mod", x, y, fmod=truncate)
    fixed, by = b.stop_gradient(x), b.stop_gradient(y)
    rest = b.op("Mod", fixed, by, fmod=1)
    if not truncate:  # the remainder takes the divisor's sign
        wrong = b.op("Less", b.mul(rest, by), b.scalar(0.0, rest))
        rest = b.where(wrong, b.add(rest, by), rest)
    quotient = b.op("Round", b.op("Div", b.sub(fixed, rest), by))
    return b.sub(x, b.mul(quotient, y))
