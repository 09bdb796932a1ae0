"""What follows a layer: the nonlinearity, which decides the gain, and a norm that undoes scales."""

from __future__ import annotations

import onnx_ir as ir

from graph_init.analysis import kinds
from graph_init.analysis.facts import leak
from graph_init.analysis.uses import SEARCH_DEPTH, Uses


def activation_after(uses: Uses, node: ir.Node) -> tuple[str | None, float | None]:
    """Operator type of the nonlinearity after the layer's output, and its slope below zero.

    Bias additions, norms, views, pools and fixed gains on the way are passed over; a sum or a
    product with other activations ends the search.
    """
    value = node.outputs[0]
    for _ in range(2 * SEARCH_DEPTH):
        readers = uses.readers(value)
        nodes = list({id(reader): reader for reader, _ in readers}.values())
        if len(nodes) > 1:
            return _gate(uses, value, nodes), None
        if not nodes or id(value) in uses.outputs:
            return None, None
        reader = nodes[0]
        if reader.op_type in kinds.ACTIVATIONS:
            return _gate(uses, value, nodes) or reader.op_type, leak(reader)
        if reader.op_type in kinds.ELEMENTWISE:
            data = [x for x in reader.inputs if uses.is_data(x)]
            if len(data) > 1:
                return None, None
        elif reader.op_type not in kinds.NORMS | kinds.VIEWS | kinds.POOLS:
            return None, None
        value = reader.outputs[0]
    return None, None


#: A factor on what these read is a factor on what they give.
_HOMOGENEOUS = kinds.VIEWS | kinds.POOLS | {"Relu", "LeakyRelu", "PRelu", "Concat"}
#: What a norm that is written out makes of its input, before it takes a root.
_MOMENTS = frozenset(
    "Mul Pow ReduceMean ReduceSumSquare ReduceL2 ReduceSum Add Sub Div Cast".split()
)
_ROOTS = frozenset({"Sqrt", "Rsqrt", "Reciprocal", "Pow", "ReduceL2"})


def norm_after(uses: Uses, node: ir.Node) -> str | None:
    """Operator type of the norm that undoes a factor on the layer's output; None if none does.

    Biases, views, pools and activations that keep a factor may stand between. Of a norm that is
    written out it is the operator that takes the root.
    """
    value = node.outputs[0]
    for _ in range(2 * SEARCH_DEPTH):
        readers = uses.readers(value)
        nodes = list({id(reader): reader for reader, _ in readers}.values())
        if not nodes or id(value) in uses.outputs:
            return None
        norm = next((n for n in nodes if n.op_type in kinds.NORMS), None)
        if norm is not None and len(nodes) == 1:
            return norm.op_type
        if len(nodes) > 1 or nodes[0].op_type == "ReduceMean":
            return _written_out(uses, value)
        reader = nodes[0]
        if reader.op_type in ("Add", "Sub"):
            if sum(uses.is_data(x) for x in reader.inputs) > 1:
                return None
        elif reader.op_type not in _HOMOGENEOUS:
            return None
        value = reader.outputs[0]
    return None


def _written_out(uses: Uses, value: ir.Value) -> str | None:
    """The root by which all that reads ``value`` is divided, where it is a norm's."""
    pending, seen, means = [(value, 0)], set[int](), False
    while pending:
        at, depth = pending.pop(0)
        for reader, _ in uses.readers(at):
            if id(reader) in seen or depth > SEARCH_DEPTH:
                continue
            seen.add(id(reader))
            means = means or reader.op_type.startswith("Reduce")
            if means and reader.op_type in _ROOTS - {"Pow"}:
                return reader.op_type
            if reader.op_type in _MOMENTS:
                pending.append((reader.outputs[0], depth + 1))
    return None


def _gate(uses: Uses, start: ir.Value, nodes: list[ir.Node]) -> str | None:
    """Name of x · f(x) written out from ``start``, or None."""
    inside, seen = {id(start)}, set[str]()
    pending = [(start, 0)]
    product = False
    while pending:
        value, depth = pending.pop(0)
        for reader, _ in uses.readers(value):
            if reader.op_type not in kinds.GATE_PARTS or depth > SEARCH_DEPTH:
                continue
            given = [x for x in reader.inputs if x is not None and uses.is_data(x)]
            if any(id(x) not in inside for x in given):
                continue
            if reader.op_type == "Mul" and len(given) == 2 and given[0] is not given[1]:
                product = True
            seen.add(reader.op_type)
            if id(reader.outputs[0]) not in inside:
                inside.add(id(reader.outputs[0]))
                pending.append((reader.outputs[0], depth + 1))
    if product and len(nodes) > 1:
        for part, name in kinds.GATED:
            if part in seen:
                return name
    return None
