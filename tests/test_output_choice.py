"""Which outputs the loss reads, and what is said of those that it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init

pytest.importorskip("onnxruntime")


def heads(outputs: Sequence[str]) -> onnx.ModelProto:
    """h = x·w; ``logits`` = h·v behind a Softmax; ``boxes`` = (h·u)∘m, where m is an input, too."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "w"),
        helper.make_node("MatMul", ["h", "v"], ["scores"], "v"),
        helper.make_node("Softmax", ["scores"], ["logits"], axis=-1),
        helper.make_node("MatMul", ["h", "u"], ["bare"], "u"),
        helper.make_node("Mul", ["bare", "m"], ["boxes"], "m"),
    ]
    shapes = {"w": (6, 8), "v": (8, 5), "u": (8, 4)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k])
        for n, k in (("x", 6), ("m", 4))
    ]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "g", inputs, given, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gradient_free(found: graph_init.Measurement) -> set[str]:
    """Tensors of which every element's gradient has vanished."""
    return {p.name for p in found.parameters if p.vanished_fraction == 1}


def test_an_output_with_tensors_of_its_own_is_read_too() -> None:
    model = heads(["logits", "boxes"])
    found = graph_init.measure(model)
    assert found.loss_kind == "cross-entropy+mse"
    assert found.loss_reason.startswith("logits: ") and "; boxes: " in found.loss_reason
    assert not gradient_free(found) and not found.notes
    named = graph_init.measure(model, output_name=["logits", "boxes"])
    assert found.to_json() == named.to_json()


def test_what_brings_no_new_tensor_is_not_read() -> None:
    """The hidden state leads to w, which the logits have, too."""
    found = graph_init.measure(heads(["logits", "h"]))
    assert found.loss_kind == "cross-entropy"
    assert found.to_json() == graph_init.measure(heads(["logits"])).to_json()


def test_features_before_logits_are_read_with_them() -> None:
    found = graph_init.measure(heads(["h", "logits"]))
    assert found.loss_kind == "cross-entropy+cross-entropy"
    assert not gradient_free(found)


@pytest.mark.parametrize("options", [{"output_name": "logits"}, {"loss": "cross-entropy"}])
def test_what_is_left_out_is_said(options: dict[str, str]) -> None:
    found = graph_init.measure(heads(["logits", "boxes"]), **options)  # type: ignore[arg-type]
    assert found.loss_kind == "cross-entropy"
    assert gradient_free(found) == {"u"}
    (note,) = found.notes
    assert note.startswith("1 of 3 trainable tensors lead only to outputs") and "'boxes'" in note
    assert "--output-name" in note


def test_a_target_is_of_one_output() -> None:
    rng = np.random.default_rng(0)
    data = {
        "x": rng.standard_normal((8, 6)).astype(np.float32),
        "target": np.arange(8) % 5,
    }
    found = graph_init.measure(heads(["logits", "boxes"]), data=data)
    assert found.loss_kind == "cross-entropy"
    assert "1 of 3 trainable tensors" in found.notes[0]


@pytest.mark.parametrize("scheme", ["keep", "lsuv"])
def test_weights_that_only_another_output_reads_stay(scheme: str) -> None:
    """Their signal depends on an input that no batch has: the engine missed it."""
    result = graph_init.initialize(
        heads(["logits", "boxes"]), output_name="logits", scheme=scheme, updates=2
    )
    assert result.scales["u"] == 1.0
    assert any("1 of 3 trainable tensors" in note for note in result.notes)
