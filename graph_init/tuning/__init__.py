"""Optimisers of the scales, and the loop that runs them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from graph_init.errors import UsageError
from graph_init.tuning.loop import Evaluation, Optimizer, TuningResult, tune
from graph_init.tuning.sign import Sign

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sign": Sign}


def create(name: str) -> Optimizer:
    """A new optimiser; UsageError for an unknown name."""
    if name not in OPTIMIZERS:
        near = get_close_matches(name, OPTIMIZERS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--optimizer {name}: choose one of {', '.join(OPTIMIZERS)}{hint}")
    return OPTIMIZERS[name]()


__all__ = ["OPTIMIZERS", "Evaluation", "Optimizer", "Sign", "TuningResult", "create", "tune"]
