"""Initialise TensorFlow's SavedModels.

import graph_init_tensorflow
graph_init_tensorflow.initialize("saved_model", output="initialised")
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

import graph_init
from graph_init.errors import UsageError

__all__ = ["check", "initialize", "measure"]


def initialize(
    model: Any,
    *,
    output: str | os.PathLike[str] | None = None,
    signature: str = "serving_default",
    **options: Any,
) -> graph_init.Initialized:
    """Scale the weights of a SavedModel (a folder, or what ``tf.saved_model.load`` gave).

    The result's ``updated`` is the loaded model with the new values.

    Args:
        model: a folder, or what ``tf.saved_model.load`` gave; the folder is not changed.
        output: a new folder to save the result in.
        signature: the one to call; it says what the inputs are.
        options: those of :func:`graph_init.initialize`.

    Raises:
        UsageError: An option or the data are wrong, or ``output`` exists.
        UnsupportedModelError: An operator cannot be exported, or not be differentiated.
        NumericalError: Numbers are not finite, or a weight no longer fits its type.
    """
    if output is not None and os.path.lexists(output):
        raise UsageError(f"output {os.fspath(output)} exists; name a new folder")
    own = {"signature": signature}
    result = graph_init.initialize(model, export=own, **options)
    if output is not None:
        tf.saved_model.save(result.updated, os.fspath(output), result.updated.signatures)
    return result


def measure(
    model: Any, *, signature: str = "serving_default", **options: Any
) -> graph_init.Measurement:
    """Gradient deviation of a SavedModel as it is; see :func:`graph_init.measure`."""
    return graph_init.measure(model, export={"signature": signature}, **options)


def check(
    model: Any, *, signature: str = "serving_default", **options: Any
) -> graph_init.CheckResult:
    """Which weights of a SavedModel are wrong, and why; see :func:`graph_init.check`."""
    return graph_init.check(model, export={"signature": signature}, **options)
