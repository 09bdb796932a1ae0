"""Old and new opsets, and what the engine does not read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import ModelFileError, UnsupportedModelError
from tests.small_models import model, plain_cnn


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.standard_normal((4, 3, 8, 8), dtype=np.float32),
        "target": rng.integers(0, 10, 4),
    }


@pytest.mark.parametrize(("opset", "ir"), [(13, 7), (17, 8), (21, 10), (23, 11), (25, 13)])
def test_the_same_network_gives_the_same_number_in_every_version(opset: int, ir: int) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know opset {opset}; install a newer onnx")
    reference = graph_init.measure(plain_cnn(4), data=batch()).gradient_deviation
    other = plain_cnn(4)
    other.opset_import[0].version = opset
    other.ir_version = ir
    assert graph_init.measure(other, data=batch()).gradient_deviation == reference


def test_a_model_newer_than_the_onnx_package_says_so() -> None:
    newer = plain_cnn(4)
    newer.ir_version = onnx.IR_VERSION + 1
    with pytest.raises(ModelFileError, match="pip install --upgrade onnx"):
        graph_init.measure(newer)


def with_last(op: str, opset: int, **attributes: object) -> onnx.ModelProto:
    w = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
            helper.make_node(op, ["h"], ["y"], "last", **attributes),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
        opset=opset,
    )


def test_an_operator_newer_than_the_engine_is_lowered() -> None:
    """Swish is of opset 24; x · sigmoid(x) has been there for ever."""
    swish = with_last("Swish", 24)
    by_hand = with_last("Sigmoid", 24)
    by_hand.graph.node[1].output[0] = "s"
    by_hand.graph.node.append(helper.make_node("Mul", ["h", "s"], ["y"], "product2"))
    found = [graph_init.measure(m, scale_gradient=True) for m in (swish, by_hand)]
    assert found[0].gradient_deviation == pytest.approx(found[1].gradient_deviation, rel=1e-5)


def test_control_flow_is_refused_by_name() -> None:
    w = numpy_helper.from_array(np.ones((4, 4), np.float32) * np.arange(4, dtype=np.float32), "w")
    branch = helper.make_graph(
        [helper.make_node("Relu", ["h"], ["b"], "inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("ReduceMax", ["h"], ["most"], "most", keepdims=0),
        helper.make_node("Cast", ["most"], ["flag"], "flag", to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=branch, else_branch=branch),
    ]
    graph = model(
        nodes,
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [w],
    )
    with pytest.raises(UnsupportedModelError, match="choice.*If"):
        graph_init.measure(graph)
