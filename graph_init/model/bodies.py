"""Weights inside the bodies of Loop and Scan: initializers that every iteration reads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from graph_init.model.constants import subgraphs_of
from graph_init.model.opened_data import renamed
from graph_init.model.places import PLACE, constants
from graph_init.model.reading import stored


def bodies(graph: ir.Graph) -> Iterator[ir.Graph]:
    """``graph`` itself, and all bodies in it."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            for body in subgraphs_of(attribute):
                yield from bodies(body)


def names_inside(node: onnx.NodeProto) -> Iterator[str]:
    """All names of values in the bodies of a node."""
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from (t.name for t in body.initializer)
            for inner in body.node:
                yield from (*inner.input, *inner.output)
                yield from names_inside(inner)


def is_weight(value: ir.Value) -> bool:
    """Whether a constant inside a body may be a weight: it holds several floats."""
    tensor = stored(value)
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1


def lift_weights(graph: ir.Graph) -> None:
    """Make the weights in the bodies of Loop and Scan initializers of ``graph``, which they read.

    In the file they stay where they are. All names in the model have to be unique.
    """
    loops = [n for n in graph if n.op_type in ("Loop", "Scan") and n.domain in ("", "ai.onnx")]
    inside = [
        body
        for node in loops
        for attribute in node.attributes.values()
        for outermost in subgraphs_of(attribute)
        for body in bodies(outermost)
    ]
    for body in inside:
        for value in [*body.initializers.values(), *constants(body)]:
            if is_weight(value) and not value.is_graph_output():
                _lift(graph, body, value)


def _lift(graph: ir.Graph, body: ir.Graph, value: ir.Value) -> None:
    tensor, node = stored(value), value.producer()
    assert tensor is not None
    lifted = ir.Value(
        name=value.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=renamed(tensor, value.name),
    )
    if PLACE in value.meta:
        lifted.meta[PLACE] = value.meta[PLACE]
    value.replace_all_uses_with(lifted)
    if node is None:
        del body.initializers[value.name or ""]
    else:
        body.remove(node, safe=True)
    graph.register_initializer(lifted)
