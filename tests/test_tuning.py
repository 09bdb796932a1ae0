"""The optimisers, and the tuning loop on synthetic evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import graph_init
from graph_init import options, tuning
from graph_init.errors import NumericalError, UsageError
from tests import small_models


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("metaint", {}, "did you mean 'metainit'"),
        ("signal", {}, "did you mean 'restore'"),
        ("restore", {"steps": 3}, "--steps belongs to --tuner metainit; restore.* has --updates"),
        ("metainit", {"updates": 3}, "--updates belongs to --tuner restore"),
        ("restore", {"rate": 0.1}, "--rate belongs to --tuner metainit"),
        ("metainit", {"rate": 0}, "--rate must be positive, not 0"),
        ("metainit", {"momentum": 1}, "--momentum must be below 1, not 1"),
        ("restore", {"updates": -1}, "--updates must be at least 0, not -1"),
        (options.Restore(), {"updates": 3}, r"write Restore\(updates=3\)"),
    ],
)
def test_what_a_tuner_cannot_be_comes_with_advice(
    name: Any, settings: dict[str, int], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        options.tuner(name, settings)


def test_a_setting_that_is_not_given_is_the_default() -> None:
    assert options.tuner("metainit", {"steps": None, "updates": None}) == options.MetaInit(500)


@dataclass
class Evaluation:
    gradient_deviation: float
    vanished_fraction: float = 0.0
    loss: float = 1.0
    gradient_norm: float = 1.0
    log_scale_gradient: Any = field(default_factory=lambda: np.ones(2))


def test_sign_steps_have_momentum() -> None:
    optimizer = tuning.SignMomentum()
    norms = optimizer.step(np.array([2.0, -3.0]), np.array([5.0, 5.0]))
    assert norms == pytest.approx([4.9, 5.1])
    norms = optimizer.step(np.array([1.0, 1.0]), norms)
    assert norms == pytest.approx([4.9 - 0.19, 5.1 - 0.01])


def test_rate_and_momentum_are_those_of_the_steps() -> None:
    def met(**settings: float) -> tuple[graph_init.Initialized, list[float | None]]:
        result = graph_init.initialize(
            small_models.plain_cnn(2), batch_size=2, tuner=graph_init.MetaInit(steps=3, **settings)
        )
        return result, [entry.gradient_deviation for entry in result.history]

    usual, faster, (found, slower) = met()[1], met(rate=0.5)[1], met(momentum=0.0)
    assert usual[0] == faster[0] and usual[1] != faster[1]
    assert usual[:2] == slower[:2] and usual[2] != slower[2]
    assert (found.settings["rate"], found.settings["momentum"]) == (0.1, 0.0)
    assert found.provenance["graph_init.momentum"] == "0.0"


def test_norms_stay_positive() -> None:
    optimizer, norms = tuning.SignMomentum(), np.array([0.25])
    for _ in range(20):
        norms = optimizer.step(np.ones(1), norms)
    assert 0 < norms[0] < 1e-5


def tune(evaluate: Any, steps: int) -> Any:
    """From norms of 5, the same deviation on batches to search and to select on."""
    return tuning.tune(evaluate, evaluate, np.array([5.0, 5.0]), tuning.SignMomentum(), steps=steps)


def test_best_is_kept_not_last() -> None:
    """The lowest deviation is where the first norm is 4.5; the steps go far beyond."""
    result = tune(lambda s, n: Evaluation(abs(5 * s[0] - 4.5)), steps=30)
    assert abs(5 * result.scales[0] - 4.5) < 0.2
    assert len(result.history) == 30


def test_vanishing_does_not_win() -> None:
    """Deviation falls with the norm, but beyond 4.5 the gradient is gone."""
    result = tune(lambda s, n: Evaluation(s[0], 0.9 if s[0] < 0.9 else 0.1), steps=30)
    assert 0.9 <= result.scales[0] < 1


def test_a_lucky_batch_does_not_win() -> None:
    """One batch of the search shows a very low number; on those to select on it is the worst."""
    seen: dict[int, float] = {}

    def search(scales: Any, number: int) -> Evaluation:
        seen[number] = scales[0]
        return Evaluation(0.0 if number == 3 else scales[0])

    def select(scales: Any, number: int) -> Evaluation:
        return Evaluation(scales[0] + (scales[0] == seen[3]))

    result = tuning.tune(search, select, np.array([5.0, 5.0]), tuning.SignMomentum(), steps=8)
    assert result.best_step not in (0, 3)


def test_non_finite_start_is_an_error_and_later_ones_are_undone() -> None:
    with pytest.raises(NumericalError):
        tune(lambda s, n: Evaluation(np.nan), steps=3)
    result = tune(lambda s, n: Evaluation(s[0] if s[0] > 0.95 else np.inf), steps=20)
    assert 0.95 < result.scales[0] < 1
