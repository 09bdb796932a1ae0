"""Keras: one call initialises a model in place; run for each backend (see KERAS_BACKEND)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import graph_init
from graph_init.errors import UnsupportedModelError, UsageError

pytest.importorskip("keras", reason="Keras is not installed")
BACKEND = os.environ["KERAS_BACKEND"]
pytest.importorskip(BACKEND, reason=f"{BACKEND}, the backend, is not installed")

import keras
from keras import layers

import graph_init_keras
from tests import frontend_checks, keras_models

if BACKEND == "jax":
    import jax

    # Compiling takes most of the time of these tests.
    jax.config.update("jax_disable_most_optimizations", True)

#: Those of keras.applications that are quick enough on the backend for every run.
QUICK = {"jax": ["MobileNet", "ResNet50"], "torch": [], "tensorflow": ["MobileNetV2"]}
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

    result = graph_init_keras.initialize_(model, args, batch_size=2, tuner=drawn)

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


class Branching(keras.layers.Layer):
    """What no exporter can follow: a choice that depends on the data."""

    def call(self, x: Any) -> Any:
        if float(keras.ops.convert_to_numpy(keras.ops.max(x))) > 0:
            return x
        return -x

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_a_layer_that_cannot_be_exported_is_named_and_nothing_changes() -> None:
    start = keras.Input((6,))
    x = layers.Dense(8)(start)
    model = keras.Model(start, Branching(name="branching")(x), name="whole")
    before = values(model)
    with pytest.raises(UnsupportedModelError, match=r"branching' \(Branching\) of 'whole'"):
        graph_init.initialize(model)
    assert {n: v.tobytes() for n, v in values(model).items()} == {
        n: v.tobytes() for n, v in before.items()
    }


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="no weights yet"):
        graph_init_keras.initialize_(keras.Sequential([layers.Dense(3)]))
    model, _ = keras_models.tied()
    with pytest.raises(UsageError, match="declares no inputs: give an example"):
        graph_init_keras.initialize_(model)


def test_what_is_not_trained_is_left_alone() -> None:
    model, _ = keras_models.resnet()
    found = {p.name: p for p in graph_init.inspect(model).parameters}
    assert not found["stem/kernel"].trainable and found["conv_0a/kernel"].scalable
    assert not found["norm_0a/moving_variance"].trainable and found["norm_0a/gamma"].trainable


@pytest.mark.skipif(
    "KERAS_BACKEND_TESTS" in os.environ,
    reason=(
        "this process is one of those that test_other_backends starts; unset KERAS_BACKEND_TESTS "
        "to start them"
    ),
)
@pytest.mark.parametrize("backend", [b for b in ("jax", "tensorflow", "torch") if b != BACKEND])
def test_other_backends(backend: str) -> None:
    """A process has one backend: the tests above in another."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"the backend {backend} is not installed; run pip install {backend}")
    environment = {**os.environ, "KERAS_BACKEND": backend, "KERAS_BACKEND_TESTS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not long", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
