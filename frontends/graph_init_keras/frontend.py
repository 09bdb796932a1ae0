"""The frontend that ``graph_init.initialize`` finds for models of Keras 3."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from graph_init.errors import GraphInitError, UnsupportedModelError, UsageError
from graph_init.frontends import Exported, Tensor
from graph_init.frontends.inputs import to_initializers, unique
from graph_init.problem.loss_choice import AUTO
from graph_init_keras.backends import EXPORTERS
from graph_init_keras.losses import stated

Array = np.ndarray

#: Sizes of the example that is made up for axes of any length: the batch, others.
BATCH, SIZE = 16, 32


def export(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exported:
    """``model`` as ONNX, evaluated (``training=False``).

    The inputs come from the model's own signature; a model that has none (a subclass of
    ``keras.Model``, a layer) needs ``args``, the example that it is called with. ``kwargs`` go to
    the call as they are. ``write`` assigns to the model's variables.
    """
    backend = _require_exportable(model)
    trained, others = list(model.trainable_variables), list(model.non_trainable_variables)
    structure, inputs, axes = _inputs(model, args)
    names = unique([v.path for v in [*trained, *others]], inputs)
    variables = dict(zip(names, [*trained, *others], strict=True))

    # Layers inside see that this is no training; some models' own calls do not take the flag.
    if "training" in inspect.signature(model.call).parameters:
        kwargs = {"training": False, **kwargs}

    def function(values: Sequence[Any], arrays: Sequence[Any]) -> Sequence[Any]:
        given = keras.tree.pack_sequence_as(structure, list(arrays))
        split = list(values[: len(trained)]), list(values[len(trained) :])
        result, _ = model.stateless_call(*split, *given, **kwargs)
        outputs: Sequence[Any] = keras.tree.flatten(result)
        return outputs

    try:
        proto = EXPORTERS[backend](function, variables, inputs, axes)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, GraphInitError) and error.__cause__ is None:
            raise  # says itself where it is
        raise _failure(model, error) from error
    arrays = {n: keras.ops.convert_to_numpy(v.value) for n, v in variables.items()}
    tensors = [
        Tensor(n, array, k < len(trained))
        for k, (n, array) in enumerate(arrays.items())
        if keras.backend.is_float_dtype(variables[n].dtype)
    ]

    def write(values: Mapping[str, Array]) -> Any:
        for name, value in values.items():
            variables[name].assign(value)
        return model

    loss, reason = stated(model) or (AUTO, "")
    return Exported(
        to_initializers(proto, arrays),
        tensors,
        write,
        keras.ops.convert_to_numpy,
        loss=loss,
        loss_reason=reason,
    )


def _require_exportable(model: Any) -> str:
    """The backend's name, if it and the model can be exported."""
    backend: str = keras.backend.backend()
    if backend not in EXPORTERS:
        raise UnsupportedModelError(
            f"Keras runs on the backend {backend} here; models can be exported from "
            f"{', '.join(EXPORTERS)}: choose one by KERAS_BACKEND"
        )
    if not isinstance(model, keras.Layer):
        raise UsageError(f"a {type(model).__name__} is not a Keras model")
    if not model.built:
        raise UsageError(
            f"'{model.name}' has no weights yet: call it once on an example, or build it, first"
        )
    return backend


def _inputs(
    model: Any, args: Sequence[Any]
) -> tuple[Any, dict[str, Array], list[tuple[int | None, ...]]]:
    """What the model is called with: its structure, an array for each input, and their axes.

    Axes of any length are those that the model declares so; without a declaration, the first.
    """
    declared = _declared(model)
    if not args and declared is None:
        raise UsageError(
            f"'{model.name}' declares no inputs: give an example of what it is called with, as in "
            "initialize(model, (example,))"
        )
    structure = (declared,) if not args else tuple(args)
    leaves = keras.tree.flatten(structure)
    symbols = keras.tree.flatten(declared) if declared is not None else []
    axes: list[tuple[int | None, ...]]
    if len(symbols) == len(leaves):
        axes = [tuple(s.shape) for s in symbols]
        own = unique([s.name for s in symbols])
    else:
        axes = [(None, *np.shape(leaf)[1:]) if np.ndim(leaf) else () for leaf in leaves]
        own = [f"input_{k}" for k in range(len(leaves))]
    arrays = [_example(s) for s in leaves] if not args else [np.asarray(x) for x in leaves]
    return structure, dict(zip(own, arrays, strict=True)), axes


def _declared(model: Any) -> Any:
    """The model's symbolic inputs in the structure that it is called with, None if it has none."""
    try:
        found = model.input
    except (AttributeError, ValueError):
        found = getattr(model, "inputs", None)
    if isinstance(found, list) and len(found) == 1:
        return found[0]
    return found or None if isinstance(found, list | dict | tuple) else found


def _example(symbol: Any) -> Array:
    sizes = [BATCH if k == 0 else SIZE for k in range(len(symbol.shape))]
    shape = [n if n is not None else size for n, size in zip(symbol.shape, sizes, strict=True)]
    return np.zeros(shape, symbol.dtype)


def _failure(model: Any, error: BaseException) -> UnsupportedModelError:
    """What to say of a failed export: in which layer, and the last cause's first line."""
    layer = None
    reasons = []
    at: BaseException | None = error
    while at is not None:
        for frame, _ in traceback.walk_tb(at.__traceback__):
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.Layer) and owner is not model:
                layer = owner
        reasons.append(f"{type(at).__name__}: {str(at).strip().partition(chr(10))[0]}")
        at = at.__cause__ or at.__context__
    where = f"layer '{layer.path}' ({type(layer).__name__}) of " if layer is not None else ""
    return UnsupportedModelError(
        f"{where}'{model.name}' cannot be exported to ONNX: {reasons[-1]}; the model is unchanged"
    )
