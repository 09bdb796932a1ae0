"""Where the constants inside the bodies of If, Loop and Scan are in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx
import onnx_ir as ir

#: Key of a value's ``meta`` under which a constant inside a body has its :class:`Place`.
PLACE = "graph_init.place"


class Place(NamedTuple):
    """A constant inside bodies: the way there as (node's number, attribute), and its name."""

    way: tuple[tuple[int, str], ...]
    name: str


def note_places(graph: ir.Graph, way: tuple[tuple[int, str], ...] = ()) -> None:
    """Write into each constant of the bodies in ``graph`` where it is.

    To be called while the nodes have the numbers and names that they have in the file.
    """
    for number, node in enumerate(graph):
        for attribute in node.attributes.values():
            if attribute.type != ir.AttributeType.GRAPH or attribute.is_ref():
                continue
            body = attribute.as_graph()
            inside = (*way, (number, attribute.name))
            for value in (*body.initializers.values(), *constants(body)):
                value.meta[PLACE] = Place(inside, value.name or "")
            note_places(body, inside)


def constants(graph: ir.Graph) -> Iterator[ir.Value]:
    """What the Constant nodes of ``graph`` give."""
    for node in graph:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield node.outputs[0]


def graph_at(graph: onnx.GraphProto, place: Place) -> onnx.GraphProto:
    """The body that holds the constant at ``place``."""
    for number, attribute in place.way:
        (graph,) = (a.g for a in graph.node[number].attribute if a.name == attribute)
    return graph


def places(graph: ir.Graph) -> dict[str, Place]:
    """Where the initializers of ``graph`` are that came out of a body, by their names."""
    return {n: v.meta[PLACE] for n, v in graph.initializers.items() if PLACE in v.meta}
