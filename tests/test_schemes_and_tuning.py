"""Schemes in distribution, and the tuning loop on synthetic evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import graph_init
from graph_init import schemes, tuning
from graph_init.errors import NumericalError, UsageError
from graph_init.parameters import Parameter
from tests.small_models import plain_cnn


def parameters(channels: int = 64) -> tuple[list[Parameter], dict[str, Any]]:
    found = graph_init.inspect(plain_cnn(3, channels=channels)).parameters
    return found, {p.name: np.full(p.shape, 0.5, np.float32) for p in found}


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [("he", np.sqrt(2 / (64 * 9))), ("xavier", np.sqrt(2 / (64 * 9 * 2)))],
)
def test_scheme_has_the_formulas_deviation(scheme: str, deviation: float) -> None:
    found, values = parameters()
    new = schemes.fill(found, values, scheme, 0)
    assert set(new) == {"w0", "w1", "w2", "head"}
    assert new["w1"].std() == pytest.approx(deviation, rel=0.02)
    assert abs(new["w1"].mean()) < deviation / 50
    assert new["w1"].dtype == np.float32
    reordered = schemes.fill(found[::-1], values, scheme, 0)
    assert all((new[n] == reordered[n]).all() for n in new)
    assert (schemes.fill(found, values, scheme, 1)["w1"] != new["w1"]).any()


def test_keep_fills_nothing_and_placeholders_become_neutral() -> None:
    found, values = parameters(8)
    assert schemes.fill(found, values, "keep", 0) == {}
    assert schemes.constant_weights(found, values) == ["w0", "w1", "w2", "head"]
    new = schemes.fill(found, values, "he", 0, placeholders=True)
    assert (new["b0"] == 0).all()


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'xavier'"):
        schemes.fill([], {}, "xaver", 0)
    with pytest.raises(UsageError, match="did you mean 'sign'"):
        tuning.create("sing")


@dataclass
class Evaluation:
    gradient_deviation: float
    vanished_fraction: float = 0.0
    loss: float = 1.0
    gradient_norm: float = 1.0
    log_scale_gradient: Any = field(default_factory=lambda: np.ones(2))


def test_sign_steps_have_momentum() -> None:
    optimizer = tuning.Sign()
    norms = optimizer.step(np.array([2.0, -3.0]), np.array([5.0, 5.0]))
    assert norms == pytest.approx([4.9, 5.1])
    norms = optimizer.step(np.array([1.0, 1.0]), norms)
    assert norms == pytest.approx([4.9 - 0.19, 5.1 - 0.01])


def test_norms_stay_positive() -> None:
    optimizer, norms = tuning.Sign(), np.array([0.25])
    for _ in range(20):
        norms = optimizer.step(np.ones(1), norms)
    assert 0 < norms[0] < 1e-5


def test_best_is_kept_not_last() -> None:
    """The lowest deviation is where the first norm is 4.5; the steps go far beyond."""
    norms = np.array([5.0, 5.0])
    result = tuning.tune(
        lambda s, n: Evaluation(abs(5 * s[0] - 4.5)), norms, tuning.Sign(), steps=30
    )
    assert abs(5 * result.scales[0] - 4.5) < 0.2
    assert len(result.history) == 30


def test_vanishing_does_not_win() -> None:
    """Deviation falls with the norm, but beyond 4.5 the gradient is gone."""
    result = tuning.tune(
        lambda s, n: Evaluation(s[0], 0.9 if s[0] < 0.9 else 0.1),
        np.array([5.0, 5.0]),
        tuning.Sign(),
        steps=30,
    )
    assert 0.9 <= result.scales[0] < 1


def test_a_lucky_batch_does_not_win() -> None:
    """One training batch shows a very low number; on the common batches it is the worst."""
    seen: dict[int, float] = {}

    def evaluate(scales: Any, number: int) -> Evaluation:
        if number >= 0:
            seen[number] = scales[0]
        return Evaluation(0.0 if number == 3 else scales[0] + (scales[0] == seen.get(3)))

    result = tuning.tune(evaluate, np.array([5.0, 5.0]), tuning.Sign(), steps=8)
    assert result.best_step not in (0, 3)


def test_non_finite_start_is_an_error_and_later_ones_are_undone() -> None:
    with pytest.raises(NumericalError):
        tuning.tune(lambda s, n: Evaluation(np.nan), np.ones(2), tuning.Sign(), steps=3)
    result = tuning.tune(
        lambda s, n: Evaluation(s[0] if s[0] > 0.95 else np.inf),
        np.array([5.0, 5.0]),
        tuning.Sign(),
        steps=20,
    )
    assert 0.95 < result.scales[0] < 1
