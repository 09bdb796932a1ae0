"""Initialise models of JAX: functions with a pytree of parameters, Flax Linen and NNX, Equinox.

import graph_init_jax
result = graph_init_jax.initialize(function, params, (example,))     # or Linen: module, variables
params = result.updated
result = graph_init_jax.initialize(equinox_module, (example,))       # result.updated is a new one
graph_init_jax.initialize_(nnx_module, (example,))                   # in place
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

import graph_init
from graph_init.errors import UsageError
from graph_init.frontends import find
from graph_init.frontends.resolve import resolve
from graph_init.problem.data_files import Data
from graph_init_jax.models import Function

__all__ = ["Function", "check", "compare", "export", "initialize", "initialize_", "measure"]


def initialize(
    model: Any,
    params: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    vmap: bool | None = None,
    **options: Any,
) -> graph_init.Initialized:
    """Scale the weights of ``model``, so that it trains well; the result's ``updated`` has them.

    ``model`` is a function of its parameters and inputs, or a Linen module, followed by ``params``
    (for Linen all variables, as ``module.init`` gives them); or an NNX or Equinox module, which
    holds its own: ``initialize(module, (example,))``. ``updated`` is what held the parameters,
    with new arrays in the same structure; nothing that was given is changed.

    Args:
        model: as above.
        params: its parameters, a pytree of arrays; left out where the model holds its own.
        args: an example of what the model is called with (after ``params``); shapes (rows, …) and
            types count, and ``jax.ShapeDtypeStruct`` will do.
        kwargs: the same by keyword.
        vmap: call the model on each row of ``args``; the default for Equinox modules.
        options: those of :func:`graph_init.initialize`.

    Raises:
        UsageError: An option, the example or the data are wrong.
        UnsupportedModelError: A primitive of JAX has no rule, or cannot be differentiated.
        NumericalError: Numbers are not finite, or a weight no longer fits its type.
    """
    model, args = _whole(model, params, args)
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        model = nnx.clone(model)
    return graph_init.initialize(model, args=args, kwargs=kwargs, export={"vmap": vmap}, **options)


def initialize_(
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    vmap: bool | None = None,
    **options: Any,
) -> graph_init.Initialized:
    """As :func:`initialize`, but an NNX module is changed in place, and nothing if that fails."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(module, nnx.Module):
        raise UsageError(
            f"a {type(module).__name__} cannot be changed in place, only Flax NNX modules can: use "
            "initialize, whose result's .updated is the new one"
        )
    return graph_init.initialize(module, args=args, kwargs=kwargs, export={"vmap": vmap}, **options)


def measure(
    model: Any,
    params: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    vmap: bool | None = None,
    **options: Any,
) -> graph_init.Measurement:
    """Gradient deviation of ``model`` as it is; see :func:`initialize` for what it is given."""
    model, args = _whole(model, params, args)
    return graph_init.measure(model, args=args, kwargs=kwargs, export={"vmap": vmap}, **options)


def check(
    model: Any,
    params: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    vmap: bool | None = None,
    **options: Any,
) -> graph_init.CheckResult:
    """Which weights are wrong, and why; see :func:`graph_init.check`, and :func:`initialize`.

    With ``fix=True`` the result's ``updated`` has them multiplied by the findings' factors.
    """
    model, args = _whole(model, params, args)
    return graph_init.check(model, args=args, kwargs=kwargs, export={"vmap": vmap}, **options)


def compare(
    model: Any,
    params: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    data: Data,
    vmap: bool | None = None,
    **options: Any,
) -> graph_init.Comparison:
    """Short training runs from several initial states; see :func:`graph_init.compare`."""
    model, args = _whole(model, params, args)
    own = {"vmap": vmap}
    return graph_init.compare(model, data, args=args, kwargs=kwargs, export=own, **options)


def export(
    model: Any,
    params: Any = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    vmap: bool | None = None,
) -> onnx.ModelProto:
    """``model`` as ONNX, with every parameter named after its place; also to ``path``."""
    model, args = _whole(model, params, args)
    return resolve(model, args, kwargs, {"vmap": vmap}).onnx(path)


def _whole(model: Any, params: Any, args: Sequence[Any] | None) -> tuple[Any, Sequence[Any]]:
    """The model with its parameters, and the examples.

    Of modules that hold their parameters the examples come second.
    """
    if args is None and isinstance(params, tuple | list):
        params, args = None, params
    held = params is None and find(model) is not None
    return model if held else Function(model, params), () if args is None else args
