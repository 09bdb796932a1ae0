"""The settings of a comparison: initial states, optimisers, learning rates, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graph_init import options
from graph_init.errors import UsageError, suggestion
from graph_init.training.optimizers import OPTIMIZERS

#: States compared by default, each of them tuned and not.
DEFAULT_SCHEMES = ("keep", "he", "xavier", "orthogonal", "lsuv")

#: Settings of tuners that take longer by default.
BRIEF: Mapping[str, Mapping[str, Any]] = {"metainit": {"steps": 100}}


def tuned_by(
    tuner: str | options.Tuner,
    settings: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
) -> options.Tuner:
    """:func:`graph_init.options.tuner`, brief by default."""
    brief = BRIEF.get(tuner, {}) if isinstance(tuner, str) else {}
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    return options.tuner(tuner, {**brief, **given}, flags)


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        schemes: initial states; by default keep, he, xavier, orthogonal and lsuv.
        tune: each state tuned, too.
        seeds: runs of each state at each rate. A seed decides what a scheme draws, and the order of
            the rows.
        optimizers: of training: sgd (with momentum 0.9), adam.
        learning_rates: one grid for all; by default sgd's 0.003 to 0.3, and a tenth for adam.
        updates: of a run.
        held_out: share of the rows to score on, unless there is a test set.
        on_data: tuning and LSUV see the data; by default random batches.
        tuner: ``restore`` or ``metainit`` (with 100 steps), or one with its settings, such as
            ``graph_init.MetaInit(steps=20)``.
        workers: runs at a time; by default as many as cores.
    """

    schemes: Sequence[str] = ()
    tune: bool = True
    seeds: int = 3
    optimizers: Sequence[str] = tuple(OPTIMIZERS)
    learning_rates: Sequence[float] = ()
    updates: int = 300
    held_out: float = 0.2
    on_data: bool = False
    tuner: str | options.Tuner = options.DEFAULT_TUNER
    workers: int | None = None

    def check(self) -> None:
        """UsageError for what cannot be compared."""
        for option, given, known in (
            ("--scheme", self.schemes, options.SCHEMES),
            ("--train-with", self.optimizers, tuple(OPTIMIZERS)),
        ):
            for name in given:
                if name not in known:
                    raise UsageError(
                        f"{option} is one of {', '.join(known)}, not '{name}'"
                        + suggestion(name, known)
                    )
        for option, number in (
            ("--seeds", self.seeds),
            ("--updates", self.updates),
            ("--workers", self.workers or 1),
        ):
            if number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}")
        _ = self.tuning
        if not 0 < self.held_out < 1:
            raise UsageError(f"--held-out must be a share between 0 and 1, not {self.held_out}")
        for rate in self.learning_rates:
            if not (rate > 0 and np.isfinite(rate)):
                raise UsageError(f"--learning-rate must be positive, not {rate}")

    def states(self) -> list[tuple[str, bool]]:
        """Schemes, and whether they are tuned."""
        return [(s, t) for s in self.schemes for t in ((False, True) if self.tune else (False,))]

    @property
    def tuning(self) -> options.Tuner:
        """The tuner with its settings."""
        return tuned_by(self.tuner)

    def rates(self, optimizer: str) -> tuple[float, ...]:
        """The grid of this optimiser, the same for all states."""
        return tuple(sorted(set(self.learning_rates))) or OPTIMIZERS[optimizer].rates
