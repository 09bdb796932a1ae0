"""A function of leaves and inputs as an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from graph_init.errors import GraphInitError, UnsupportedModelError
from graph_init_jax import batch
from graph_init_jax.batch import Translated
from graph_init_jax.lowering import Graph, Interpreter, Value, known, onnx_type
from graph_init_jax.lowering.graph import is_float, is_key, widened

#: Of the models that are written; ONNX Runtime 1.19 reads both.
OPSET, IR_VERSION = 18, 8


def to_onnx(
    function: Callable[[Sequence[Any], Sequence[Any]], Any],
    leaves: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> onnx.ModelProto:
    """``function(leaves, inputs)``, both as lists, with float leaves as initializers.

    Leaves of other types (counters, keys of random numbers) are constants. Initializers, inputs
    and outputs are called after the places in their pytrees. The first axis of the inputs is free
    (see ``batch.py``) if the function can be traced so, else of the examples' length. Raises
    UnsupportedModelError for what cannot be exported, with its place in the user's code.
    """

    def translate(arrays: Mapping[str, Any]) -> Translated:
        return _translate(function, leaves, arrays)

    weights = [
        numpy_helper.from_array(np.asarray(leaf, widened(leaf.dtype)), name)
        for name, leaf in leaves.items()
        if is_weight(leaf)
    ]
    fixed = translate(inputs)
    found = batch.freed(translate, inputs) or fixed
    proto = helper.make_graph(
        found.nodes,
        "jax",
        [_info(v) for v in found.inputs],
        outputs=[_info(v) for v in found.outputs],
        initializer=[*weights, *found.constants.values()],
    )
    return helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, onnx_type(value.dtype), value.shape)


def _translate(
    function: Callable[[Sequence[Any], Sequence[Any]], Any],
    leaves: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> Translated:
    """The nodes of the function for inputs of just these shapes."""
    spec = [[_spec(v) for v in group.values()] for group in (leaves, inputs)]
    try:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*spec)
    except GraphInitError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedModelError(
            f"JAX cannot trace the model with these examples: {type(error).__name__}: {reason}"
        ) from error
    graph = Graph()
    given = [graph.input(n, tuple(v.shape), widened(v.dtype)) for n, v in inputs.items()]
    weights = [
        graph.input(name, tuple(v.shape), widened(v.dtype)) if is_weight(v) else known(v)
        for name, v in leaves.items()
    ]
    results = Interpreter(graph).run(closed, [*weights, *given])
    places = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]
    ]
    outputs = [
        _named(graph, f"output/{place}" if place else "output", value)
        for place, value in zip(places, results, strict=True)
    ]
    needed, kept = {v.name for v in outputs}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = {n: t for n, t in graph.initializers.items() if n in needed}
    return Translated(kept[::-1], constants, given, outputs)


def is_weight(leaf: Any) -> bool:
    """Whether a leaf is a float, which may be trained."""
    return not is_key(leaf.dtype) and is_float(leaf.dtype)


def _spec(value: Any) -> Any:
    """What the function is traced with: floats of 16 bits are computed in float32."""
    kind = widened(value.dtype) if is_weight(value) else value.dtype
    return jax.ShapeDtypeStruct(value.shape, kind)  # type: ignore[no-untyped-call]


def _named(graph: Graph, name: str, value: Value) -> Value:
    """``value`` in full, under ``name``."""
    whole = graph.full(value)
    graph.nodes.append(helper.make_node("Identity", [graph.reference(whole)], [name], name))
    return Value(value.shape, value.dtype, value.shape, name)
