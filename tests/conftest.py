"""Fixtures of several files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import jitter, torchlib

jitter.install()  # before anything of graph_init is imported
if jitter.amount():  # for fixtures of modules, and what they start
    os.environ.setdefault(jitter.SHIFT, str(1000 * jitter.amount()))
    os.environ["PYTHONPATH"] = jitter.python_path()

from graph_init import options, tuning
from graph_init.tuning import registry

# Read when they are first imported, in whichever test that is.
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A shell that starts the tests in the background ignores SIGINT, and so does what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is noted of written files goes to a folder of the tests, not to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _torchlib() -> None:
    torchlib.keep()


@pytest.fixture(autouse=True)
def _jitter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other roundings and seeds, if ``GRAPH_INIT_JITTER`` asks for them; see ``tests.jitter``.

    A test that is marked ``exact`` has neither, one that is marked ``seeded`` no other seeds.
    """
    exact = request.node.get_closest_marker("exact")
    if exact:
        monkeypatch.delenv(jitter.NOISE, raising=False)
    if exact or request.node.get_closest_marker("seeded"):
        monkeypatch.delenv(jitter.SHIFT, raising=False)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tuner that draws the factors, from 0.5 to 2: what is tested is what becomes of them.

    The published one keeps factors of 1 for a model that has nothing to mend.
    """

    class Drawn(options.Tuner):
        name = "drawn"

    class Ready:
        def __init__(self, settings: Any, run: Any, workload: Any, parameters: Any) -> None:
            factors = 2 ** np.random.default_rng(0).uniform(-1, 1, len(run.scaled))
            self._result = tuning.TuningResult(factors, 0, [], False)

        def __call__(self, *given: Any) -> tuning.TuningResult:
            return self._result

        def ready(self) -> None: ...

    monkeypatch.setitem(options.TUNERS, "drawn", Drawn)
    monkeypatch.setitem(registry.PREPARE, Drawn, Ready)
    return "drawn"
