"""Forward mode: append to a graph the tangents of its values.

For a node y = f(x₁, …, xₙ) and tangents tᵢ of its inputs, the tangent of y is Σᵢ ∂f/∂xᵢ · tᵢ. An
absent tangent is zero, and nothing is built for it. The rules are in
:mod:`graph_init.autodiff.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np

from graph_init.autodiff.rules import BILINEAR, LINEAR, NONLINEAR, SPECIAL
from graph_init.errors import UnsupportedModelError
from graph_init.ir import ZERO_DERIVATIVE, Builder, Node, Value


def tangents(b: Builder, nodes: Iterable[Node], seeds: Mapping[Value, Value]) -> dict[Value, Value]:
    """Tangents of all values that ``nodes`` (in order) compute from the keys of ``seeds``.

    ``seeds`` maps values to their tangents (same shape and type). New nodes are appended to ``b``;
    values that do not depend on a seed have no entry.
    """
    found = dict(seeds)
    for node in nodes:
        if not any(v is not None and v in found for v in node.inputs):
            continue
        output = next(o for o in node.outputs if o is not None)
        if output in seeds or not output.is_float or node.op in ZERO_DERIVATIVE:
            continue
        b.source_node = node.source_node
        t = _declared(b, output, found) or _tangent(b, node, output, found)
        if t is not None:
            found[output] = t
    return found


def _declared(b: Builder, y: Value, found: Mapping[Value, Value]) -> Value | None:
    """The tangent of a value whose derivative is known as a whole."""
    if y not in b.custom_jvps:
        return None
    x, derivative = b.custom_jvps[y]
    return b.mul(derivative(), found[x]) if x in found else None


def _tangent(b: Builder, node: Node, y: Value, found: Mapping[Value, Value]) -> Value | None:
    ts = [None if v is None else found.get(v) for v in node.inputs]
    if node.op in SPECIAL:
        return _special(b, node, y, ts)
    if node.op in LINEAR:
        return _linear(b, node, y, ts, LINEAR[node.op])
    if node.op in BILINEAR:
        which = next(i for i, o in enumerate(node.outputs) if o is not None)
        terms = [_again(b, node, {i: ts[i]}) for i in BILINEAR[node.op][which] if ts[i] is not None]
        return reduce(b.add, terms) if terms else None
    if node.op in NONLINEAR:
        x, t = node.inputs[0], ts[0]
        assert x is not None
        return None if t is None else NONLINEAR[node.op](b, x, y, t, node)
    raise UnsupportedModelError(f"{node.label} has no tangent rule")


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
    b: Builder, node: Node, y: Value, ts: list[Value | None], positions: tuple[int, ...]
) -> Value | None:
    if all(ts[i] is None for i in positions):
        return None
    replaced: dict[int, Value | None] = {}
    for i in positions:
        operand = node.inputs[i]
        assert operand is not None
        t = ts[i]
        broadcasts = node.op == "Where"
        zero = b.scalar(0.0, operand) if broadcasts else _zeros(b, operand)
        replaced[i] = zero if t is None else t
    if node.op == "Pad" and len(node.inputs) > 2:
        replaced[2] = b.scalar(0.0, y)
    out = _again(b, node, replaced)
    return out if out.shape == y.shape else b.expand(out, y.dims)


def _special(b: Builder, node: Node, y: Value, ts: list[Value | None]) -> Value:
    if node.op == "Concat":
        parts = [
            _zeros(b, v) if t is None else t
            for v, t in zip(node.inputs, ts, strict=True)
            if v is not None
        ]
        return b.op("Concat", *parts, axis=node.attrs["axis"])
    first, second = ts
    if node.op == "Sub" and second is not None:
        out = b.op("Neg", second) if first is None else b.sub(first, second)
    elif first is not None and second is not None:
        out = b.add(first, second)
    else:
        out = first or second  # type: ignore[assignment]
    return out if out.shape == y.shape else b.expand(out, y.dims)
