"""Optimisers of the scales, and the loop that runs them."""

from graph_init.tuning.loop import Deviation, Optimizer, TuningResult, tune
from graph_init.tuning.metainit import SignMomentum

__all__ = ["Deviation", "Optimizer", "SignMomentum", "TuningResult", "tune"]
