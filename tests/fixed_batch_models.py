"""Models whose files fix a batch: some can be freed, of others a node holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.sized_models import FLOAT, INT, ints, network, node, weight

Model = Callable[[], onnx.ModelProto]
T, D = 4, 6


def floats(name: str, *shape: int, about: float = 0.0) -> onnx.TensorProto:
    drawn = np.random.default_rng(len(name)).standard_normal(shape) + about
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def one_input(nodes: list[onnx.NodeProto], shape: list[int], *tensors: Any) -> onnx.ModelProto:
    return declared(network(nodes, {"x": (FLOAT, shape)}, list(tensors)))


def declared(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shapes of all values written into the file, as exporters do."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def flattened() -> onnx.ModelProto:
    """An image that a Reshape to (1, -1) makes a row of."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], "conv"),
        node("Reshape", ["c", "flat"], ["r"], "flatten"),
        node("Gemm", ["r", "w", "b"], ["y"], "head", transB=1),
    ]
    return one_input(
        nodes,
        [1, 2, 5, 5],
        weight("k", 3, 2, 3, 3),
        ints("flat", 1, -1),
        weight("w", 4, 27),
        weight("b", 4),
    )


def reshaped(*targets: list[int], shape: tuple[int, ...] = (1, T, D)) -> onnx.ModelProto:
    """Reshapes one after the other, a product with the last axis, and another Reshape."""
    nodes, tensors, read = [], [], "x"
    for k, target in enumerate(targets):
        tensors.append(ints(f"s{k}", *target))
        nodes.append(node("Reshape", [read, f"s{k}"], [f"r{k}"], f"reshape{k}"))
        nodes.append(node("Mul", [f"r{k}", f"two{k}"], [f"m{k}"], f"times{k}"))
        tensors.append(floats(f"two{k}", 1))
        read = f"m{k}"
    nodes.append(node("Tanh", [read], ["y"], "end"))
    return one_input(nodes, list(shape), *tensors)


def recurrent(op: str = "LSTM") -> onnx.ModelProto:
    """A recurrent layer with states of (1, 1, H), reading the transposed input."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    nodes = [
        node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2]),
        node(op, ["t", "w", "r", "", "lengths", *states], ["h", "last"], "rnn", hidden_size=3),
        node("Squeeze", ["h", "axis"], ["s"], "squeeze"),
        node("Transpose", ["s"], ["u"], "back", perm=[1, 0, 2]),
        node("MatMul", ["u", "v"], ["m"], "head"),
        node("Squeeze", ["last", "first"], ["l"], "state"),
        node("ReduceMean", ["m"], ["a"], "mean", axes=[1], keepdims=0),
        node("Concat", ["a", "l"], ["y"], "both", axis=-1),
    ]
    lengths = numpy_helper.from_array(np.array([T], np.int32), "lengths")
    return one_input(
        nodes,
        [1, T, D],
        weight("w", 1, gates * 3, D),
        weight("r", 1, gates * 3, 3),
        lengths,
        floats("h0", 1, 1, 3),
        floats("c0", 1, 1, 3),
        ints("axis", 1),
        ints("first", 0),
        weight("v", 3, 2),
    )


def attention() -> onnx.ModelProto:
    """Two heads by reshapes to (1, T, heads, d), a mask, and a class token in front."""
    heads, width = 2, D // 2
    nodes = [
        node("Concat", ["token", "x"], ["z"], "prepend", axis=1),
        node("Add", ["z", "position"], ["p"], "positions"),
        node("LayerNormalization", ["p", "gain", "bias"], ["n"], "norm"),
    ]
    tensors = [
        floats("token", 1, 1, D),
        floats("position", 1, T + 1, D),
        floats("gain", D, about=1.0),
        floats("bias", D),
        ints("split", 1, T + 1, heads, width),
        ints("joined", 1, T + 1, D),
        floats("mask", 1, 1, T + 1, T + 1),
        weight("o", D, D),
    ]
    for part in "qkv":
        tensors.append(weight(f"w{part}", D, D))
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["n", f"w{part}"], [f"{part}0"], f"project_{part}"),
            node("Reshape", [f"{part}0", "split"], [f"{part}1"], f"split_{part}"),
            node("Transpose", [f"{part}1"], [part], f"turn_{part}", perm=order),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"], "scores"),
        node("Add", ["scores", "mask"], ["masked"], "masked"),
        node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"], "mixed"),
        node("Transpose", ["mixed"], ["turned"], "turn_back", perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "joined"], ["flat"], "join"),
        node("MatMul", ["flat", "o"], ["out"], "out"),
        node("Add", ["out", "p"], ["y"], "skip"),
    ]
    return one_input(nodes, [1, T, D], *tensors)


def expanded() -> onnx.ModelProto:
    """A learned row that Expand gives the batch's shape, and sizes that the graph reads."""
    nodes = [
        node("Expand", ["row", "shape"], ["e"], "expand"),
        node("Concat", ["x", "e"], ["c"], "concat", axis=2),
        node("Shape", ["x"], ["sizes"], "sizes"),
        node("Gather", ["sizes", "zero"], ["rows"], "rows"),
        node("Concat", ["rows", "rest"], ["target"], "target", axis=0),
        node("Reshape", ["c", "target"], ["r"], "reshape"),
        node("ConstantOfShape", ["target"], ["zeros"], "zeros"),
        node("Concat", ["r", "zeros"], ["z"], "append", axis=1),
        node("MatMul", ["z", "w"], ["y"], "head"),
    ]
    return one_input(
        nodes,
        [1, T, D],
        floats("row", D),
        ints("shape", 1, T, D),
        ints("zero", 0),
        ints("rest", T * D * 2),
        weight("w", T * D * 4, 3),
    )


def merged() -> onnx.ModelProto:
    """Rows and time in one axis, with a table for the times, and apart again."""
    nodes = [
        node("Reshape", ["x", "two"], ["a"], "merge"),
        node("Add", ["a", "table"], ["b"], "table"),
        node("Gemm", ["b", "w"], ["c"], "gemm"),
        node("Softmax", ["c"], ["d"], "softmax", axis=1),
        node("Reshape", ["d", "three"], ["e"], "apart"),
        node("ReduceMax", ["e"], ["y"], "max", axes=[1], keepdims=0),
    ]
    return one_input(
        nodes,
        [1, T, D],
        ints("two", T, D),
        floats("table", T, D),
        weight("w", D, 5),
        ints("three", 1, T, 5),
    )


def two_inputs() -> onnx.ModelProto:
    """Tokens with a mask, each with rows, and a state with its rows along the second axis."""
    nodes = [
        node("Gather", ["embeddings", "x"], ["e"], "embed"),
        node("Cast", ["mask"], ["f"], "float", to=FLOAT),
        node("Unsqueeze", ["f", "last"], ["u"], "unsqueeze"),
        node("Mul", ["e", "u"], ["m"], "mask_out"),
        node("Transpose", ["m"], ["t"], "turn", perm=[1, 0, 2]),
        node("GRU", ["t", "w", "r", "", "", "state"], ["", "h"], "rnn", hidden_size=3),
        node("Squeeze", ["h", "zero"], ["y"], "squeeze"),
    ]
    model = network(
        nodes,
        {"x": (INT, [1, T]), "mask": (INT, [1, T]), "state": (FLOAT, [1, 1, 3])},
        [
            weight("embeddings", 7, D),
            ints("last", -1),
            weight("w", 1, 9, D),
            weight("r", 1, 9, 3),
            ints("zero", 0),
        ],
    )
    return declared(model)


def pictures() -> onnx.ModelProto:
    """Resize to given sizes, a slice and a pad of everything, and a batch norm that is at rest."""
    bounds = {"from": [0, 1], "to": [1, 6], "all": [0, 2]}
    nodes = [
        node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"], "norm"),
        node("Resize", ["n", "", "", "sizes"], ["r"], "resize", mode="nearest"),
        node("Slice", ["r", "from", "to", "all"], ["s"], "slice"),
        node("Pad", ["s", "pads"], ["p"], "pad"),
        node("MaxPool", ["p"], ["o"], "pool", kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["o"], ["a"], "average"),
        node("Flatten", ["a"], ["f"], "flatten"),
        node("Einsum", ["f", "w"], ["y"], "einsum", equation="bi,io->bo"),
    ]
    return one_input(
        nodes,
        [1, 2, 3, 3],
        floats("g", 2, about=1.0),
        floats("b", 2),
        floats("m", 2),
        numpy_helper.from_array(np.array([0.5, 2.0], np.float32), "v"),
        ints("sizes", 1, 2, 6, 6),
        *(numpy_helper.from_array(np.array(n, np.int32), k) for k, n in bounds.items()),
        ints("pads", 0, 0, 1, 1, 0, 0, 1, 1),
        weight("w", 2, 4),
    )


def branching() -> onnx.ModelProto:
    """torch.squeeze: an axis is dropped where it is 1, which the file's sizes decide."""
    taken = helper.make_graph(
        [node("Squeeze", ["h", "third"], ["dropped"], "drop")],
        "then",
        [],
        [helper.make_tensor_value_info("dropped", FLOAT, [1, T])],
    )
    other = helper.make_graph(
        [node("Identity", ["h"], ["kept"], "keep")],
        "else",
        [],
        [helper.make_tensor_value_info("kept", FLOAT, [1, T, 1])],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "layer"),
        node("Shape", ["h"], ["sizes"], "sizes"),
        node("Gather", ["sizes", "third"], ["size"], "size"),
        node("Equal", ["size", "one"], ["is_one"], "compare"),
        node("If", ["is_one"], ["s"], "branch", then_branch=taken, else_branch=other),
        node("Tanh", ["s"], ["y"], "end"),
    ]
    model = one_input(nodes, [1, T, D], weight("w", D, 1), ints("third", 2), ints("one", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [1, T]))
    return model


def branching_on_rows() -> onnx.ModelProto:
    """The same where the number of rows decides."""
    model = branching()
    for tensor in model.graph.initializer:
        if tensor.name == "third":
            tensor.CopyFrom(ints("third", 0))
    model.graph.node[4].name = "holder"
    return model


#: Those that can be freed.
FREE: dict[str, Model] = {
    "flattened": flattened,
    "reshaped_head": lambda: reshaped([1, -1], [1, T, 2, 3], [-1, 2, 3], [1, T, D]),
    "reshaped_signs": lambda: reshaped([-1, T * D], [1, 1, T, -1], [1, T, D]),
    "reshaped_ones": lambda: reshaped([1, 1, T, D], [T, D], [T * D], [1, 3, 8]),
    "reshaped_long": lambda: reshaped([2, 2, D], [1, -1, 2, D]),
    "lstm": recurrent,
    "gru": lambda: recurrent("GRU"),
    "rnn": lambda: recurrent("RNN"),
    "attention": attention,
    "expanded": expanded,
    "merged": merged,
    "two_inputs": two_inputs,
    "branching": branching,
    "pictures": pictures,
}


def _simple(op: str, *tensors: onnx.TensorProto, **attributes: Any) -> Model:
    """One node that reads (1, T, D), behind one that keeps rows apart."""
    nodes = [
        node("Relu", ["x"], ["h"], "relu"),
        node(op, ["h", *(t.name for t in tensors)], ["y"], "holder", **attributes),
    ]
    return lambda: one_input(nodes, [1, T, D], *tensors)


def _training_norm() -> onnx.ModelProto:
    nodes = [
        node(
            "BatchNormalization",
            ["x", "g", "b", "m", "v"],
            ["y", "m2", "v2"],
            "holder",
            training_mode=1,
        )
    ]
    return one_input(nodes, [1, 2, 3, 3], *(floats(n, 2, about=1.0) for n in ("g", "b", "m", "v")))


def _transposed_rows() -> onnx.ModelProto:
    """An LSTM whose time is the batch's axis."""
    nodes = [node("LSTM", ["x", "w", "r"], ["y"], "holder", hidden_size=3)]
    return one_input(nodes, [1, T, D], weight("w", 1, 12, D), weight("r", 1, 12, 3))


def _counted() -> onnx.ModelProto:
    """The data divided by the number of rows."""
    nodes = [
        node("Shape", ["x"], ["sizes"], "sizes"),
        node("Gather", ["sizes", "zero"], ["rows"], "rows"),
        node("Cast", ["rows"], ["count"], "count", to=FLOAT),
        node("Div", ["x", "count"], ["y"], "holder"),
    ]
    return one_input(nodes, [1, T, D], ints("zero", 0))


def _two_rows_of_states() -> onnx.ModelProto:
    """A file with two rows, whose states differ."""
    nodes = [node("LSTM", ["x", "w", "r", "", "", "h0"], ["y"], "holder", hidden_size=3)]
    tensors = [weight("w", 1, 12, D), weight("r", 1, 12, 3), floats("h0", 1, 2, 3)]
    nodes.insert(0, node("Transpose", ["z"], ["x"], "turn", perm=[1, 0, 2]))
    return network(nodes, {"z": (FLOAT, [2, T, D])}, tensors)


#: Those of which a node called "holder" holds the batch, with a word of the reason.
HELD: dict[str, tuple[Model, str]] = {
    "summed": (_simple("ReduceSum", ints("axes", 0)), "reduces"),
    "mean_of_all": (_simple("ReduceMean"), "reduces"),
    "softmax": (_simple("Softmax", axis=0), "compares"),
    "squeezed": (_simple("Squeeze"), "drops"),
    "joined": (_simple("Concat", floats("more", 2, T, D), axis=0), "joins"),
    "first_row": (_simple("Gather", numpy_helper.from_array(np.array(0), "i")), "single rows"),
    "repeated": (_simple("Expand", ints("shape", 3, T, D)), "repeats"),
    "tiled": (_simple("Tile", ints("times", 2, 1, 1)), "repeats"),
    "padded": (_simple("Pad", ints("pads", 1, 0, 0, 0, 0, 0)), "adds"),
    "norm_in_training": (_training_norm, "training"),
    "time": (_transposed_rows, "axis of time"),
    "counted": (_counted, "number of rows"),
    "states": (_two_rows_of_states, "rows of its own"),
    "unique": (_simple("Unique"), "not known"),
}


def bodies() -> onnx.ModelProto:
    """A Loop that reads the batch in its body."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"], "go_on"), node("Add", ["s", "x"], ["t"], "add")],
        "body",
        [
            helper.make_tensor_value_info("k", INT, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", FLOAT, [1, T, D]),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", FLOAT, [1, T, D]),
        ],
    )
    nodes = [node("Loop", ["times", "", "start"], ["y"], "holder", body=body)]
    times = numpy_helper.from_array(np.array(2, np.int64), "times")
    return one_input(nodes, [1, T, D], times, floats("start", 1, T, D))


HELD["loop"] = (bodies, "body")
HELD["branch"] = (branching_on_rows, "body")
