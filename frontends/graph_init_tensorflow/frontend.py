"""The frontend that ``graph_init.initialize`` finds for a SavedModel, or what was loaded of it.

The signature's variables are frozen into constants by TensorFlow, which keeps their places in the
graph; these are made inputs again before tf2onnx sees them, so that it can neither fold nor
transpose their values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from graph_init.errors import ModelFileError, UnsupportedModelError, UsageError
from graph_init.frontends import Exported, Tensor
from graph_init.frontends.inputs import quiet, rename, to_initializers, unique
from graph_init_tensorflow.conversion import OPSET, finished

Array = np.ndarray


def export(
    model: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    signature: str = "serving_default",
) -> Exported:
    """A signature of ``model`` as ONNX: a SavedModel's folder, or what loading it gave.

    The inputs are the signature's own, so that there is no example. ``write`` assigns to the
    variables of the loaded model, which it returns; the folder stays as it is.
    """
    if args or kwargs:
        raise UsageError("a SavedModel declares its inputs; leave the example out")
    loaded = _load(model)
    function = _signature(loaded, signature)
    names = unique([v.name.partition(":")[0] for v in function.variables], _inputs(function))
    variables = dict(zip(names, function.variables, strict=True))
    proto = _to_onnx(function, variables)
    arrays = {name: v.numpy() for name, v in variables.items()}
    tensors = [
        Tensor(name, arrays[name], bool(v.trainable))
        for name, v in variables.items()
        if v.dtype.is_floating
    ]

    def write(values: Mapping[str, Array]) -> Any:
        for name, value in values.items():
            variables[name].assign(value)
        return loaded

    return Exported(to_initializers(proto, arrays), tensors, write)


def _load(model: Any) -> Any:
    if not isinstance(model, str | os.PathLike):
        return model
    try:
        return tf.saved_model.load(os.fspath(model))
    except Exception as error:
        raise ModelFileError(f"{model} cannot be read as a SavedModel: {error}") from error


def _signature(loaded: Any, name: str) -> Any:
    found = getattr(loaded, "signatures", None)
    if not found:
        raise UsageError(
            f"the {type(loaded).__name__} has no signatures: save it by tf.saved_model.save with "
            "signatures=…, and give the folder"
        )
    if name not in found:
        raise UsageError(f"the SavedModel has no signature '{name}'; it has {', '.join(found)}")
    return found[name]


def _inputs(function: Any) -> list[str]:
    return list(function.structured_input_signature[1])


def _to_onnx(function: Any, variables: Mapping[str, Any]) -> Any:
    """The frozen graph with the variables' constants as inputs, by tf2onnx."""
    frozen = convert_variables_to_constants_v2(function)
    graph = frozen.graph.as_graph_def()
    places = {
        inner.name.partition(":")[0]: next(n for n, v in variables.items() if v.handle is outer)
        for outer, inner in function.graph.captures
        if any(v.handle is outer for v in variables.values())
    }
    nodes = {node.name: node for node in graph.node}
    bound = {place: name for place, name in places.items() if place in nodes}
    for place, name in bound.items():
        nodes[place].Clear()
        nodes[place].name, nodes[place].op = place, "Placeholder"
        nodes[place].attr["dtype"].type = variables[name].dtype.as_datatype_enum
        nodes[place].attr["shape"].shape.CopyFrom(variables[name].shape.as_proto())
    inputs = [tensor.name for tensor in frozen.inputs]
    outputs = [tensor.name for tensor in frozen.outputs]
    try:
        with quiet("tf2onnx"):
            proto, _ = tf2onnx.convert.from_graph_def(
                graph,
                input_names=[*inputs, *(f"{place}:0" for place in bound)],
                output_names=outputs,
                opset=OPSET,
            )
    except Exception as error:
        raise UnsupportedModelError(
            f"tf2onnx cannot convert the signature: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    given = {f"{place}:0": name for place, name in bound.items()}
    given |= {tensor: tensor.partition(":")[0] for tensor in inputs}
    given |= dict(zip(outputs, _outputs(function, outputs), strict=True))
    rename(proto, given)
    return finished(proto)


def _outputs(function: Any, tensors: Sequence[str]) -> list[str]:
    """The signature's own names for its outputs."""
    names = sorted(function.structured_outputs)
    return names if len(names) == len(tensors) else [t.replace(":", "_") for t in tensors]
