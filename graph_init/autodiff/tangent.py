"""Forward mode: append to a graph the tangents of its values.

For a node y = f(x₁, …, xₙ) and tangents tᵢ of its inputs, the tangent of y is Σᵢ ∂f/∂xᵢ · tᵢ. An
absent tangent is zero, and nothing is built for it. The rules are in
:mod:`graph_init.autodiff.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graph_init.autodiff.rules import RULES
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
    rule = RULES.get(node.op)
    if rule is None:
        raise UnsupportedModelError(f"{node.label} has no tangent rule")
    ts = [None if v is None else found.get(v) for v in node.inputs]
    return rule.jvp(b, node, y, ts)
