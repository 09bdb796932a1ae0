"""A function of variables and inputs as ONNX, for each backend of Keras.

Variables are inputs of what is exported, so that each keeps its name, shape and values whatever the
exporter does (see ``graph_init/frontends/inputs.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graph_init.frontends.inputs import quiet, rename

Array = np.ndarray
Function = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]

#: The operators' version; ONNX Runtime 1.19 reads it.
OPSET = 18

#: The shape of each input, None for an axis of any length.
Axes = Sequence[Sequence[int | None]]


def with_torch(
    function: Function, variables: Mapping[str, Any], inputs: Mapping[str, Array], axes: Axes
) -> onnx.ModelProto:
    """By PyTorch's exporter; axes of any length stay so, if the model can be traced like that."""
    import torch

    count = len(variables)

    class Whole(torch.nn.Module):
        def forward(self, *arrays: Any) -> Any:
            return tuple(function(arrays[:count], arrays[count:]))

    values = [v.value.detach() for v in variables.values()]
    values += [
        torch.tensor(x, device=values[0].device if values else None) for x in inputs.values()
    ]
    free = [
        {k: torch.export.Dim.DYNAMIC for k, size in enumerate(shape) if size is None}
        for shape in axes
    ]
    with quiet("torch.onnx", "onnxscript"), torch.no_grad():
        program = torch.onnx.export(
            Whole(),
            tuple(values),
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=[*variables, *inputs],
            opset_version=OPSET,
            dynamic_shapes=((*([None] * count), *free),),
        )
    assert program is not None
    return program.model_proto


def with_tensorflow(
    function: Function, variables: Mapping[str, Any], inputs: Mapping[str, Array], axes: Axes
) -> onnx.ModelProto:
    """By tf2onnx."""
    import tensorflow as tf
    import tf2onnx

    from graph_init_tensorflow.conversion import OPSET, finished

    count = len(variables)
    # TensorFlow takes few characters in names; the places are told apart by number.
    specs = [
        tf.TensorSpec(v.shape, v.dtype, name=f"variable_{k}")
        for k, v in enumerate(variables.values())
    ]
    specs += [
        tf.TensorSpec(shape, x.dtype, name=f"input_{k}")
        for k, (shape, x) in enumerate(zip(axes, inputs.values(), strict=True))
    ]

    def whole(*arrays: Any) -> Any:
        return tuple(function(arrays[:count], arrays[count:]))

    with quiet("tf2onnx"):
        model, _ = tf2onnx.convert.from_function(
            tf.function(whole, autograph=False), input_signature=specs, opset=OPSET
        )
    names = {spec.name: name for spec, name in zip(specs, [*variables, *inputs], strict=True)}
    rename(model, names)
    return finished(model)


def with_jax(
    function: Function, variables: Mapping[str, Any], inputs: Mapping[str, Array], axes: Axes
) -> onnx.ModelProto:
    """By this project's own translation of JAX; axes after the first have the example's length."""
    from graph_init_jax.translate import to_onnx

    return to_onnx(function, {n: v.value for n, v in variables.items()}, inputs)


#: keras.backend.backend() -> what exports its functions.
EXPORTERS: dict[str, Callable[[Function, Mapping[str, Any], Mapping[str, Array], Axes], Any]] = {
    "torch": with_torch,
    "tensorflow": with_tensorflow,
    "jax": with_jax,
}
