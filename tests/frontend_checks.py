"""What has to hold after a frontend has initialised a model, in any framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

import graph_init

Array = np.ndarray


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
