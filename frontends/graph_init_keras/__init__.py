"""Initialise models of Keras 3 in place, on the backends PyTorch, JAX and TensorFlow.

import graph_init_keras
graph_init_keras.initialize_(model)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

import graph_init
from graph_init.frontends.resolve import resolve
from graph_init.problem.data_files import Data

__all__ = ["check", "compare", "export", "initialize_", "measure"]


def initialize_(
    model: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> graph_init.Initialized:
    """Scale the weights of ``model`` in place, so that it trains well.

    Variables that are not trainable are left as they are. If anything fails, nothing of the model
    has changed.

    Args:
        model: has been built.
        args: an example of what it is called with, shapes (rows, …); needed only of a model that
            declares no inputs (a subclass of ``keras.Model``).
        kwargs: the same by keyword.
        options: those of :func:`graph_init.initialize`.

    Raises:
        UsageError: An option, the example or the data are wrong, or the model is not built.
        UnsupportedModelError: A layer cannot be exported, or not be differentiated.
        NumericalError: Numbers are not finite, or a weight no longer fits its type.
    """
    return graph_init.initialize(model, args=args, kwargs=kwargs, **options)


def measure(
    model: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> graph_init.Measurement:
    """Gradient deviation of ``model`` as it is; see :func:`graph_init.measure`."""
    return graph_init.measure(model, args=args, kwargs=kwargs, **options)


def check(
    model: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> graph_init.CheckResult:
    """Which weights of ``model`` are wrong, and why; see :func:`graph_init.check`.

    With ``fix=True`` they are multiplied in place by the factors that findings name.
    """
    return graph_init.check(model, args=args, kwargs=kwargs, **options)


def compare(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    data: Data,
    **options: Any,
) -> graph_init.Comparison:
    """Short training runs from several initial states; ``model`` is left as it is."""
    return graph_init.compare(model, data, args=args, kwargs=kwargs, **options)


def export(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> onnx.ModelProto:
    """``model`` as ONNX, evaluated, with every variable under its own path; also to ``path``."""
    return resolve(model, args, kwargs).onnx(path)
