"""The published tuner: sign descent with momentum on the norms, to lower gradient deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graph_init.analysis import Parameter
from graph_init.deviation.evaluator import Evaluator
from graph_init.ir import Array
from graph_init.options import MetaInit
from graph_init.problem.streams import Source
from graph_init.problem.workload import Workload
from graph_init.tuning.loop import HistoryEntry, OnProgress, OnStep, TuningResult, tune

#: A norm never falls below this share of where it began; the published code has no such floor.
FLOOR = 1e-6


class SignMomentum:
    """m ← 0.9 m − 0.1 sign(∂GD/∂‖θ‖), ‖θ‖ ← ‖θ‖ + m (MetaInit, NeurIPS 2019, algorithm 1)."""

    def __init__(self, learning_rate: float = 0.1, momentum: float = 0.9) -> None:
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._velocity: Array | None = None
        self._floor: Array | None = None

    def step(self, log_scale_gradient: Array, norms: Array) -> Array:
        """New norms from ∂GD/∂log s and the norms, both of shape (tensors,)."""
        if self._velocity is None or self._floor is None:
            self._velocity = np.zeros_like(norms)
            self._floor = FLOOR * norms
        # ∂GD/∂‖θ‖ has the sign of ∂GD/∂log s, since norms are positive.
        self._velocity = self._momentum * self._velocity - self._learning_rate * np.sign(
            log_scale_gradient
        )
        return np.maximum(norms + self._velocity, self._floor)

    def rest(self) -> None:
        """Forget the momentum."""
        self._velocity = None if self._velocity is None else np.zeros_like(self._velocity)


class Descent:
    """MetaInit on an evaluator of gradient deviation and its derivative."""

    def __init__(
        self,
        settings: MetaInit,
        run: Evaluator,
        workload: Workload,
        parameters: Sequence[Parameter],
    ) -> None:
        self._settings, self._run = settings, run

    def __call__(
        self,
        values: Mapping[str, Array],
        source: Source,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
    ) -> TuningResult:
        """Scales for ``values``; the history has an entry for each step."""
        run, own = self._run, self._settings

        def step(entry: HistoryEntry) -> None:
            if on_step is not None:
                on_step(entry)
            if on_progress is not None:
                on_progress("stepping", entry.step + 1, own.steps)

        if on_progress is not None:
            on_progress("stepping", 0, own.steps)
        return tune(
            lambda scales, number: run.step(source.search.batch(number), scales),
            lambda scales, number: run.step(source.select.batch(number), scales),
            run.norms(values),
            optimizer=SignMomentum(own.rate, own.momentum),
            steps=own.steps,
            on_step=step,
        )

    def ready(self) -> None:
        """It needs nothing beside the evaluator."""
