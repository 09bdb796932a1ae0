"""From which values a gradient can come: those that no rounding or comparison cuts off."""

from __future__ import annotations

import onnx_ir as ir

from graph_init.analysis.graph import subgraphs, walk
from graph_init.analysis.kinds import FLOATS
from graph_init.model.reading import dtype_name, reads_shape_only

#: What these give is constant wherever it has a derivative.
STEPS = frozenset(
    "Sign Floor Ceil Round ArgMax ArgMin NonZero Greater Less GreaterOrEqual LessOrEqual Equal Not "
    "And Or Xor IsNaN IsInf BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Hardmax".split()
)

#: Numbers of the types that have no derivative.
_WHOLE_TYPES = frozenset(int(t) for t in ir.DataType if not t.is_floating_point())


def step_of(node: ir.Node) -> bool:
    """Whether no gradient goes through the node: it rounds, compares, or casts to integers."""
    if node.op_type == "Cast":
        to = node.attributes.get("to")
        return to is not None and to.as_int() in _WHOLE_TYPES
    return node.op_type in STEPS and node.domain in ("", "ai.onnx")


def smooth(model: ir.Model) -> set[int]:
    """``id`` of every value from which a path without a step leads to a float output."""
    pending = [v for v in model.graph.outputs if dtype_name(v) in FLOATS or v.dtype is None]
    found: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in found:
            continue
        found.add(id(value))
        node = value.producer()
        if node is None or step_of(node):
            continue
        pending += [
            v for k, v in enumerate(node.inputs) if v is not None and not reads_shape_only(node, k)
        ]
        for body in subgraphs(node):
            # A body reads values of the outer graph by name; its own course is not followed.
            pending += list(body.outputs)
            pending += [v for inner, _ in walk(body) for v in inner.inputs if v is not None]
    return found


def first_step(value: ir.Value) -> ir.Node | None:
    """The nearest node behind ``value`` through which no gradient goes."""
    pending, seen = [value], set[int]()
    while pending:
        at = pending.pop(0)
        if id(at) in seen:
            continue
        seen.add(id(at))
        for node in (use.node for use in at.uses()):
            if step_of(node):
                return node
            pending += node.outputs
    return None
