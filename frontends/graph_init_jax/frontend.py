"""The frontend that ``graph_init.initialize`` finds for models of JAX, Flax and Equinox."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from graph_init.errors import UsageError
from graph_init.frontends import Exported, Tensor
from graph_init.frontends.inputs import unique
from graph_init_jax.models import Functional, functional
from graph_init_jax.translate import is_weight, to_onnx

Array = np.ndarray


def export(
    model: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    params: Any = None,
    vmap: bool | None = None,
) -> Exported:
    """``model`` as ONNX, called with the examples ``args`` and ``kwargs``.

    ``params`` are the parameters of a function (its first argument) and the variables of a Linen
    module. With ``vmap`` the model is called on each row of its positional arguments; that is the
    default for Equinox modules, which take one sample. Arrays among the examples become inputs
    called after the arguments; all else (flags, None) stays what it is. The model is exported in
    evaluation mode where its kind has one (NNX, Equinox). Floats of 16 bits are computed in
    float32.
    """
    found = functional(model, params, vmap)
    inputs, call = _open(found, args, kwargs)
    proto = to_onnx(call, found.leaves, inputs)
    tensors = [
        Tensor(n, np.asarray(v), n not in found.frozen, buffer=n in found.frozen)
        for n, v in found.leaves.items()
        if is_weight(v)
    ]

    def write(values: Mapping[str, Array]) -> Any:
        return found.rebuild({n: _like(v, values.get(n)) for n, v in found.leaves.items()})

    return Exported(proto, tensors, write)


def _like(leaf: Any, new: Array | None) -> Any:
    """``new`` as ``leaf`` is: of its type, where it lies; the leaf itself if it has none."""
    if new is None:
        return leaf
    if not isinstance(leaf, jax.Array):
        return np.asarray(new, leaf.dtype)
    return jax.device_put(np.asarray(new, leaf.dtype), leaf.sharding)


def _open(
    found: Functional, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Sequence[Any], Sequence[Any]], Any]]:
    """The arrays among the examples by name, and the model as a function of leaves and arrays."""
    paths, structure = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs)))
    places = [k for k, (_, value) in enumerate(paths) if _is_array(value)]
    if not places:
        raise UsageError(
            "give an example of what the model is called with: initialize(model, (example,)), "
            "an array of the inputs' shape and type"
        )
    names = _argument_names(found.signature, len(args))
    # An input must not be called like a parameter.
    labels = unique([_input_name(paths[k][0], names) for k in places], found.leaves)

    def call(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
        values = [value for _, value in paths]
        for k, array in zip(places, arrays, strict=True):
            values[k] = array
        given, named = jax.tree_util.tree_unflatten(structure, values)
        return found.call(leaves, given, named)

    return {label: paths[k][1] for label, k in zip(labels, places, strict=True)}, call


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """What ``function`` calls its first ``count`` positional arguments."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain][:count]
    return names + [f"input_{k}" for k in range(len(names), count)]


def _input_name(path: Sequence[Any], names: Sequence[str]) -> str:
    """``x``, or ``x/key`` for an array inside of an argument."""
    which, where, *rest = path
    start = names[where.idx] if which.idx == 0 else str(where.key)
    inside = jax.tree_util.keystr(tuple(rest), simple=True, separator="/")
    return f"{start}/{inside}" if inside else start
