"""The graph analyzer: one small graph a rule, real models, and PyTorch's exports."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

import graph_init
from graph_init.analysis import Parameter, analyze, to_networkx
from graph_init.errors import UsageError
from graph_init.model.load import load

RNG = np.random.default_rng(0)


def rand(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    names = ["" if name == "_" else name for name in inputs.split()]
    domain = attributes.pop("domain", "")
    return helper.make_node(op, names, outputs.split(), domain=domain, **attributes)


def build(
    nodes: Iterable[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: dict[str, tuple[int, ...]] | None = None,
    ids: tuple[str, ...] = (),
) -> ir.Model:
    nodes = list(nodes)
    given = {"x": (2, 4)} if inputs is None else inputs
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name in ids else TensorProto.FLOAT, shape
            )
            for name, shape in given.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def by_name(model: ir.Model, **options: Any) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in analyze(model, **options)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


MASK = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
IMAGE = {"x": (1, 4, 8, 8)}
SEQ = {"x": (2, 3, 4)}
IDS = {"x": (2, 3)}

# name: nodes, weights, graph inputs, {initializer: (kind, trainable, scalable)}
RULES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], Any, dict[str, Any]]] = {
    "conv": (
        [node("Conv", "x w b", "y")],
        {"w": rand(6, 4, 3, 3), "b": rand(6)},
        IMAGE,
        {"w": ("convolution kernel", True, True), "b": ("bias", True, False)},
    ),
    "zero weights": (
        [node("MatMul", "x w", "y")],
        {"w": np.zeros((4, 3), np.float32)},
        None,
        {"w": ("matrix", True, False)},
    ),
    "constant weights": (
        [node("MatMul", "x w", "y")],
        {"w": np.full((4, 3), 0.5, np.float32)},
        None,
        {"w": ("matrix", True, True)},
    ),
    "one-element weight": (
        [node("MatMul", "x w", "h"), node("Add", "h b", "y")],
        {"w": rand(1, 1), "b": rand(1)},
        {"x": (2, 1)},
        {"w": ("matrix", True, True), "b": ("bias", True, False)},
    ),
    "embedding": (
        [node("Gather", "w x", "y")],
        {"w": rand(9, 4)},
        IDS,
        {"w": ("embedding", True, True)},
    ),
    "position lookup": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s one", "n"),
            node("Range", "zero n one", "r"),
            node("Gather", "w r", "p"),
            node("Add", "x p", "y"),
        ],
        {"w": rand(9, 4), "one": np.array(1), "zero": np.array(0)},
        SEQ,
        {"w": ("position", True, True), "one": ("constant", False, False)},
    ),
    "row of a packed weight": (
        [node("Gather", "w i", "v"), node("MatMul", "x v", "y")],
        {"w": rand(3, 4, 4), "i": np.array(1)},
        None,
        {"w": ("matrix", True, True)},
    ),
    "lstm": (
        [node("LSTM", "x w r b _ h c p", "y", hidden_size=5)],
        {
            "w": rand(1, 20, 4),
            "r": rand(1, 20, 5),
            "b": rand(1, 40),
            "h": rand(1, 3, 5),
            "c": rand(1, 3, 5),
            "p": rand(1, 15),
        },
        SEQ,
        {
            "w": ("recurrent", True, True),
            "r": ("recurrent", True, True),
            "b": ("bias", True, False),
            "h": ("constant", False, False),
            "c": ("constant", False, False),
            "p": ("bias", True, False),
        },
    ),
    "batch norm": (
        [node("BatchNormalization", "x g s m v", "y")],
        {"g": rand(4), "s": rand(4), "m": rand(4), "v": rand(4) ** 2},
        IMAGE,
        {
            "g": ("norm gain", True, False),
            "s": ("norm shift", True, False),
            "m": ("running statistic", False, False),
            "v": ("running statistic", False, False),
        },
    ),
    "written-out batch norm": (
        [
            node("Sub", "x m", "a"),
            node("Add", "v eps", "e"),
            node("Sqrt", "e", "r"),
            node("Div", "a r", "n"),
            node("Mul", "n g", "k"),
            node("Add", "k s", "y"),
        ],
        {
            "m": rand(4, 1, 1),
            "v": rand(4, 1, 1) ** 2,
            "eps": np.array(1e-5, np.float32),
            "g": rand(4, 1, 1),
            "s": rand(4, 1, 1),
        },
        IMAGE,
        {
            "m": ("running statistic", False, False),
            "v": ("running statistic", False, False),
            "eps": ("constant", False, False),
            "g": ("norm gain", True, False),
            "s": ("norm shift", True, False),
        },
    ),
    "group norm with placeholders": (
        [
            node("Reshape", "x three", "f"),
            node("InstanceNormalization", "f one zero", "i"),
            node("Reshape", "i four", "j"),
            node("Mul", "j g", "k"),
            node("Add", "k s", "y"),
        ],
        {
            "three": ints(1, 2, -1),
            "four": ints(1, 4, 8, 8),
            "one": np.ones(2, np.float32),
            "zero": np.zeros(2, np.float32),
            "g": rand(4, 1, 1),
            "s": rand(4, 1, 1),
        },
        IMAGE,
        {
            "one": ("constant", False, False),
            "zero": ("constant", False, False),
            "g": ("norm gain", True, False),
            "s": ("norm shift", True, False),
        },
    ),
    "slope": (
        [node("PRelu", "x a", "y")],
        {"a": rand(1)},
        None,
        {"a": ("activation slope", True, False)},
    ),
    "bias and table": (
        [node("Add", "x b", "h"), node("Add", "h p", "y")],
        {"b": rand(1, 1, 4), "p": rand(1, 3, 4)},
        SEQ,
        {"b": ("bias", True, False), "p": ("position", True, True)},
    ),
    "mask": (
        [node("Add", "x m", "y")],
        {"m": MASK},
        {"x": (4, 4)},
        {"m": ("constant", False, False)},
    ),
    "zero mask before softmax, zero position table": (
        [
            node("Add", "x p", "h"),
            node("Relu", "h", "i"),
            node("Add", "i m", "s"),
            node("Softmax", "s", "y"),
        ],
        {"m": np.zeros((4, 4), np.float32), "p": np.zeros((4, 4), np.float32)},
        {"x": (4, 4)},
        {"m": ("constant", False, False), "p": ("position", True, False)},
    ),
    "gains and scales": (
        [node("Mul", "x k", "a"), node("Mul", "a g", "b"), node("Mul", "b t", "y")],
        {"k": rand(1), "g": rand(4), "t": rand(3, 4)},
        SEQ,
        {
            "k": ("constant", False, False),
            "g": ("gain", True, False),
            "t": ("constant", False, False),
        },
    ),
    "rotary by product": (
        [node("Cast", "x", "f", to=1), node("Mul", "f w", "a"), node("Cos", "a", "y")],
        {"w": rand(3)},
        IDS,
        {"w": ("constant", False, False)},
    ),
    "rotary by matmul": (
        [
            node("Cast", "x", "f", to=1),
            node("MatMul", "w f", "a"),
            node("Concat", "a a", "b", axis=0),
            node("Sin", "b", "y"),
        ],
        {"w": rand(4, 2)},
        IDS,
        {"w": ("constant", False, False)},
    ),
    "sine network is not rotary": (
        [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("Sin", "a", "y")],
        {"w": rand(4, 3), "b": rand(3)},
        None,
        {"w": ("matrix", True, True), "b": ("bias", True, False)},
    ),
    "class token": (
        [node("Expand", "t s", "e"), node("Concat", "e x", "y", axis=1)],
        {"t": rand(1, 1, 4), "s": ints(2, 1, 4)},
        SEQ,
        {"t": ("token", True, False), "s": ("constant", False, False)},
    ),
    "class token folded to the batch, two tokens": (
        [node("Concat", "f x t", "y", axis=1)],
        {"f": np.repeat(rand(1, 1, 4), 2, axis=0), "t": np.repeat(rand(1, 2, 4), 2, axis=0)},
        SEQ,
        {"f": ("token", True, False), "t": ("token", True, True)},
    ),
    "where": (
        [node("Where", "c x w", "y")],
        {"c": np.array([True, False, True, False]), "w": rand(2, 4)},
        None,
        {"w": ("constant", False, False), "c": ("constant", False, False)},
    ),
    "quantized": (
        [
            node("DequantizeLinear", "w s", "d"),
            node("MatMul", "x d", "h"),
            node("MatMul", "h u", "i"),
            node("QuantizeLinear", "u s", "q"),
            node("DequantizeLinear", "q s", "r"),
            node("MatMul", "i r", "y"),
        ],
        {"w": np.ones((4, 4), np.uint8), "s": np.array(0.1, np.float32), "u": rand(4, 4)},
        None,
        {
            "w": ("quantized", False, False),
            "s": ("quantized", False, False),
            "u": ("quantized", False, False),
        },
    ),
    "unused": (
        [node("MatMul", "x w", "dead"), node("Shape", "v", "s"), node("Reshape", "x s", "y")],
        {"w": rand(4, 4), "v": rand(4, 2)},
        None,
        {"w": ("unused", False, False), "v": ("unused", False, False)},
    ),
    "relative positions": (
        [
            node("Pad", "w pads", "a"),
            node("Slice", "a start end axes", "b"),
            node("Transpose", "b", "c", perm=[0, 2, 1]),
            node("MatMul", "x c", "y"),
        ],
        {
            "w": rand(1, 5, 4),
            "pads": ints(0, 2, 0, 0, 2, 0),
            "start": ints(1),
            "end": ints(8),
            "axes": ints(1),
        },
        SEQ,
        {"w": ("position", True, True)},
    ),
    "bias that is rounded": (
        [
            node("MatMul", "x w", "h"),
            node("Div", "b s", "c"),
            node("Floor", "c", "d"),
            node("Cast", "d", "e", to=TensorProto.INT32),
            node("Cast", "e", "f", to=TensorProto.FLOAT),
            node("Add", "h f", "y"),
        ],
        {"w": rand(4, 4), "b": rand(4), "s": rand(4)},
        None,
        {
            "w": ("matrix", True, True),
            "b": ("constant", False, False),
            "s": ("constant", False, False),
        },
    ),
    "scale and offset of the input by tables": (
        [node("Mul", "x g", "h"), node("Add", "h s", "i"), node("MatMul", "i w", "y")],
        {"g": rand(3, 4), "s": rand(3, 4), "w": rand(4, 4)},
        SEQ,
        {"g": ("constant", False, False), "s": ("constant", False, False)},
    ),
    "mean and deviation of the input by tables": (
        [node("Sub", "x m", "h"), node("Div", "h d", "i"), node("MatMul", "i w", "y")],
        {"m": rand(3, 4), "d": rand(3, 4), "w": rand(4, 4)},
        SEQ,
        {"m": ("constant", False, False), "d": ("constant", False, False)},
    ),
    "gain and shift of a norm over several axes": (
        [
            node("MatMul", "x w", "a"),
            node("ReduceMean", "a axes", "m"),
            node("Sub", "a m", "c"),
            node("Mul", "c c", "q"),
            node("ReduceMean", "q axes", "v"),
            node("Sqrt", "v", "d"),
            node("Div", "c d", "n"),
            node("Mul", "n g", "h"),
            node("Add", "h s", "y"),
        ],
        {"w": rand(4, 4), "axes": ints(1, 2), "g": rand(3, 4), "s": rand(3, 4)},
        SEQ,
        {"g": ("norm gain", True, False), "s": ("norm shift", True, False)},
    ),
    "unknown operator": (
        [node("Mystery", "x w k", "y", domain="elsewhere")],
        {"w": rand(4, 4), "k": np.array(2.0, np.float32)},
        None,
        {"w": ("other", True, True), "k": ("constant", False, False)},
    ),
    "split and concat": (
        [
            node("Split", "w", "a b", axis=1, num_outputs=2),
            node("Concat", "b v", "c", axis=1),
            node("MatMul", "x a", "h"),
            node("MatMul", "h c", "y"),
        ],
        {"w": rand(4, 8), "v": rand(4, 2)},
        None,
        {"w": ("matrix", True, True), "v": ("matrix", True, True)},
    ),
    "weight norm": (
        [
            node("ReduceL2", "v", "n"),
            node("Div", "v n", "d"),
            node("Mul", "d g", "w"),
            node("Conv", "x w", "y"),
        ],
        {"v": rand(6, 4, 3, 3), "g": rand(6, 1, 1, 1)},
        IMAGE,
        {"v": ("convolution kernel", True, True)},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    nodes, weights, inputs, expected = RULES[rule]
    ids = ("x",) if inputs is IDS else ()
    found = by_name(build(nodes, weights, inputs, ids))
    assert list(found) == list(weights)
    got = {name: (p.kind, p.trainable, p.scalable) for name, p in found.items() if name in expected}
    assert got == expected


FANS = {
    "conv groups": (node("Conv", "x w", "y", group=2), (6, 2, 3, 3), IMAGE, (18, 27, False)),
    "transposed conv": (node("ConvTranspose", "x w", "y"), (4, 6, 3, 3), IMAGE, (36, 54, True)),
    "matmul": (node("MatMul", "x w", "y"), (4, 7), None, (4, 7, True)),
    "left matmul": (node("MatMul", "w x", "y"), (7, 2), None, (2, 7, False)),
    "gemm": (node("Gemm", "x w", "y", transB=1), (7, 4), None, (4, 7, False)),
    "gemm plain": (node("Gemm", "x w", "y"), (4, 7), None, (4, 7, True)),
    "einsum": (node("Einsum", "x w", "y", equation="bi,oi->bo"), (7, 4), None, (4, 7, False)),
    "einsum implicit": (node("Einsum", "x w", "y", equation="ij,jk"), (4, 7), None, (4, 7, True)),
    "fused": (
        node("FusedMatMul", "x w", "y", transB=1, domain="com.microsoft"),
        (7, 4),
        None,
        (4, 7, False),
    ),
}


@pytest.mark.parametrize("case", FANS)
def test_fans(case: str) -> None:
    layer, shape, inputs, expected = FANS[case]
    found = by_name(build([layer], {"w": rand(*shape)}, inputs))["w"]
    assert (found.fan_in, found.fan_out, found.transposed) == expected


def test_stored_order_sees_through_transpose() -> None:
    model = build(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")], {"w": rand(7, 4)}
    )
    found = by_name(model)["w"]
    assert (found.fan_in, found.fan_out, found.transposed, found.path) == (
        4,
        7,
        False,
        ("Transpose",),
    )


GATES = {
    "Relu": [node("Relu", "h", "y")],
    "Silu": [node("Sigmoid", "h", "s"), node("Mul", "h s", "y")],
    "Gelu": [
        node("Div", "h r", "d"),
        node("Erf", "d", "e"),
        node("Add", "e r", "o"),
        node("Mul", "h o", "p"),
        node("Mul", "p r", "y"),
    ],
    "Mish": [node("Softplus", "h", "s"), node("Tanh", "s", "t"), node("Mul", "h t", "y")],
    "Tanh": [node("LayerNormalization", "h g", "n"), node("Tanh", "n", "y")],
    None: [node("Add", "h x", "s"), node("Relu", "s", "y")],
}


@pytest.mark.parametrize("activation", GATES)
def test_activation_behind_a_layer(activation: str | None) -> None:
    weights = {"w": rand(4, 4), "b": rand(4), "r": np.array(1.4, np.float32), "g": rand(4)}
    layer = [node("MatMul", "x w", "m"), node("Add", "m b", "h")]
    assert by_name(build(layer + GATES[activation], weights))["w"].gain_activation == activation


def test_tied_and_shared_tables() -> None:
    table = rand(9, 4)
    nodes = [
        node("Gather", "e x", "h"),
        node("Transpose", "e", "t"),
        node("MatMul", "h t", "a"),
        node("MatMul", "h copy", "b"),
        node("MatMul", "h other", "c"),
        node("Sum", "a b c", "y"),
    ]
    weights = {"e": table, "copy": table.T.copy(), "other": rand(4, 9)}
    found = by_name(build(nodes, weights, IDS, ("x",)))
    assert found["e"].kind == "embedding"
    assert found["e"].consumers == ("Gather:h", "MatMul:a")
    assert "shared by 2" in found["e"].reason
    assert [found[name].tied_to for name in weights] == [None, "e", None]


def test_equal_layers_are_not_tied() -> None:
    same = rand(4, 4)
    nodes = [node("MatMul", "x a", "h"), node("MatMul", "h b", "y")]
    found = by_name(build(nodes, {"a": same, "b": same.copy()}))
    assert found["a"].tied_to is None and found["b"].tied_to is None


def test_options_overrule_and_freeze_wins() -> None:
    model = build(
        [node("Mul", "x table", "h"), node("MatMul", "h w", "y")],
        {"table": rand(2, 4), "w": rand(4, 4)},
    )
    assert not by_name(model)["table"].trainable
    forced = by_name(model, trainable=["^tab"])["table"]
    assert forced.trainable and forced.scalable
    both = by_name(model, trainable=["table"], freeze=["table", "^w$"])
    assert not both["table"].trainable and not both["w"].scalable


def test_what_rounds_a_bias_is_named() -> None:
    nodes, weights, inputs, _ = RULES["bias that is rounded"]
    found = by_name(build(nodes, weights, inputs))["b"]
    assert found.reason.startswith("no gradient comes through Floor 'Floor:d'")


def test_weights_that_only_a_body_reads_have_a_gradient() -> None:
    """A branch of If reads the weight by its name in the outer graph."""
    bodies = {
        f"{branch}_branch": helper.make_graph(
            [node("MatMul", f"x {weight}", branch)],
            branch,
            [],
            [helper.make_tensor_value_info(branch, TensorProto.FLOAT, None)],
        )
        for branch, weight in (("then", "w"), ("else", "v"))
    }
    found = by_name(
        build(
            [
                node("ReduceSum", "x", "s", keepdims=0),
                node("Less", "s zero", "c"),
                node("If", "c", "y", **bodies),
            ],
            {"w": rand(4, 4), "v": rand(4, 4), "zero": np.array(0.0, np.float32)},
        )
    )
    assert found["w"].kind == found["v"].kind == "matrix"
    assert found["w"].trainable and found["v"].scalable


def reordered_lstm(arranged: bool, factors: tuple[float, float] = (1.0, 1.0)) -> onnx.ModelProto:
    """An LSTM whose gates Slice and Concat bring from the order i, f, c, o into ONNX's i, o, f, c.

    The stored numbers are the same where they are not ``arranged`` in the graph; W and R are times
    ``factors``.
    """
    rng = np.random.default_rng(3)
    nodes, weights, gates = [], [], [ints(0), ints(15), ints(5), ints(10)]
    for name, width, factor in (("W", 4, factors[0]), ("R", 5, factors[1])):
        stored = rng.standard_normal((1, 20, width)).astype(np.float32) / 2
        if not arranged:
            parts = [stored[:, int(start[0]) : int(start[0]) + 5] for start in gates]
            whole = np.concatenate(parts, axis=1) * np.float32(factor)
            weights.append(numpy_helper.from_array(whole, name))
            continue
        nodes.append(node("Constant", "", f"{name}s", value=numpy_helper.from_array(stored)))
        for k in range(len(gates)):
            nodes.append(node("Slice", f"{name}s from{k} to{k} axis", f"{name}{k}"))
        nodes.append(node("Concat", " ".join(f"{name}{k}" for k in range(4)), name, axis=1))
    for k, start in enumerate(gates):
        weights.append(numpy_helper.from_array(start, f"from{k}"))
        weights.append(numpy_helper.from_array(start + 5, f"to{k}"))
    weights.append(numpy_helper.from_array(ints(1), "axis"))
    nodes += [node("LSTM", "x W R", "h", hidden_size=5), node("Squeeze", "h axis", "y")]
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 2, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 2, 5))],
        initializer=weights,
    )
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_gates_in_another_order_are_recurrent_weights() -> None:
    found = by_name(load(reordered_lstm(arranged=True)).ir)
    for name in ("W", "R"):
        assert (found[name].kind, found[name].scalable) == ("recurrent", True)
        assert "arranged from constants by Slice, Concat" in found[name].reason


def test_what_is_arranged_is_written_back_where_it_is_read() -> None:
    runtime = pytest.importorskip("onnxruntime")
    scales = {"W": 0.5, "R": 2.0}
    made = graph_init.apply(
        {"format": "graph-init/scales", "version": 1, "scales": scales},
        reordered_lstm(arranged=True),
    ).model
    onnx.checker.check_model(made, full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    y, expected = (
        runtime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
        for m in (made, reordered_lstm(arranged=False, factors=(0.5, 2.0)))
    )
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_bad_expressions_are_usage_errors() -> None:
    model = build([node("MatMul", "x kernel", "y")], {"kernel": rand(4, 4)})
    with pytest.raises(UsageError, match="not a regular expression"):
        analyze(model, trainable=["("])
    with pytest.raises(UsageError, match="close names: 'kernel'"):
        analyze(model, freeze=["kernal"])


def test_json_keys() -> None:
    parameter = analyze(build([node("MatMul", "x w", "y")], {"w": rand(4, 7)}))[0]
    assert parameter.to_json() == {
        "name": "w",
        "kind": "matrix",
        "shape": [4, 7],
        "dtype": "float32",
        "trainable": True,
        "scalable": True,
        "reason": "matrix of MatMul 'MatMul:y' (fan-in 4, fan-out 7)",
        "consumers": ["MatMul:y"],
        "tied_to": None,
        "fan_in": 4,
        "fan_out": 7,
    }


def test_to_networkx_alternates_values_and_nodes() -> None:
    graph = to_networkx(build([node("Mul", "x x", "y")], {}))
    ops = [key for key, kind in graph.nodes(data="op_type") if kind == "Mul"]
    assert sorted(slot for _, _, slot in graph.in_edges(ops, data="slot")) == [0, 1]
    assert all(a[0] != b[0] for a, b in graph.edges())


LIGHT = pathlib.Path(os.path.dirname(onnx.__file__)) / "backend/test/data/light"


def light(name: str) -> ir.Model:
    """A model whose ConstantOfShape weights are made initializers (small values, never equal)."""
    model = ir.load(LIGHT / f"light_{name}.onnx")
    for each in list(model.graph):
        if each.op_type == "ConstantOfShape":
            sizes = each.inputs[0].const_value.numpy()
            value = each.outputs[0]
            fresh = ir.val(str(value.name), const_value=ir.tensor(np.full(sizes, 0.1, np.float32)))
            value.replace_all_uses_with(fresh)
            model.graph.remove(each)
            model.graph.initializers[fresh.name] = fresh
    return model


@pytest.mark.parametrize("name", ["resnet50", "squeezenet", "densenet121", "shufflenet", "vgg19"])
def test_light_models(name: str) -> None:
    model = light(name)
    convolutions = [n for n in model.graph if n.op_type == "Conv"]
    norms = [n for n in model.graph if n.op_type == "BatchNormalization"]
    products = [n for n in model.graph if n.op_type in ("Gemm", "MatMul")]
    found = analyze(model)
    counted = {kind: sum(p.kind == kind for p in found) for kind in {p.kind for p in found}}
    assert counted.get("convolution kernel", 0) == len({n.inputs[1] for n in convolutions})
    assert counted.get("matrix", 0) == len({n.inputs[1] for n in products})
    assert counted.get("running statistic", 0) == 2 * len(norms)
    assert "other" not in counted
    assert all(p.scalable for p in found if p.kind in ("convolution kernel", "matrix"))


def torch_models() -> dict[str, Any]:
    def cnn() -> Any:
        import torch
        from torch import nn

        layers = [
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.PReLU(6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        ]
        return nn.Sequential(*layers), {"input": torch.randn(2, 3, 8, 8)}

    def transformer(kind: str) -> Any:
        import torch

        transformers = pytest.importorskip("transformers")
        ids = torch.randint(0, 90, (2, 7))
        small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
        if kind == "bert":
            config = transformers.BertConfig(vocab_size=90, num_attention_heads=2, **small)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            return transformers.BertModel(config), inputs
        if kind == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=90, n_positions=32, n_embd=16, n_layer=1, n_head=2, use_cache=False
            )
            return transformers.GPT2LMHeadModel(config), {"input_ids": ids}
        if kind == "vit":
            config = transformers.ViTConfig(
                num_attention_heads=2, image_size=16, patch_size=4, num_labels=5, **small
            )
            image = {"pixel_values": torch.randn(2, 3, 16, 16)}
            return transformers.ViTForImageClassification(config), image
        config = transformers.LlamaConfig(
            vocab_size=90, num_attention_heads=4, num_key_value_heads=2, use_cache=False, **small
        )
        return transformers.LlamaForCausalLM(config), {"input_ids": ids}

    return {
        "cnn": cnn,
        **{
            kind: (lambda kind=kind: transformer(kind)) for kind in ("bert", "gpt2", "vit", "llama")
        },
    }


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("kind", list(torch_models()))
def test_pytorch_exports(kind: str, optimize: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module, inputs = torch_models()[kind]()
    module.eval()
    program = torch.onnx.export(
        module, kwargs=inputs, dynamo=True, optimize=optimize, verbose=False
    )
    model = InlinePass()(ir.from_proto(program.model_proto)).model
    lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    found = {p.name: p for p in analyze(lift(model).model)}
    trained = {name for name, p in found.items() if p.trainable}
    if not optimize:
        # A tied tensor has several names in the module and one in the file.
        names = module.named_parameters(remove_duplicate=False)
        aliases: dict[int, set[str]] = {}
        for name, parameter in names:
            aliases.setdefault(id(parameter), set()).add(name)
        assert all(len(trained & group) == 1 for group in aliases.values())
        assert len(trained) == len(aliases)
    matrices = sum(parameter.dim() >= 2 for parameter in module.parameters())
    tied = sum(p.tied_to is not None for p in found.values())
    scaled = sum(p.scalable for p in found.values())
    # The class token has one axis of numbers: rank 3, but nothing in it to scale against.
    assert scaled - tied == matrices - (kind == "vit")
    buffers = {name for name, _ in module.named_buffers()}
    assert not trained & buffers
