"""Fixtures of several files."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from graph_init import options, tuning
from graph_init.tuning import registry

# Read when they are first imported, in whichever test that is.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell that starts the tests in the background ignores SIGINT, and so does what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tuner that draws the factors, from 0.5 to 2: what is tested is what becomes of them.

    The published one keeps factors of 1 for a model that has nothing to mend.
    """

    class Drawn(options.Tuner):
        name = "drawn"

    def ready(settings: Any, run: Any, workload: Any, parameters: Any) -> Any:
        factors = 2 ** np.random.default_rng(0).uniform(-1, 1, len(run.scaled))
        result = tuning.TuningResult(factors, 0, [], False)
        return lambda values, source, on_step=None: result

    monkeypatch.setitem(options.TUNERS, "drawn", Drawn)
    monkeypatch.setitem(registry.PREPARE, Drawn, ready)
    return "drawn"
