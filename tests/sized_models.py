"""Small models whose inputs leave sizes open, or steer the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Inputs = dict[str, tuple[int, list[Any]]]


def weight(name: str, *shape: int) -> TensorProto:
    drawn = np.random.default_rng(len(name)).standard_normal(shape) / np.sqrt(max(shape[-1], 1))
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def ints(name: str, *numbers: int) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def one(name: str, number: int) -> TensorProto:
    return numpy_helper.from_array(np.array(number, np.int64), name)


def network(
    nodes: list[onnx.NodeProto], inputs: Inputs, tensors: list[TensorProto]
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    made = [helper.make_tensor_value_info("y", FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, made, initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, ins: list[str], outs: list[str], name: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, ins, outs, name, **attrs)


def dense(read: str, features: int, made: str = "y") -> tuple[onnx.NodeProto, TensorProto]:
    w = f"{made}_w"
    return node("MatMul", [read, w], [made], f"dense_{made}"), weight(w, features, 3)


def recurrent() -> onnx.ModelProto:
    """An LSTM whose weights read 18 features."""
    last, w = dense("h", 4)
    nodes = [node("LSTM", ["x", "w", "r"], ["h"], "rnn", hidden_size=4), last]
    return network(
        nodes,
        {"x": (FLOAT, ["time", "rows", "features"])},
        [weight("w", 1, 16, 18), weight("r", 1, 16, 4), w],
    )


def pyramid() -> onnx.ModelProto:
    """An hourglass with a skip connection: sides that 8 divides, and windows that fit."""
    nodes = [
        node("Conv", ["x", "k1"], ["a"], "down1", strides=[4, 4], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "k2"], ["b"], "down2", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["b", "k3"], ["c"], "up", strides=[2, 2]),
        node("Concat", ["a", "c"], ["d"], "skip", axis=1),
        node("Conv", ["d", "k4"], ["y"], "head"),
    ]
    kernels = [
        weight("k1", 4, 3, 3, 3),
        weight("k2", 4, 4, 3, 3),
        weight("k3", 4, 4, 2, 2),
        weight("k4", 2, 8, 1, 1),
    ]
    return network(nodes, {"x": (FLOAT, ["n", 3, "height", "width"])}, kernels)


def patches() -> onnx.ModelProto:
    """Patches of 16, and a table of 196 positions: images of 224 by 224."""
    nodes = [
        node("Conv", ["x", "k"], ["p"], "embed", strides=[16, 16]),
        node("Reshape", ["p", "flat"], ["q"], "flatten"),
        node("Transpose", ["q"], ["t"], "turn", perm=[0, 2, 1]),
        node("Add", ["t", "positions"], ["u"], "place"),
    ]
    last, w = dense("u", 8)
    return network(
        [*nodes, last],
        {"x": (FLOAT, ["n", "channels", "height", "width"])},
        [weight("k", 8, 3, 16, 16), ints("flat", 0, 8, -1), weight("positions", 1, 196, 8), w],
    )


def bands() -> onnx.ModelProto:
    """Frames of a spectrogram: 6 channels of 35 bands, flattened with the frames as rows."""
    nodes = [
        node("Unsqueeze", ["x", "leading"], ["i"], "image"),
        node("Conv", ["i", "k"], ["c"], "bands", pads=[1, 1, 1, 1]),
        node("Transpose", ["c"], ["t"], "turn", perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "flat"], ["f"], "flatten"),
    ]
    last, w = dense("f", 210)
    tensors = [ints("leading", 0, 1), weight("k", 6, 1, 3, 3), ints("flat", -1, 210), w]
    return network([*nodes, last], {"x": (FLOAT, ["frames", "bands"])}, tensors)


def waves() -> onnx.ModelProto:
    """A strided convolution along a signal."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["c"], "channel"),
        node("Conv", ["c", "k"], ["s"], "frames", strides=[160]),
        node("GlobalAveragePool", ["s"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flatten"),
    ]
    last, w = dense("f", 8)
    return network(
        [*nodes, last],
        {"x": (FLOAT, ["n", "samples"])},
        [ints("one", 1), weight("k", 8, 1, 400), w],
    )


def pair() -> onnx.ModelProto:
    """Two inputs without names for their sizes, which must agree; the second is turned."""
    nodes = [
        node("Transpose", ["z"], ["t"], "turn", perm=[1, 0]),
        node("Add", ["x", "t"], ["s"], "sum"),
    ]
    last, w = dense("s", 24)
    return network([*nodes, last], {"x": (FLOAT, [None, 24]), "z": (FLOAT, [24, None])}, [w])


def rates() -> onnx.ModelProto:
    """Weights in the branches of an If on a sampling rate, as detectors of speech have them."""

    def branch(name: str, features: int) -> onnx.GraphProto:
        inside = [
            node("Slice", ["x", "zero", "size", "one"], ["part"], "cut"),
            node("MatMul", ["part", "w"], ["h"], "read"),
            node("Constant", [], ["v"], "held", value=weight("v", 5, 3)),
            node("MatMul", ["h", "v"], [f"{name}_out"], "write"),
        ]
        tensors = [weight("w", features, 5), ints("size", features)]
        made = [helper.make_tensor_value_info(f"{name}_out", FLOAT, None)]
        return helper.make_graph(inside, name, [], made, initializer=tensors)

    nodes = [
        node("Equal", ["rate", "sixteen"], ["fast"], "is_fast"),
        node(
            "If",
            ["fast"],
            ["y"],
            "by_rate",
            then_branch=branch("fast_net", 8),
            else_branch=branch("slow_net", 4),
        ),
    ]
    tensors = [one("sixteen", 16_000), ints("zero", 0), ints("one", 1)]
    return network(nodes, {"x": (FLOAT, ["n", 8]), "rate": (INT, [])}, tensors)
