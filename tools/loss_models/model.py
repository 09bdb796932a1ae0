"""What a line of the table is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graph_init.problem.loss_choice import BINARY, CLASSES, SQUARES

CE, BCE, MSE = CLASSES, BINARY, SQUARES
#: A model, and the arguments that it is called with.
Subject = tuple[Any, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """``build`` gives what :func:`graph_init.measure` takes, and how it is called (None: a file).

    ``expected`` is the loss that the authors train with, or the nearest of the three. Models with
    ``aside`` were set aside before the rules were tuned. ``file`` exports with torch.onnx.export;
    otherwise the frontend does, unless it is ``given``: a file that others wrote. ``why`` explains
    an error.
    """

    name: str
    expected: str
    build: Callable[[], Subject]
    file: bool = False
    aside: bool = False
    why: str = ""
    given: bool = False
