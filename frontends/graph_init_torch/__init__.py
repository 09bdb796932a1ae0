"""Initialise PyTorch modules in place.

import graph_init_torch
graph_init_torch.initialize_(module, (example,), loss="cross-entropy")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from torch import nn

import graph_init
from graph_init.frontends.resolve import resolve
from graph_init.problem.data_files import Data
from graph_init_torch.weights import save_safetensors

__all__ = ["check", "compare", "export", "initialize_", "measure", "save_safetensors"]


def initialize_(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> graph_init.Initialized:
    """Scale the weights of ``module`` in place, so that it trains well.

    Parameters that need no gradient, and buffers, are left as they are. If anything fails, nothing
    of the module has changed.

    Args:
        module: is exported from a copy, on the CPU and evaluated.
        args: an example of what it is called with; shapes and types count, values do not. Rows are
            the batch.
        kwargs: the same by keyword.
        dynamic_shapes: that of ``torch.export.export``; by default the number of rows is free.
        options: those of :func:`graph_init.initialize`; ``loss`` may also be one of PyTorch's
            losses.

    Raises:
        UsageError: An option, the example or the data are wrong.
        UnsupportedModelError: A submodule cannot be exported, or not be differentiated.
        NumericalError: Numbers are not finite, or a weight no longer fits its type.
    """
    own = _options(dynamic_shapes, options)
    return graph_init.initialize(module, args=args, kwargs=kwargs, **own)


def measure(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> graph_init.Measurement:
    """Gradient deviation of ``module`` as it is; see :func:`graph_init.measure`."""
    own = _options(dynamic_shapes, options)
    return graph_init.measure(module, args=args, kwargs=kwargs, **own)


def check(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    **options: Any,
) -> graph_init.CheckResult:
    """Which weights of ``module`` are wrong, and why; see :func:`graph_init.check`.

    With ``fix=True`` they are multiplied in place by the factors that findings name.
    """
    own = _options(dynamic_shapes, options)
    return graph_init.check(module, args=args, kwargs=kwargs, **own)


def compare(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    data: Data,
    dynamic_shapes: Any = None,
    **options: Any,
) -> graph_init.Comparison:
    """Short training runs from several initial states; see :func:`graph_init.compare`.

    ``module`` is left as it is.
    """
    own = _options(dynamic_shapes, options)
    return graph_init.compare(module, data, args=args, kwargs=kwargs, **own)


def export(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    dynamic_shapes: Any = None,
) -> onnx.ModelProto:
    """``module`` as ONNX, evaluated, with every parameter under its own name; also to ``path``."""
    subject = resolve(module, args, kwargs, {"dynamic_shapes": dynamic_shapes})
    return subject.onnx(path)


#: Losses of PyTorch, by class, that mean one of graph-init's.
_LOSSES: Mapping[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross-entropy",
    nn.NLLLoss: "cross-entropy",
    nn.BCEWithLogitsLoss: "binary-cross-entropy",
    nn.BCELoss: "binary-cross-entropy",
    nn.MSELoss: "mse",
}


def _options(dynamic_shapes: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(options)
    for kind, name in _LOSSES.items():
        if type(given.get("loss")) is kind:
            given["loss"] = name
    return {**given, "export": {"dynamic_shapes": dynamic_shapes}}
