"""Inverse trigonometric and hyperbolic functions."""

from __future__ import annotations

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers


def _one(b: Builder, like: Value) -> Value:
    return b.scalar(1.0, like)


def _arc(b: Builder, tangent: Value, angle: Value) -> Value:
    """``angle``, given without derivative, with those of arctan(``tangent``) up to the fourth.

    With t̄ a frozen copy of t, arctan t = arctan t̄ + arctan δ where δ = (t − t̄)/(1 + t t̄). Here δ
    is exactly zero, so that δ − δ³/3 has the same value and the same first four derivatives as
    arctan δ; no primitive for the function itself is needed.
    """
    frozen = b.stop_gradient(tangent)
    change = b.mul(
        b.sub(tangent, frozen),
        b.reciprocal(b.add(_one(b, tangent), b.mul(tangent, frozen))),
    )
    cube = b.mul(b.mul(change, change), change)
    return b.add(angle, b.sub(change, b.scale(cube, 1 / 3)))


@lowers("Atan")
def _atan(b: Builder, c: Call) -> Value:
    return _arc(b, c[0], b.op("Atan", b.stop_gradient(c[0])))


def _sine_to_tangent(b: Builder, x: Value) -> Value:
    """x / sqrt(1 − x²)."""
    return b.mul(x, b.reciprocal(b.op("Sqrt", b.sub(_one(b, x), b.mul(x, x)))))


@lowers("Asin")
def _asin(b: Builder, c: Call) -> Value:
    return _arc(b, _sine_to_tangent(b, c[0]), b.op("Asin", b.stop_gradient(c[0])))


@lowers("Acos")
def _acos(b: Builder, c: Call) -> Value:
    tangent = b.op("Neg", _sine_to_tangent(b, c[0]))
    return _arc(b, tangent, b.op("Acos", b.stop_gradient(c[0])))


@lowers("Asinh")
def _asinh(b: Builder, c: Call) -> Value:
    """sign(x) · log(|x| + sqrt(x² + 1)), which does not cancel for negative x."""
    x = c[0]
    size = b.op("Abs", x)
    root = b.op("Sqrt", b.add(b.mul(x, x), _one(b, x)))
    return b.mul(b.op("Sign", x), b.op("Log", b.add(size, root)))


@lowers("Acosh")
def _acosh(b: Builder, c: Call) -> Value:
    x = c[0]
    return b.op("Log", b.add(x, b.op("Sqrt", b.sub(b.mul(x, x), _one(b, x)))))


@lowers("Atanh")
def _atanh(b: Builder, c: Call) -> Value:
    x = c[0]
    ratio = b.mul(b.add(_one(b, x), x), b.reciprocal(b.sub(_one(b, x), x)))
    return b.scale(b.op("Log", ratio), 0.5)
