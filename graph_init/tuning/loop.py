"""The tuning loop: evaluate, step, and remember the best scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graph_init.deviation.result import finite as number_or_none
from graph_init.errors import NumericalError
from graph_init.ir import Array


class Optimizer(Protocol):
    """Turns derivatives into new norms."""

    def step(self, log_scale_gradient: Array, norms: Array) -> Array: ...

    def rest(self) -> None: ...


class Deviation(Protocol):
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
class HistoryEntry:
    """A step of the descent, or a state that was tried, measured on one batch.

    Attributes:
        step: its number, from 0.
        gradient_deviation: None, here and below, if the number is not finite.
        loss: on the batch.
        gradient_norm: over all trainable elements.
        vanished_fraction: share of the elements whose gradient is below ε.
        state: what was tried, in words; None for a step.
        trial_loss: at the end of the best trial of the state; None if no trial stayed finite.
    """

    step: int
    gradient_deviation: float | None
    loss: float | None
    gradient_norm: float | None
    vanished_fraction: float | None
    state: str | None = None
    trial_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields; a step has neither ``state`` nor ``trial_loss``."""
        content = dict(vars(self))
        if self.state is None:
            del content["state"], content["trial_loss"]
        return content


#: Receives each entry of the history.
OnStep = Callable[[HistoryEntry], None]
#: Receives what is being done, how much of it is done, and how much there is.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TuningResult:
    """``scales``: the best factors on the starting tensors, shape (tensors,).

    ``best_step`` is the number of the history's entry that they belong to.
    """

    scales: Array
    best_step: int
    history: list[HistoryEntry]
    interrupted: bool


#: The states with the lowest deviation are measured again, on batches common to all of them: one
#: batch's number is noisy, and the lowest of many noisy ones is mostly luck.
_FINALISTS = 3
_FINAL_BATCHES = 2

#: (scales, number of the batch) → an evaluation on that batch of a stream.
Evaluate = Callable[[Array, int], Deviation]

#: Of the gradient elements that have not vanished at the start, at most this share may vanish; a
#: state beyond that is never taken for the best, since deviation tends to 1 where gradients vanish.
_MAY_VANISH = 0.5


def tune(
    search: Evaluate,
    select: Evaluate,
    norms: Array,
    optimizer: Optimizer,
    steps: int,
    on_step: OnStep | None = None,
) -> TuningResult:
    """Take ``steps`` optimiser steps from scales of one; Ctrl-C keeps the best so far.

    ``search`` measures on the batch of each step, ``select`` on those that the best of the states
    met is chosen by; ``norms`` are the tensors' norms at the start. A step that makes the numbers
    non-finite is undone and halved. Raises NumericalError if the start itself is not finite.
    """
    initial = norms.astype(np.float64)
    current, previous = initial.copy(), initial.copy()
    finalists: list[tuple[float, int, Array]] = []
    limit = 1.0
    history: list[HistoryEntry] = []
    interrupted = False
    try:
        for number in range(steps):
            scales = np.divide(current, initial, out=np.ones_like(initial), where=initial > 0)
            found = search(scales, number)
            entry = HistoryEntry(
                step=number,
                gradient_deviation=number_or_none(found.gradient_deviation),
                loss=number_or_none(found.loss),
                gradient_norm=number_or_none(found.gradient_norm),
                vanished_fraction=number_or_none(found.vanished_fraction),
            )
            finite = bool(
                np.isfinite(found.gradient_deviation)
                and np.isfinite(found.log_scale_gradient).all()
            )
            if number == 0:
                if not finite:
                    raise NumericalError(
                        "gradient deviation or its derivative is not finite at the start; fill "
                        "the weights with --scheme he first"
                    )
                limit = found.vanished_fraction + _MAY_VANISH * (1 - found.vanished_fraction)
            history.append(entry)
            if on_step is not None:
                on_step(entry)
            if not finite:
                current = (current + previous) / 2
                optimizer.rest()
                continue
            if found.vanished_fraction <= limit:
                finalists.append((found.gradient_deviation, number, scales))
                finalists = sorted(finalists, key=lambda f: f[:2])[:_FINALISTS]
            previous = current
            current = optimizer.step(found.log_scale_gradient, current)
    except KeyboardInterrupt:
        interrupted = True
    best_step, best = _judge(select, finalists) or (0, np.ones_like(initial))
    return TuningResult(best, best_step, history, interrupted)


def _judge(select: Evaluate, finalists: list[tuple[float, int, Array]]) -> tuple[int, Array] | None:
    """The step and scales of the finalist with the lowest mean over the common batches."""
    if len(finalists) < 2:
        return finalists[0][1:] if finalists else None
    means = [
        np.mean([select(scales, n).gradient_deviation for n in range(_FINAL_BATCHES)])
        for _, _, scales in finalists
    ]
    return finalists[int(np.nanargmin(means))][1:] if np.isfinite(means).any() else None
