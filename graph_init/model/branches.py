"""Weights inside the branches of If: where they are in the file, and branches that are taken.

What an If's condition says is known once the inputs that steer have a value. The branch that is
taken then stands in the graph in place of the If, so that its weights are parameters like others.
The file keeps its If: a weight is written back where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import onnx_ir as ir

from graph_init.model.bodies import bodies, is_weight, lift_weights
from graph_init.model.constants import COMPUTED_BY, fold_constants
from graph_init.model.load import LoadedModel, normalise
from graph_init.model.places import PLACE, constants
from graph_init.model.reading import stored


class Fed(Protocol):
    """What is fed; see :class:`graph_init.sizes.Signature`."""

    @property
    def taken(self) -> Mapping[str, bool]: ...


def hold_weights(loaded: LoadedModel) -> bool:
    """Whether any branch of an If holds a float tensor of more than one element."""
    return any(_held(n, {n.name or "": first}) for n in loaded.ir.graph for first in (True, False))


def with_branches(loaded: LoadedModel, fed: Fed) -> LoadedModel:
    """``loaded``, with those branches in place of their Ifs that hold weights and are taken.

    ``fed.taken`` says of an If, by its name, whether its first branch is.
    """
    taken = fed.taken
    wanted = [n for n in loaded.ir.graph if _held(n, taken)]
    if not wanted or loaded.proto.functions:
        return loaded
    model = normalise(loaded.proto, loaded.data)
    while nodes := [n for n in model.graph if _held(n, taken)]:
        for node in nodes:
            _inline(model.graph, node, taken[node.name or ""])
    lift_weights(model.graph)
    fold_constants(model)
    for name, value in model.graph.initializers.items():
        if name not in loaded.ir.graph.initializers and PLACE not in value.meta:
            # Made by nodes of the branch: the file has no tensor to write it to.
            value.meta[COMPUTED_BY] = value.meta.get(COMPUTED_BY) or ("If",)
    return replace(loaded, ir=model, solved={}, fed=fed)


def with_constants(loaded: LoadedModel, names: Iterable[str]) -> LoadedModel:
    """``loaded``, with the tensors of these names that bodies hold as initializers, to be scaled.

    Nothing in the outer graph reads them.
    """
    wanted = set(names) - loaded.ir.graph.initializers.keys()
    if not wanted or loaded.proto.functions:
        return loaded
    model = normalise(loaded.proto, loaded.data)
    for body in bodies(model.graph):
        for value in (*body.initializers.values(), *constants(body)):
            if value.name in wanted and body is not model.graph:
                lifted = ir.Value(name=value.name, type=value.type, const_value=stored(value))
                lifted.meta[PLACE] = value.meta[PLACE]
                model.graph.register_initializer(lifted)
    return replace(loaded, ir=model, solved={})


def _held(node: ir.Node, taken: Mapping[str, bool]) -> bool:
    """Whether an If's branch that is taken holds weights, itself or in an If of its own."""
    if node.op_type != "If" or (node.name or "") not in taken:
        return False
    body = _branch(node, taken[node.name or ""])
    return any(
        is_weight(value)
        for graph in bodies(body)
        for value in (*graph.initializers.values(), *constants(graph))
    )


def _branch(node: ir.Node, first: bool) -> ir.Graph:
    return node.attributes["then_branch" if first else "else_branch"].as_graph()


def _inline(graph: ir.Graph, node: ir.Node, first: bool) -> None:
    """Put the nodes of the branch in place of the If; names are unique in the whole model."""
    body = _branch(node, first)
    results = list(body.outputs)
    initializers = list(body.initializers.values())
    body.outputs.clear()
    body.initializers.clear()
    for value in initializers:
        graph.register_initializer(value)
    inner = list(body)
    body.remove(inner)
    graph.insert_before(node, inner)
    for value, result in zip(node.outputs, results, strict=True):
        # The outputs of the model keep their names.
        link = ir.Node("", "Identity", [result], name=f"{node.name}_{value.name}")
        graph.insert_before(node, link)
        link.outputs[0].name, value.name = value.name, None
        link.outputs[0].type, link.outputs[0].shape = value.type, value.shape
        value.replace_all_uses_with(link.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
