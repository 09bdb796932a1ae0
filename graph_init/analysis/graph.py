"""The model as a networkx graph, and what every value in it depends on."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import networkx
import onnx_ir as ir

from graph_init.analysis.kinds import FLOATS, RANDOM
from graph_init.model.reading import dtype_name, reads_shape_only


class Depends(enum.Flag):
    """What a value is computed from; reading only a tensor's shape does not count."""

    NOTHING = 0
    DATA = enum.auto()  # a graph input, or noise drawn in the graph
    FLOAT_DATA = enum.auto()  # such a value that is not an integer
    WEIGHT = enum.auto()  # a float initializer of more than one element


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The value's shape if every dimension is known, else None."""
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(size for size in shape if isinstance(size, int))


def tensor_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Shape of a stored tensor, whose dimensions are always numbers."""
    return tuple(size for size in tensor.shape if isinstance(size, int))


def label(node: ir.Node) -> str:
    """The node's name, or ``"Op:output"`` where it has none."""
    return node.name or f"{node.op_type}:{node.outputs[0].name if node.outputs else ''}"


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of an If, Loop or Scan node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def walk(graph: ir.Graph, owner: ir.Node | None = None) -> Iterator[tuple[ir.Node, ir.Node | None]]:
    """All nodes in topological order, bodies before their owner: (node, owning node)."""
    for node in graph:
        for body in subgraphs(node):
            yield from walk(body, node)
        yield node, owner


def to_networkx(model: ir.Model) -> networkx.MultiDiGraph[Any]:
    """The model as a directed graph in which values and nodes alternate.

    Graph nodes are ``("value", id)`` and ``("node", id)``: names may be missing or repeat across
    If and Loop bodies. Values carry ``name`` and ``role`` ("input", "initializer", "output",
    "value"), nodes ``name``, ``op_type`` and ``domain``. Edges carry ``slot``, the place among the
    node's inputs or outputs, and ``shape_only``, true where only the input's shape is read. A body
    flows into its owner: each value that the body returns has an edge to the owning node.
    """
    graph: networkx.MultiDiGraph[Any] = networkx.MultiDiGraph()

    def add_value(value: ir.Value, role: str | None = None) -> tuple[str, int]:
        key = ("value", id(value))
        if key not in graph:
            graph.add_node(key, name=value.name, role="value")
        if role is not None:
            graph.nodes[key]["role"] = role
        return key

    for value in model.graph.inputs:
        add_value(value, "input")
    for value in model.graph.initializers.values():
        add_value(value, "initializer")
    for node, _ in walk(model.graph):
        here = ("node", id(node))
        graph.add_node(here, name=label(node), op_type=node.op_type, domain=node.domain)
        for value, slot, shape_only in _read(node):
            graph.add_edge(add_value(value), here, slot=slot, shape_only=shape_only)
        for value, slot in _made(node):
            graph.add_edge(here, add_value(value), slot=slot, shape_only=False)
    for value in model.graph.outputs:
        add_value(value, "output")
    return graph


def _read(node: ir.Node) -> Iterator[tuple[ir.Value, int, bool]]:
    """What a node reads, and what its bodies return: value, slot, whether only for the shape."""
    for slot, value in enumerate(node.inputs):
        if value is not None:
            yield value, slot, reads_shape_only(node, slot)
    for body in subgraphs(node):
        for slot, value in enumerate(body.outputs):
            yield value, slot, False


def _made(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """What a node makes, and what it gives its bodies: value, slot."""
    for body in subgraphs(node):
        for slot, value in enumerate(body.inputs):
            yield value, slot
    for slot, value in enumerate(node.outputs):
        yield value, slot


def live_keys(model: ir.Model) -> set[tuple[str, int]]:
    """Keys (as in `to_networkx`) of all values and nodes whose numbers reach a graph output."""
    graph = to_networkx(model)
    edges: list[tuple[Any, Any, Any, Any]] = list(graph.edges(keys=True, data="shape_only"))
    graph.remove_edges_from([(a, b, k) for a, b, k, only in edges if only])
    sink = ("sink", 0)
    graph.add_edges_from((("value", id(value)), sink) for value in model.graph.outputs)
    return set(networkx.ancestors(graph, sink)) if sink in graph else set()


def dependencies(model: ir.Model) -> dict[int, Depends]:
    """For every value, by ``id``, what it depends on."""
    found: dict[int, Depends] = {}
    for value in model.graph.inputs:
        integer = dtype_name(value) not in FLOATS
        found[id(value)] = Depends.DATA if integer else Depends.DATA | Depends.FLOAT_DATA
    for value in model.graph.initializers.values():
        tensor = value.const_value
        heavy = tensor is not None and tensor.size > 1 and dtype_name(value) in FLOATS
        found[id(value)] = Depends.WEIGHT if heavy else Depends.NOTHING

    def visit(graph: ir.Graph) -> None:
        for node in graph:
            flags = Depends.NOTHING
            if node.op_type in RANDOM:
                flags = Depends.DATA | Depends.FLOAT_DATA
            for slot, given in enumerate(node.inputs):
                if given is not None and not reads_shape_only(node, slot):
                    flags |= found.get(id(given), Depends.NOTHING)
            for body in subgraphs(node):
                # Loop state may carry anything: take what a body is given for data.
                for value in body.inputs:
                    found[id(value)] = flags | Depends.DATA | Depends.FLOAT_DATA
                visit(body)
                for returned in body.outputs:
                    flags |= found.get(id(returned), Depends.NOTHING)
            for output in node.outputs:
                found[id(output)] = flags

    visit(model.graph)
    return found
