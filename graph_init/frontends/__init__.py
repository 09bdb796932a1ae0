"""Models of frameworks: the interface between a framework's package and the core.

A frontend is an object with one method, :meth:`Frontend.export`. It is found by the entry point of
the group :data:`GROUP` whose name is the framework's top-level module: ``torch`` for everything
that inherits from a class of PyTorch. What is the same for all frameworks is done here, once:
matching the exported initializers with the model's own tensors (``correspondence.py``), reading
batches, and writing back (``subject.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir

from graph_init.errors import MissingExtraError
from graph_init.ir import Array

__all__ = ["EXTRAS", "GROUP", "Exported", "Frontend", "Tensor", "find"]

#: The group of entry points; each is named after the top-level module of a framework.
GROUP = "graph_init.frontends"

#: The extra of graph-init with what a framework's frontend needs, by the framework's module.
EXTRAS: Mapping[str, str] = {
    "torch": "torch",
    "keras": "keras",
    "jax": "jax",
    "flax": "jax",
    "equinox": "jax",
    "haiku": "jax",
    "graph_init_jax": "jax",
    "tensorflow": "tensorflow",
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A parameter or buffer, as the framework knows it.

    ``value`` has the framework's own element type (``ml_dtypes`` for those that NumPy lacks) and
    may be a view of the framework's memory. ``trainable`` says whether the framework trains it:
    a buffer, and a parameter that needs no gradient, are not. A tensor that several names refer to
    (tied weights) is given once, with the other names in ``aliases``; ``buffer`` marks those that
    nothing ever trains.
    """

    name: str
    value: Array
    trainable: bool
    aliases: tuple[str, ...] = ()
    buffer: bool = False


def _as_array(leaf: Any) -> Array:
    return np.asarray(leaf)


@dataclass(frozen=True)
class Exported:
    """What a frontend makes of a model; nothing of the framework's model has been changed.

    ``model`` computes what the framework's model does when it is evaluated (dropout off); its
    parameters are initializers, floats of at least 32 bits. An initializer should be called after
    its tensor; where an exporter names, transposes, cuts or packs otherwise, the core finds out.

    ``write`` takes new values by ``Tensor.name``, each with the old shape and element type, puts
    them into the framework's model, and returns that (or a new one where models are immutable).
    ``array`` turns what a batch of data consists of into NumPy.

    ``output_name`` is the output that the loss reads unless the user names one; ``loss`` is what
    the framework knows of the loss on it, and ``loss_reason`` says from where, in a sentence; where
    it knows nothing (``auto``), the exported graph decides. ``dims`` and ``batch_size`` are the
    sizes of symbolic dimensions in the example, unless the user gives them.
    """

    model: onnx.ModelProto | onnx_ir.Model
    tensors: Sequence[Tensor]
    write: Callable[[Mapping[str, Array]], Any]
    array: Callable[[Any], Array] = _as_array
    output_name: str | None = None
    loss: str = "auto"
    loss_reason: str = "the frontend knows it"
    dims: Mapping[str, int] = field(default_factory=dict)
    batch_size: int | None = None


class Frontend(Protocol):
    """What an entry point of :data:`GROUP` names: an object or a module."""

    def export(
        self,
        model: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        **options: Any,
    ) -> Exported:
        """``model`` as ONNX, called as ``model(*args, **kwargs)`` with these examples.

        ``options`` are the frontend's own. ``model`` is left as it was, whatever happens. Raises
        :class:`UnsupportedModelError` naming the part of the model that cannot be exported, and
        :class:`UsageError` for wrong arguments.
        """
        ...


def find(model: Any) -> Frontend | None:
    """The frontend for ``model``: that of the first of its classes which belongs to a framework.

    The folder of a SavedModel belongs to TensorFlow. None if no class does. Only a framework that
    is there already (the model is one of its objects) is imported, and TensorFlow for its folders.
    Raises :class:`MissingExtraError` if its frontend cannot be.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    modules = [kind.__module__ for kind in type(model).__mro__]
    for module in ["tensorflow"] if is_saved_model(model) else modules:
        framework = module.partition(".")[0]
        entry = installed.get(framework)
        if entry is None and framework not in EXTRAS:
            continue
        extra = EXTRAS.get(framework)
        remedy = f"; run: pip install 'graph-init[{extra}]'" if extra else ""
        if entry is None:
            raise MissingExtraError(f"no frontend for {framework} is installed{remedy}")
        try:
            found: Frontend = entry.load()
        except ImportError as error:
            raise MissingExtraError(
                f"the frontend for {framework} cannot be imported: {error}{remedy}"
            ) from error
        return found
    return None


def is_saved_model(model: Any) -> bool:
    """Whether ``model`` is the path of a folder that TensorFlow has saved a model in."""
    if not isinstance(model, str | os.PathLike):
        return False
    try:
        return any((Path(model) / f"saved_model.{kind}").is_file() for kind in ("pb", "pbtxt"))
    except OSError:  # a name that is too long
        return False
