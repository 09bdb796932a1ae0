"""Keras: one call initialises a model in place; run for each backend (see KERAS_BACKEND)."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import graph_init
from graph_init.errors import UnsupportedModelError, UsageError

pytest.importorskip("keras", reason="Keras is not installed")
os.environ.setdefault("KERAS_BACKEND", "torch")
BACKEND = os.environ["KERAS_BACKEND"]
pytest.importorskip(BACKEND, reason=f"{BACKEND}, the backend, is not installed")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import graph_init_keras  # noqa: E402
import keras  # noqa: E402

from tests import frontend_checks, keras_models  # noqa: E402
from tests.frontend_checks import drawn  # noqa: E402, F401

#: Those of keras.applications that are quick enough on the backend for every run.
QUICK = {"jax": ["MobileNet", "MobileNetV2", "ResNet50"], "torch": ["MobileNet"], "tensorflow": []}
MODELS = [
    *keras_models.SMALL,
    *(
        pytest.param(name, marks=() if name in QUICK[BACKEND] else pytest.mark.long)
        for name in keras_models.APPLICATIONS
    ),
]


def values(model: Any) -> dict[str, np.ndarray]:
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.variables}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_initialised_in_place(name: str, drawn: str) -> None:
    keras.utils.set_random_seed(0)
    build = {**keras_models.SMALL, **keras_models.APPLICATIONS}[name]
    model, example = build()
    before = values(model)
    trained = {v.path for v in model.trainable_variables}
    args = () if getattr(model, "inputs", None) else (example,)

    result = graph_init_keras.initialize_(model, args, batch_size=2, optimizer=drawn)

    assert result.updated is model
    assert set(result.scales) <= trained
    assert {n for n, v in before.items() if v.ndim > 1 and "kernel" in n and n in trained} <= set(
        result.scales
    )
    frontend_checks.assert_scaled(before, values(model), result.scales)
    inputs = [np.asarray(x) for x in keras.tree.flatten(example)]
    outputs = keras.ops.convert_to_numpy(model(example, training=False))
    frontend_checks.assert_same_outputs(frontend_checks.onnx_outputs(result, inputs), [outputs])
    if name in keras_models.SMALL:
        goes_on_training(model, example, outputs.shape)


def goes_on_training(model: Any, example: Any, shape: tuple[int, ...]) -> None:
    target = np.random.default_rng(2).integers(0, shape[-1], shape[:-1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    history = model.fit(example, target, epochs=3, batch_size=len(target), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
