"""What has to hold after a frontend has initialised a model, in any framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import graph_init
from graph_init import tuners, tuning

Array = np.ndarray


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> str:
    """An optimizer that draws the factors, from 0.5 to 2: what is tested is what becomes of them.

    The published one keeps factors of 1 for a model that has nothing to mend.
    """

    def prepare(run: Any, workload: Any, parameters: Any) -> Any:
        factors = 2 ** np.random.default_rng(0).uniform(-1, 1, len(run.scaled))
        result = tuning.TuningResult(factors, 0, [], False)
        return lambda values, source, steps, on_step=None: result

    kinds = {**tuners.TUNERS, "drawn": tuners.Kind(prepare, 0, False)}
    monkeypatch.setattr(tuners, "TUNERS", kinds)
    return "drawn"


def assert_scaled(
    before: Mapping[str, Array], after: Mapping[str, Array], scales: Mapping[str, float]
) -> None:
    """Names, shapes and types are as before; each tensor is its old value times one factor."""
    assert list(before) == list(after)
    assert scales and set(scales) <= set(before)
    assert all(factor != 1 for factor in scales.values())
    for name, old in before.items():
        new = after[name]
        assert (new.dtype, new.shape) == (old.dtype, old.shape), name
        expected = old
        if name in scales:
            expected = (old.astype(np.float64) * scales[name]).astype(old.dtype)
        assert new.tobytes() == expected.tobytes(), name


def onnx_outputs(result: graph_init.Initialized, inputs: Sequence[Array]) -> list[Array]:
    """What the written model gives for ``inputs``, in the order of its own."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        result.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def assert_same_outputs(found: Sequence[Array], expected: Sequence[Array]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1e-3, float(np.abs(b).max()))
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)
