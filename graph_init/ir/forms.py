"""A finished graph's nodes, each in the form that the engine runs."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any, Protocol

from graph_init.ir.values import Node, Value

#: What an engine runs in place of a node, built on the builder; None for the node itself.
Form = Callable[[Any, Node], Value | None]


class Former(Protocol):
    """What is needed of a builder; see :class:`graph_init.ir.builder.Builder`."""

    forms: dict[str, Form]
    source_node: str


def formed(b: Former, nodes: Sequence[Node]) -> list[Node]:
    """``nodes`` (in order), each in its form of ``b.forms``; what they make keeps its names.

    The graph on the builder stays as it is, so that it can be differentiated further.
    """
    if not any(n.op in b.forms for n in nodes):
        return list(nodes)
    done: set[int] = set()
    order: list[Node] = []

    def place(node: Node) -> None:
        if id(node) in done:
            return
        done.add(id(node))
        b.source_node = node.source_node
        value = b.forms[node.op](b, node) if node.op in b.forms else None
        made = node if value is None else _instead(node, value, done)
        for operand in made.inputs:
            if operand is not None and operand.node is not None:
                place(operand.node)
        order.append(made)

    for node in nodes:
        place(node)
    return order


def _instead(node: Node, value: Value, done: Container[int]) -> Node:
    """What makes the result of ``node`` by ``value``; ``done`` has the ids of nodes to run."""
    maker = value.node
    output = next(o for o in node.outputs if o is not None)
    if maker is None or id(maker) in done:
        return replace(node, op="Identity", domain="", inputs=(value,), outputs=(output,), attrs={})
    outputs = tuple(output if o is value else None for o in maker.outputs)
    return replace(maker, outputs=outputs, source_node=node.source_node)
