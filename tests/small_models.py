"""Small models written with ``onnx.helper``; nothing here needs PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def plain_cnn(
    depth: int = 10, channels: int = 8, size: int = 8, seed: int = 0, dtype: type = np.float32
) -> onnx.ModelProto:
    """No skip, no norm: He weights, each layer's times a random factor within [1/e, e]."""
    rng = np.random.default_rng(seed)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, weights, at, width = [], [], "x", 3
    for k in range(depth):
        factor = np.exp(rng.uniform(-1, 1)) * np.sqrt(2 / (width * 9))
        kernel = rng.standard_normal((channels, width, 3, 3)) * factor
        weights.append(numpy_helper.from_array(kernel.astype(dtype), f"w{k}"))
        weights.append(numpy_helper.from_array(np.zeros(channels, dtype), f"b{k}"))
        nodes.append(
            helper.make_node(
                "Conv", [at, f"w{k}", f"b{k}"], [f"c{k}"], f"conv{k}", pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], f"relu{k}"))
        at, width = f"r{k}", channels
    head = rng.standard_normal((channels, 10)) * np.sqrt(1 / channels)
    weights.append(numpy_helper.from_array(head.astype(dtype), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "classifier"),
        helper.make_node("Softmax", ["logits"], ["y"], "softmax"),
    ]
    return model(
        nodes,
        [helper.make_tensor_value_info("x", kind, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("y", kind, ["batch", 10])],
        weights,
    )


def scaled(source: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Every kernel and matrix times ``factor``."""
    for tensor in source.graph.initializer:
        if len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return source


def deep_mlp(depth: int = 12, width: int = 32) -> onnx.ModelProto:
    """ReLU layers of He weights."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for k in range(depth):
        w = rng.standard_normal((width, width), np.float32) * np.float32(np.sqrt(2 / width))
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        nodes.append(helper.make_node("MatMul", [at, f"w{k}"], [f"m{k}"]))
        nodes.append(helper.make_node("Relu", [f"m{k}"], [f"r{k}"]))
        at = f"r{k}"
    head = rng.standard_normal((width, 10), np.float32) * np.float32(np.sqrt(1 / width))
    weights.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("MatMul", [at, "head"], ["logits"]))
    return model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        weights,
    )


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[TensorProto],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def one_layer(
    op: str = "Relu", weight: float | None = None, **attributes: object
) -> onnx.ModelProto:
    """x @ w, then ``op``; ``weight`` fills w."""
    w = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    if weight is not None:
        w[:] = weight * np.sign(w)
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
            helper.make_node(op, ["h"], ["y"], "last", **attributes),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
