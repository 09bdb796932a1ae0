"""TensorFlow: a SavedModel's folder is initialised, and saved again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")

import graph_init
import graph_init_tensorflow
from graph_init.errors import ModelFileError, UnsupportedModelError, UsageError
from tests import frontend_checks

X = np.random.default_rng(0).standard_normal((5, 8, 8, 3)).astype(np.float32)


class Network(tf.Module):
    """A convolution, batch norm by hand, GELU, a head, and a variable that is not trained."""

    def __init__(self) -> None:
        super().__init__(name="network")
        draw = tf.random.stateless_normal
        self.kernel = tf.Variable(draw((3, 3, 3, 6), (0, 1)) / 5, name="kernel")
        self.gain = tf.Variable(tf.ones(6), name="gain")
        self.mean = tf.Variable(draw((6,), (0, 2)) / 9, name="mean", trainable=False)
        self.head = tf.Variable(draw((6, 4), (0, 3)) / 2, name="head")
        self.bias = tf.Variable(tf.zeros(4), name="bias")

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
    def __call__(self, image: Any) -> Any:
        x = tf.nn.conv2d(image, self.kernel, 2, "SAME")
        x = tf.nn.gelu((x - self.mean) * self.gain)
        return tf.reduce_mean(x, [1, 2]) @ self.head + self.bias


def saved(folder: Path, function: Any = None) -> Path:
    model = Network()
    call = model.__call__ if function is None else function
    tf.saved_model.save(model, str(folder), signatures=call.get_concrete_function())
    return folder


def values(model: Any) -> dict[str, np.ndarray]:
    variables = model.signatures["serving_default"].variables
    return {v.name.partition(":")[0]: v.numpy() for v in variables}


def test_a_saved_model_is_initialised_into_a_new_folder(tmp_path: Path, drawn: str) -> None:
    source, output = saved(tmp_path / "source"), tmp_path / "output"
    before = values(tf.saved_model.load(str(source)))
    result = graph_init_tensorflow.initialize(source, output=output, tuner=drawn, batch_size=4)
    assert set(result.scales) == {"kernel", "head"}
    again = tf.saved_model.load(str(output))
    frontend_checks.assert_scaled(before, values(again), result.scales)
    assert (
        values(tf.saved_model.load(str(source)))["kernel"].tobytes() == before["kernel"].tobytes()
    )
    function = again.signatures["serving_default"]
    expected = function(tf.constant(X))
    found = frontend_checks.onnx_outputs(result, [X])
    frontend_checks.assert_same_outputs(found, [v.numpy() for v in expected.values()])
    assert [o.name for o in result.model.graph.output] == list(expected)
    with tf.GradientTape() as tape:  # it can still be trained
        loss = tf.reduce_sum(
            next(iter(again.signatures["serving_default"](tf.constant(X)).values()))
        )
    assert all(
        g is not None
        for g in tape.gradient(loss, again.signatures["serving_default"].trainable_variables)
    )


def test_the_core_knows_the_folder(tmp_path: Path, drawn: str) -> None:
    source = saved(tmp_path / "source")
    result = graph_init.initialize(str(source), tuner=drawn, batch_size=4)
    assert set(result.scales) == {"kernel", "head"}
    with pytest.raises(UsageError, match="exists"):
        graph_init_tensorflow.initialize(source, output=source)
    with pytest.raises(UsageError, match="no signature 'other'; it has serving_default"):
        graph_init_tensorflow.measure(source, signature="other")
    with pytest.raises(UsageError, match="leave the example out"):
        graph_init.measure(source, args=(X,))


def test_an_operator_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Odd(Network):
        @tf.function(input_signature=[tf.TensorSpec((4, 4), tf.float32)])
        def __call__(self, x: Any) -> Any:
            return tf.math.igamma(tf.abs(x) + 1, tf.abs(x)) @ tf.transpose(self.head[:4])

    model = Odd()
    tf.saved_model.save(
        model, str(tmp_path / "odd"), signatures=model.__call__.get_concrete_function()
    )
    with pytest.raises(UnsupportedModelError, match="'Igamma'"):
        graph_init.measure(tmp_path / "odd")


def test_a_broken_saved_model_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x00nonsense")
    with pytest.raises(ModelFileError, match="cannot be read as a SavedModel"):
        graph_init.measure(tmp_path)
