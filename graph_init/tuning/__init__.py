"""Optimisers of the scales, and the loop that runs them."""

from graph_init.tuning.loop import Evaluation, Optimizer, TuningResult, tune
from graph_init.tuning.sign import Sign

__all__ = ["Evaluation", "Optimizer", "Sign", "TuningResult", "tune"]
