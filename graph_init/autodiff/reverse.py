"""Reverse mode: append to a graph the derivatives of one scalar in many values.

For a node y = f(x₁, …, xₙ) and the cotangent c = ∂L/∂y, that of xᵢ grows by (∂f/∂xᵢ)ᵀ·c. The rules
are in :mod:`graph_init.autodiff.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graph_init.autodiff.rules import RULES, sum_to
from graph_init.errors import UnsupportedModelError
from graph_init.ir import ZERO_DERIVATIVE, Builder, Node, Value


def gradients(b: Builder, loss: Value, wanted: Iterable[Value]) -> dict[Value, Value]:
    """The derivatives of the scalar ``loss`` in the values ``wanted``, of their shapes.

    New nodes are appended to ``b``; values on which ``loss`` does not depend have no entry. Raises
    UnsupportedModelError for an operator between them that has no rule.
    """
    wanted = dict.fromkeys(wanted)
    nodes = _between(b, loss)
    moving = _moving(b, nodes, wanted)
    found = {loss: b.constant(np.ones(loss.dims), loss.dtype)}
    for node in reversed(nodes):
        y = _result(node)
        c = found.get(y)
        if c is None or y not in moving or y in wanted:
            continue
        b.source_node = node.source_node
        for x, part in _cotangents(b, node, c, moving):
            found[x] = b.add(found[x], part) if x in found else part
    return {
        v: c if c.shape == v.shape else b.expand(c, v.dims)
        for v in wanted
        if v in moving and (c := found.get(v)) is not None
    }


def _between(b: Builder, loss: Value) -> list[Node]:
    """The nodes on which ``loss`` depends, in order, and those that make the operands of a whole.

    What has a derivative as a whole may read past its operands: views of a view are read as one.
    """
    live, kept = {loss}, []
    for node in reversed(b.nodes):
        if live.isdisjoint(o for o in node.outputs if o is not None):
            continue
        kept.append(node)
        live.update(v for v in node.inputs if v is not None)
        live.update(v for v in _operands(b, _result(node)) if v is not None)
    return kept[::-1]


def _operands(b: Builder, y: Value) -> Sequence[Value | None]:
    """Those of ``y``, if its derivative is known as a whole."""
    if y in b.custom_jvps:
        return (b.custom_jvps[y][0],)
    return b.custom_vjps[y][0] if y in b.custom_vjps else ()


def _result(node: Node) -> Value:
    return next(o for o in node.outputs if o is not None)


def _moving(b: Builder, nodes: Iterable[Node], wanted: Iterable[Value]) -> set[Value]:
    """Those that change with ``wanted``, which themselves are taken for independent."""
    moving = set(wanted)
    for node in nodes:
        y = _result(node)
        smooth = y.is_float and node.op not in ZERO_DERIVATIVE
        operands = _operands(b, y) or tuple(node.inputs[i] for i in _positions(node))
        if smooth and any(x in moving for x in operands):
            moving.add(y)
    return moving


def _positions(node: Node) -> Sequence[int]:
    rule = RULES.get(node.op)
    return range(len(node.inputs)) if rule is None else rule.operands(node)


def _cotangents(
    b: Builder, node: Node, c: Value, moving: set[Value]
) -> Iterable[tuple[Value, Value]]:
    """What the operands of ``node`` that move get of the cotangent ``c`` of its result."""
    y = _result(node)
    if y in b.custom_jvps:
        x, derivative = b.custom_jvps[y]
        if x in moving:
            yield x, b.mul(derivative(), c)
        return
    if y in b.custom_vjps:
        operands, transpose = b.custom_vjps[y]
        whole = _whole(b, c, y)
        for k, operand in enumerate(operands):
            if operand in moving:
                yield operand, transpose(whole, k)
        return
    yield from _by_rule(b, node, c, moving)


def _by_rule(b: Builder, node: Node, c: Value, moving: set[Value]) -> Iterable[tuple[Value, Value]]:
    """The same, of an operator's rule."""
    rule = RULES.get(node.op)
    if rule is None:
        raise UnsupportedModelError(f"{node.label} has no derivative rule")
    y = _result(node)
    for i in _positions(node):
        x = node.inputs[i] if i < len(node.inputs) else None
        if x is None or x not in moving:
            continue
        cotangent = c if rule.takes_small else _whole(b, c, y)
        part = rule.vjp(b, node, y, cotangent, position=i)
        yield x, sum_to(b, part, y.dims, x.dims) if rule.broadcasts else part


def _whole(b: Builder, c: Value, y: Value) -> Value:
    return c if c.shape == y.shape else b.expand(c, y.dims)
