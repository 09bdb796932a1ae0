"""What the loss that a Keras model was compiled with is called here."""

from __future__ import annotations

import re
from typing import Any

_CLASSES, _BINARY, _SQUARES = "cross-entropy", "binary-cross-entropy", "mse"

#: Keras' names, in lower case and without separators: the same loss, or the nearest one.
_LOSSES = {
    "categoricalcrossentropy": _CLASSES,
    "sparsecategoricalcrossentropy": _CLASSES,
    "categoricalfocalcrossentropy": _CLASSES,
    "ctc": _CLASSES,
    "binarycrossentropy": _BINARY,
    "binaryfocalcrossentropy": _BINARY,
    "bce": _BINARY,
    "meansquarederror": _SQUARES,
    "meanabsoluteerror": _SQUARES,
    "meanabsolutepercentageerror": _SQUARES,
    "meansquaredlogarithmicerror": _SQUARES,
    "mse": _SQUARES,
    "mae": _SQUARES,
    "mape": _SQUARES,
    "msle": _SQUARES,
    "huber": _SQUARES,
    "logcosh": _SQUARES,
}


def stated(model: Any) -> tuple[str, str] | None:
    """The loss of ``model``'s first output, and a sentence; None if it is not compiled with one.

    None too for a loss of the user's own.
    """
    compiled = getattr(model, "loss", None)
    if isinstance(compiled, dict):
        names = [n for n in getattr(model, "output_names", None) or () if n in compiled]
        compiled = compiled[names[0]] if names else None
    elif isinstance(compiled, list | tuple):
        compiled = compiled[0] if compiled else None
    if compiled is None:
        return None
    name = compiled if isinstance(compiled, str) else _name(compiled)
    kind = _LOSSES.get(re.sub("[^a-z]", "", name.lower()))
    return None if kind is None else (kind, f"the model is compiled with {name}")


def _name(compiled: Any) -> str:
    """That of a function, else of the object's class."""
    return str(getattr(compiled, "__name__", type(compiled).__name__))
