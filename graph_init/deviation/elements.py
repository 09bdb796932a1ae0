"""The formulas of gradient deviation element by element, on arrays, a block at a time.

With q the change of the gradient (Hg, or its finite difference) and eᵢ = ±ε with the sign of gᵢ:
r = (q + e) / (g + e), u = sign(r) / (g + e), v = u·r. They are cheap, so only g and q are kept, and
blocks keep what is in between out of the way of models that fill the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from graph_init.deviation.result import EPSILON, Statistics
from graph_init.ir import Array

_BLOCK = 1 << 20


def _denominator(g: Array) -> tuple[Array, Array]:
    e = np.where(g >= 0, np.float32(EPSILON), np.float32(-EPSILON))
    return e, 1 / (g + e)


def statistics(
    theta: Mapping[str, Array], g: Mapping[str, Array], q: Mapping[str, Array]
) -> Statistics:
    """The sums of every parameter in ``theta``; where ``g`` or ``q`` lacks it, that is zero."""
    rows = np.array([_sums(t, g.get(n), q.get(n)) for n, t in theta.items()])
    return Statistics(*rows.T)


def _sums(theta: Array, g: Array | None, q: Array | None) -> tuple[float, ...]:
    """Σ|r|, the number of elements with |g| < ε, Σg² and Σθ²."""
    squares = inner(theta, theta)
    if g is None:  # r = e/e
        return float(theta.size), float(theta.size), 0.0, squares
    deviation = vanished = 0.0
    for gradient, change in _with_zero(g, q):
        e, inverse = _denominator(gradient)
        deviation += float(np.abs((change + e) * inverse).sum(dtype=np.float64))
        vanished += np.count_nonzero(np.abs(gradient) < EPSILON)
    return deviation, vanished, inner(g, g), squares


def fill_u(out: Array, g: Array, q: Array | None) -> Array:
    """u, written to ``out``."""
    for target, (gradient, change) in zip(_blocks(out), _with_zero(g, q), strict=True):
        target[...] = _u_and_v(gradient, change)[0]
    return out


def fill_z(hu: Array | None, g: Array, q: Array | None) -> Array:
    """z = Hu − v, written over ``hu``; without one, Hu is zero."""
    out = np.zeros_like(g) if hu is None else hu
    for target, (gradient, change) in zip(_blocks(out), _with_zero(g, q), strict=True):
        target -= _u_and_v(gradient, change)[1]
    return out


def _blocks(array: Array) -> Iterator[Array]:
    """Views of at most a million elements; C order."""
    flat = array.reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, max(flat.size, 1), _BLOCK))


def _with_zero(g: Array, q: Array | None) -> Iterator[tuple[Array, Array]]:
    zero = np.zeros(1, g.dtype)
    if q is None:
        return ((block, zero) for block in _blocks(g))
    return zip(_blocks(g), _blocks(q), strict=True)


def _u_and_v(g: Array, q: Array) -> tuple[Array, Array]:
    """u and v of one block."""
    e, inverse = _denominator(g)
    r = (q + e) * inverse
    u = np.sign(r) * inverse
    return u, u * r


def inner(a: Array, b: Array) -> float:
    """Σ aᵢ·bᵢ in float64."""
    pairs = zip(_blocks(a), _blocks(b), strict=True)
    return sum(float(np.dot(x.astype(np.float64), y.astype(np.float64))) for x, y in pairs)


def change(g1: Array, g0: Array, h: float) -> None:
    """(g0 − g1)/h, written over ``g1``."""
    for later, first in zip(_blocks(g1), _blocks(g0), strict=True):
        np.subtract(first, later, out=later)
        later *= np.float32(1 / h)


def second_change(g: Array, g0: Array, q: Array, h: float, d: float) -> None:
    """(g − g1)/d with g1 = g0 − h·q, written over ``g``."""
    for later, first, slope in zip(_blocks(g), _blocks(g0), _blocks(q), strict=True):
        later -= first
        later += np.float32(h) * slope
        later *= np.float32(1 / d)


def add(target: Array, direction: Array, factor: float) -> None:
    """target + factor·direction, in place."""
    for block, d in zip(_blocks(target), _blocks(direction), strict=True):
        block += np.float32(factor) * d


def add_u(target: Array, g: Array, q: Array, factor: float) -> None:
    """target + factor·u, in place."""
    for block, gradient, slope in zip(_blocks(target), _blocks(g), _blocks(q), strict=True):
        block += np.float32(factor) * _u_and_v(gradient, slope)[0]


def u_square(g: Array, q: Array) -> float:
    """Σ uᵢ²."""
    pairs = zip(_blocks(g), _blocks(q), strict=True)
    return sum(float(np.square(_u_and_v(a, b)[0], dtype=np.float64).sum()) for a, b in pairs)


def difference_inner(theta: Array, a: Array, b: Array, factor: float) -> float:
    """factor · Σ θᵢ·(a − b)ᵢ in float64."""
    triples = zip(_blocks(theta), _blocks(a), _blocks(b), strict=True)
    return factor * sum(
        float(np.dot(t.astype(np.float64), x.astype(np.float64) - y)) for t, x, y in triples
    )
