"""Fixtures of several files."""

from __future__ import annotations

import os
import signal
import sys
import zlib
from typing import Any

import numpy as np
import pytest

from graph_init import tuning
from graph_init.problem import batches, forward_graph
from graph_init.tuning import registry

# Read when they are first imported, in whichever test that is.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell that starts the tests in the background ignores SIGINT, and so does what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: The size of the jitter: about what another order of summation changes in float32.
JITTER = 1e-6


def jittered(name: str, values: Any, k: int) -> Any:
    """``values`` times 1 + :data:`JITTER` · N(0, 1), which ``k`` and ``name`` decide.

    What is not float32 is left alone.
    """
    if values.dtype != np.float32:
        return values
    rng = np.random.default_rng([k, zlib.crc32(name.encode())])
    return (values * (1 + JITTER * rng.standard_normal(values.shape))).astype(np.float32)


@pytest.fixture(autouse=True)
def _jitter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``GRAPH_INIT_JITTER=k``, weights that are loaded are jittered, and random batches
    have other seeds: a test that then fails may fail on another processor, too.

    Tests marked ``exact`` are left alone, and so is what runs in another process.
    """
    k = int(os.environ.get("GRAPH_INIT_JITTER") or 0)
    if not k or request.node.get_closest_marker("exact"):
        return
    import graph_init.comparison  # noqa: F401  (else it is imported later, and keeps the jitter)

    load, start = forward_graph.initial_values, batches.RandomBatches.__init__

    def initial_values(loaded: Any) -> dict[str, Any]:
        return {name: jittered(name, a, k) for name, a in load(loaded).items()}

    def init(self: Any, layout: Any, ranges: Any, seed: int) -> None:
        start(self, layout, ranges, seed + 1000 * k)

    for name, module in list(sys.modules.items()):  # some modules import it by name
        if name.startswith("graph_init") and getattr(module, "initial_values", None) is load:
            monkeypatch.setattr(module, "initial_values", initial_values)
    monkeypatch.setattr(batches.RandomBatches, "__init__", init)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> str:
    """An optimizer that draws the factors, from 0.5 to 2: what is tested is what becomes of them.

    The published one keeps factors of 1 for a model that has nothing to mend.
    """

    def prepare(run: Any, workload: Any, parameters: Any) -> Any:
        factors = 2 ** np.random.default_rng(0).uniform(-1, 1, len(run.scaled))
        result = tuning.TuningResult(factors, 0, [], False)
        return lambda values, source, steps, on_step=None: result

    kinds = {**registry.TUNERS, "drawn": registry.TunerSpec(prepare, 0, False)}
    monkeypatch.setattr(registry, "TUNERS", kinds)
    return "drawn"
