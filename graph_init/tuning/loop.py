"""The tuning loop: evaluate, step, and remember the best scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graph_init.builder import Array
from graph_init.errors import NumericalError


class Optimizer(Protocol):
    """Turns derivatives into new norms."""

    def step(self, log_scale_gradient: Array, norms: Array) -> Array: ...

    def rest(self) -> None: ...


class Evaluation(Protocol):
    """What the loop reads of an evaluation of gradient deviation."""

    @property
    def loss(self) -> float: ...
    @property
    def gradient_deviation(self) -> float: ...
    @property
    def gradient_norm(self) -> float: ...
    @property
    def vanished_fraction(self) -> float: ...
    @property
    def log_scale_gradient(self) -> Array: ...


@dataclass(frozen=True)
class TuningResult:
    """``scales``: the best factors on the starting tensors, shape (tensors,)."""

    scales: Array
    best_step: int
    history: list[dict[str, Any]]
    interrupted: bool


#: A state with more vanished gradient elements than this (or than the start's share plus the
#: slack) is never taken for the best: deviation tends to 1 where gradients vanish.
_VANISHED_LIMIT = 0.5
_VANISHED_SLACK = 0.1


def tune(
    evaluate: Callable[[Array, int], Evaluation],
    norms: Array,
    optimizer: Optimizer,
    steps: int,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> TuningResult:
    """Take ``steps`` optimiser steps from scales of one; Ctrl-C keeps the best so far.

    ``evaluate(scales, step)`` measures on the batch of that step; ``norms`` are the tensors' norms
    at the start. A step that makes the numbers non-finite is undone and halved. Raises
    NumericalError if the start itself is not finite.
    """
    initial = norms.astype(np.float64)
    current, previous = initial.copy(), initial.copy()
    best, best_step, best_value = np.ones_like(initial), 0, np.inf
    limit = _VANISHED_LIMIT
    history: list[dict[str, Any]] = []
    interrupted = False
    try:
        for number in range(steps):
            scales = current / initial
            found = evaluate(scales, number)
            entry = {
                "step": number,
                "gradient_deviation": found.gradient_deviation,
                "loss": found.loss,
                "gradient_norm": found.gradient_norm,
                "vanished_fraction": found.vanished_fraction,
            }
            finite = bool(
                np.isfinite(found.gradient_deviation)
                and np.isfinite(found.log_scale_gradient).all()
            )
            if number == 0:
                if not finite:
                    raise NumericalError(
                        "gradient deviation is not finite at the start; fill the weights with "
                        "--scheme he first"
                    )
                limit = max(_VANISHED_LIMIT, found.vanished_fraction + _VANISHED_SLACK)
            history.append(entry)
            if on_step is not None:
                on_step(entry)
            if not finite:
                current = (current + previous) / 2
                optimizer.rest()
                continue
            value = found.gradient_deviation
            if value < best_value and found.vanished_fraction <= limit:
                best, best_step, best_value = scales, number, value
            previous = current
            current = optimizer.step(found.log_scale_gradient, current)
    except KeyboardInterrupt:
        interrupted = True
    return TuningResult(best, best_step, history, interrupted)
