"""A model that ends earlier: at values inside it, without what lay only behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir

from graph_init.model.constants import subgraphs_of
from graph_init.model.load import LoadedModel


def at_values(loaded: LoadedModel, names: Sequence[str]) -> LoadedModel:
    """``loaded`` with the values called ``names`` as its outputs; the file's content stays.

    It is given back as it is if each of them is an output, or if one is no computed value of the
    main graph: that is refused where outputs are chosen, with those that there are.
    """
    known = {v.name for v in loaded.ir.graph.outputs}
    made = {v.name for node in loaded.ir.graph for v in node.outputs}
    if not names or known.issuperset(names) or not made.issuperset(names):
        return loaded
    model = loaded.ir.clone()
    values = {v.name: v for node in model.graph for v in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in names)
    needed = _needed(model.graph)
    for node in reversed(list(model.graph)):
        if node not in needed:
            model.graph.remove(node, safe=True)
    return replace(loaded, ir=model, solved={})


def _needed(graph: onnx_ir.Graph) -> set[onnx_ir.Node]:
    """The nodes that the outputs follow from, also by what bodies of If and Loop read."""
    pending = [v.producer() for v in graph.outputs]
    found: set[onnx_ir.Node] = set()
    while pending:
        node = pending.pop()
        if node is None or node in found:
            continue
        found.add(node)
        pending += [v.producer() for v in node.inputs if v is not None]
        for body in (b for a in node.attributes.values() for b in subgraphs_of(a)):
            pending += [v.producer() for v in body.outputs]
            pending += [v.producer() for n in body.all_nodes() for v in n.inputs if v is not None]
    return found
