"""Exports functions with their parameters as inputs, so that each parameter keeps its name.

A frontend that can export ``f(parameters, inputs)`` loses nothing: no exporter renames, folds or
rearranges an input. :func:`to_initializers` turns these inputs into initializers afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_init.ir import Array

_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def to_initializers(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """``model``, changed, with the inputs that are called as ``values`` as initializers.

    Floats of 16 bits become initializers of 32, from which the graph casts.
    """
    graph = model.graph
    bound = [v for v in graph.input if v.name in values]
    free = [v for v in graph.input if v.name not in values]
    casts = []
    for entry in bound:
        array, kind = values[entry.name], entry.type.tensor_type.elem_type
        if kind in _NARROW:
            array = array.astype(np.float32)
            casts.append(helper.make_node("Cast", [entry.name], [f"{entry.name}:narrow"], to=kind))
        array = np.ascontiguousarray(array).reshape(array.shape)
        graph.initializer.append(numpy_helper.from_array(array, entry.name))
    rename(model, {node.input[0]: node.output[0] for node in casts}, inside=True)
    nodes = [*casts, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend(free)
    graph.node.extend(nodes)
    return model


def rename(model: onnx.ModelProto, names: Mapping[str, str], inside: bool = False) -> None:
    """Call tensors otherwise, in loops too; ``inside``: not the model's inputs and outputs."""
    for node in _nodes(model.graph):
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    if not inside:
        for value in [*model.graph.input, *model.graph.output]:
            value.name = names.get(value.name, value.name)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def unique(names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """``names``, with a number after those met before, or in ``taken``."""
    seen, result = set(taken), []
    for name in names:
        chosen, count = name, 1
        while chosen in seen:
            count += 1
            chosen = f"{name}#{count}"
        seen.add(chosen)
        result.append(chosen)
    return result


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Without what exporters log of their progress and of rewrites that do not apply."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
