"""Inputs that a model takes the logarithm or a root of, or divides by: they are drawn positive."""

from __future__ import annotations

from collections.abc import Sequence

from graph_init.ir import Builder, Node, Value

#: Through these every positive number of an input stays positive.
_VIEWS = frozenset(
    "Identity Cast Reshape Transpose Squeeze Unsqueeze Flatten Slice Expand Tile Gather Concat "
    "Sqrt".split()
)
_WORDS = {
    "Log": "takes its logarithm",
    "Sqrt": "takes its square root",
    "Reciprocal": "divides by it",
}


def positive_inputs(b: Builder, inputs: Sequence[Value]) -> dict[str, str]:
    """Float inputs that have to be positive: by name, the node that wants it, in words.

    An input is followed through what changes its shape, and through products and sums with positive
    constants.
    """
    source = {id(v): v.name for v in inputs if v.is_float}
    found: dict[str, str] = {}
    for node in b.nodes:
        for slot, value in enumerate(node.inputs):
            name = source.get(id(value))
            if name is None:
                continue
            words = _wants(node, slot)
            if words is not None:
                found.setdefault(name, f"{node.label} {words}")
            if _keeps_positive(node, slot):
                for output in node.outputs:
                    if output is not None and output.is_float:
                        source[id(output)] = name
    return found


def _wants(node: Node, slot: int) -> str | None:
    """What a node does with its input that takes positive numbers, None if it takes others."""
    if node.op == "Div":
        return "divides by it" if slot == 1 else None
    if node.op == "Pow" and slot == 0:
        power = None if node.inputs[1] is None else node.inputs[1].const
        if power is not None and (power >= 0).all() and (power % 1 == 0).all():
            return None
        return "raises it to a power"
    return _WORDS.get(node.op)


def _keeps_positive(node: Node, slot: int) -> bool:
    if node.op in _VIEWS:
        return slot == 0 or node.op == "Concat"
    other = node.inputs[1 - slot] if node.op in ("Add", "Mul", "Div") else None
    if other is None or (node.op == "Div" and slot == 1):
        return False
    return other.const is not None and bool((other.const > 0).all())
