"""One network in the many forms in which exporters write it: always the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import UnsupportedModelError
from graph_init.ir import Array

pytest.importorskip("onnxruntime")

WIDTH, ROWS = 6, 8
F = TensorProto.FLOAT


def weight(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    rng = np.random.default_rng([sum(name.encode()), *shape])
    return numpy_helper.from_array(rng.standard_normal(shape).astype(dtype), name)


def info(name: str, shape: list[Any] | None = None, dtype: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def build(
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    *,
    opset: int = 17,
    dtype: int = F,
    extra_inputs: list[onnx.ValueInfoProto] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "forms",
        [info("x", ["n", WIDTH], dtype), *(extra_inputs or [])],
        [info("y", None, dtype)],
        initializer=weights,
        **{k: v for k, v in more.items() if k == "sparse_initializer"},
    )
    imports = [helper.make_opsetid("", opset), *more.get("imports", [])]
    functions = more.get("functions", [])
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=9)


WEIGHTS = [weight("first", WIDTH, WIDTH), weight("second", WIDTH, WIDTH)]


def plain() -> onnx.ModelProto:
    """tanh(tanh(x @ first) @ second)"""
    return build(
        [
            node("MatMul", ["x", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("MatMul", ["b", "second"], "c"),
            node("Tanh", ["c"], "y"),
        ],
        WEIGHTS,
    )


def data(dtype: type = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((ROWS, WIDTH)).astype(dtype),
        "target": rng.standard_normal((ROWS, WIDTH)).astype(dtype),
    }


def numbers(model: onnx.ModelProto, **options: Any) -> tuple[float, float, dict[str, float]]:
    found = graph_init.measure(model, data=data(), scale_gradient=True, **options)
    slopes = {r.name: r.log_scale_gradient for r in found.parameters if r.scalable}
    return found.loss, found.gradient_deviation, slopes


def body(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", inputs, outputs)


def function_form() -> onnx.ModelProto:
    layer = helper.make_function(
        "house",
        "Layer",
        ["h", "w"],
        ["z"],
        nodes=[node("MatMul", ["h", "w"], "p"), node("Tanh", ["p"], "z")],
        opset_imports=[helper.make_opsetid("", 17)],
    )
    calls = [
        helper.make_node("Layer", ["x", "first"], ["b"], domain="house"),
        helper.make_node("Layer", ["b", "second"], ["y"], domain="house"),
    ]
    return build(calls, WEIGHTS, functions=[layer], imports=[helper.make_opsetid("house", 1)])


def if_form() -> onnx.ModelProto:
    """The condition follows from the input's rank; both branches read outer values."""
    then = body([node("MatMul", ["b", "second"], "t")], [], [info("t")])
    other = body([node("MatMul", ["b", "first"], "e")], [], [info("e")])
    return build(
        [
            node("MatMul", ["x", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("Shape", ["x"], "shape"),
            node("Gather", ["shape", "one"], "width"),
            node("Equal", ["width", "six"], "is_six"),
            node("If", ["is_six"], "c", then_branch=then, else_branch=other),
            node("Tanh", ["c"], "y"),
        ],
        [
            *WEIGHTS,
            numpy_helper.from_array(np.array(1), "one"),
            numpy_helper.from_array(np.array(WIDTH), "six"),
        ],
    )


def stacked() -> list[TensorProto]:
    both = np.stack([numpy_helper.to_array(w) for w in WEIGHTS])
    return [numpy_helper.from_array(both, "both")]


def loop_form() -> onnx.ModelProto:
    """Two iterations, each of which takes its weight from a stack outside."""
    inner = body(
        [
            node("Gather", ["both", "i"], "w"),
            node("MatMul", ["h", "w"], "p"),
            node("Tanh", ["p"], "z"),
            node("Identity", ["going"], "go_on"),
        ],
        [info("i", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("h")],
        [info("go_on", [], TensorProto.BOOL), info("z")],
    )
    return build(
        [node("Loop", ["count", "", "x"], "y", body=inner)],
        [*stacked(), numpy_helper.from_array(np.array(2), "count")],
    )


def scan_form() -> onnx.ModelProto:
    inner = body(
        [node("MatMul", ["h", "w"], "p"), node("Tanh", ["p"], "z"), node("Identity", ["z"], "s")],
        [info("h", [ROWS, WIDTH]), info("w", [WIDTH, WIDTH])],
        [info("z", [ROWS, WIDTH]), info("s", [ROWS, WIDTH])],
    )
    scan = helper.make_node("Scan", ["x", "both"], ["y", "every"], body=inner, num_scan_inputs=1)
    return build([scan], stacked())


def sequence_form() -> onnx.ModelProto:
    """The input is split, put into a sequence, taken out again and joined."""
    return build(
        [
            helper.make_node("SplitToSequence", ["x", "three"], ["parts"], axis=1),
            node("SequenceAt", ["parts", "zero"], "left"),
            node("SequenceAt", ["parts", "minus"], "right"),
            helper.make_node("SequenceConstruct", ["left", "right"], ["again"]),
            node("ConcatFromSequence", ["again"], "whole", axis=1),
            node("MatMul", ["whole", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("MatMul", ["b", "second"], "c"),
            node("Tanh", ["c"], "y"),
        ],
        [
            *WEIGHTS,
            numpy_helper.from_array(np.array(3), "three"),
            numpy_helper.from_array(np.array(0), "zero"),
            numpy_helper.from_array(np.array(-1), "minus"),
        ],
    )


def shape_chain_form() -> onnx.ModelProto:
    """A flattening whose sizes are computed from the input's, as PyTorch's scripts write it."""
    return build(
        [
            node("Unsqueeze", ["x", "one"], "wide"),
            node("Shape", ["wide"], "shape"),
            node("Gather", ["shape", "zero"], "rows"),
            node("Unsqueeze", ["rows", "zeros"], "rows1"),
            node("Concat", ["rows1", "rest"], "target", axis=0),
            node("Reshape", ["wide", "target"], "flat"),
            node("MatMul", ["flat", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("MatMul", ["b", "second"], "c"),
            node("Tanh", ["c"], "y"),
        ],
        [
            *WEIGHTS,
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array(0), "zero"),
            numpy_helper.from_array(np.array([0]), "zeros"),
            numpy_helper.from_array(np.array([-1]), "rest"),
        ],
    )


def declared_form() -> onnx.ModelProto:
    """Initializers that are graph inputs too (IR 3), and nodes without names."""
    made = plain()
    made.graph.input.extend(info(w.name, list(w.dims)) for w in WEIGHTS)
    for each in made.graph.node:
        each.name = ""
    return made


def constant_node_form() -> onnx.ModelProto:
    """Weights in Constant nodes."""
    made = plain()
    constants = [helper.make_node("Constant", [], [w.name], value=w) for w in WEIGHTS]
    nodes = [*constants, *made.graph.node]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(nodes)
    return made


def optional_form() -> onnx.ModelProto:
    """Optional inputs left out by an empty name, optional outputs not asked for."""
    made = plain()
    nodes = list(made.graph.node)
    del made.graph.node[:]
    clip = node("Clip", ["b", "", ""], "b1")
    drop = helper.make_node("Dropout", ["b1", "", ""], ["b2", ""])
    nodes[2].input[0] = "b2"
    made.graph.node.extend([*nodes[:2], clip, drop, *nodes[2:]])
    return made


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        function_form,
        if_form,
        loop_form,
        scan_form,
        sequence_form,
        shape_chain_form,
        declared_form,
        constant_node_form,
        optional_form,
    )
}


@pytest.mark.exact("a stacked weight has another name than its parts, and so other noise")
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_numbers(form: str) -> None:
    loss, deviation, slopes = numbers(plain())
    found = numbers(FORMS[form]())
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert found[1] == pytest.approx(deviation, rel=1e-4)
    if "both" in found[2]:  # one tensor of two: scaled together
        assert found[2]["both"] == pytest.approx(sum(slopes.values()), rel=1e-3)
    else:
        assert found[2] == pytest.approx(slopes, rel=1e-3)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 18, 21, 23])
def test_all_opsets_give_the_same_numbers(opset: int) -> None:
    made = plain()
    made.opset_import[0].version = opset
    made.ir_version = 4 if opset < 13 else 10
    assert numbers(made)[1] == pytest.approx(numbers(plain())[1], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float16", 0.05), ("bfloat16", 0.5), ("double", 1e-4)]
)
def test_other_widths_are_computed_in_single_precision(kind: str, tolerance: float) -> None:
    dtype = getattr(TensorProto, kind.upper())
    made = plain()
    for tensor in made.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            numpy_helper.from_array(
                array.astype(helper.tensor_dtype_to_np_dtype(dtype)), tensor.name
            )
        )
    for value in [*made.graph.input, *made.graph.output]:
        value.type.tensor_type.elem_type = dtype
    found = graph_init.measure(made, data=data())
    assert found.gradient_deviation == pytest.approx(numbers(plain())[1], rel=tolerance)


def test_a_value_read_twice_by_one_node() -> None:
    made = build(
        [
            node("MatMul", ["x", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("Mul", ["b", "b"], "b2"),
            node("Concat", ["b2", "b2"], "bb", axis=1),
            node("MatMul", ["bb", "wide"], "y"),
        ],
        [WEIGHTS[0], weight("wide", 2 * WIDTH, WIDTH)],
    )
    apart = build(
        [
            node("MatMul", ["x", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("Pow", ["b", "two"], "b2"),
            node("Tile", ["b2", "twice"], "bb"),
            node("MatMul", ["bb", "wide"], "y"),
        ],
        [
            WEIGHTS[0],
            weight("wide", 2 * WIDTH, WIDTH),
            numpy_helper.from_array(np.array(2, np.float32), "two"),
            numpy_helper.from_array(np.array([1, 2]), "twice"),
        ],
    )
    assert numbers(made)[1] == pytest.approx(numbers(apart)[1], rel=1e-4)


def quantized_weight() -> onnx.ModelProto:
    return build(
        [
            node("MatMul", ["x", "first"], "a"),
            node("Tanh", ["a"], "b"),
            node("DequantizeLinear", ["small", "scale", "zero"], "dense"),
            node("MatMul", ["b", "dense"], "y"),
        ],
        [
            WEIGHTS[0],
            numpy_helper.from_array(np.arange(36, dtype=np.int8).reshape(6, 6), "small"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(3, np.int8), "zero"),
        ],
    )


def test_quantized_weights_are_reported_and_left_alone() -> None:
    kinds = {p.name: p for p in graph_init.inspect(quantized_weight()).parameters}
    assert kinds["small"].kind == "quantized"
    assert not kinds["small"].trainable
    assert not kinds["scale"].trainable
    slopes = numbers(quantized_weight())[2]
    assert set(slopes) == {"first"}


def rounded_activation() -> onnx.ModelProto:
    return build(
        [
            helper.make_node("MatMul", ["x", "first"], ["a"], "product"),
            helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"], "rounding"),
            node("DequantizeLinear", ["q", "scale", "zero"], "b"),
            node("MatMul", ["b", "second"], "y"),
        ],
        [
            *WEIGHTS,
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(3, np.int8), "zero"),
        ],
    )


def test_rounded_activations_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'rounding' \(QuantizeLinear\).*--freeze"):
        graph_init.measure(rounded_activation(), data=data())


def test_what_lies_behind_the_last_parameter_before_it_may_still_be_measured() -> None:
    slopes = numbers(rounded_activation(), freeze=["first"])[2]
    assert set(slopes) == {"second"}


def data_dependent(op: str) -> onnx.ModelProto:
    branch = body([node("MatMul", ["x", "first"], "t")], [], [info("t")])
    other = body([node("MatMul", ["x", "second"], "e")], [], [info("e")])
    inner = body(
        [
            node("MatMul", ["h", "first"], "z"),
            node("ReduceMax", ["z"], "peak", keepdims=0),
            node("Less", ["peak", "limit"], "go_on"),
        ],
        [info("i", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("h")],
        [info("go_on", [], TensorProto.BOOL), info("z")],
    )
    control = {
        "If": helper.make_node(
            "If", ["positive"], ["y"], "branching", then_branch=branch, else_branch=other
        ),
        "Loop": helper.make_node("Loop", ["", "positive", "x"], ["y"], "looping", body=inner),
    }
    return build(
        [
            node("ReduceMax", ["x"], "top", keepdims=0),
            node("Greater", ["top", "limit"], "positive"),
            control[op],
        ],
        [*WEIGHTS, numpy_helper.from_array(np.array(0, np.float32), "limit")],
    )


@pytest.mark.parametrize(("op", "name"), [("If", "branching"), ("Loop", "looping")])
def test_data_dependent_control_flow_is_named_as_such(op: str, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{name}'.*depends on the data"):
        graph_init.measure(data_dependent(op), data=data())


def test_endless_loops_are_refused() -> None:
    inner = body(
        [node("MatMul", ["h", "first"], "z"), node("Identity", ["going"], "go_on")],
        [info("i", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("h")],
        [info("go_on", [], TensorProto.BOOL), info("z")],
    )
    made = build(
        [helper.make_node("Loop", ["", "", "x"], ["y"], "endless", body=inner)], WEIGHTS[:1]
    )
    with pytest.raises(UnsupportedModelError, match=r"'endless'.*iterations"):
        graph_init.measure(made, data=data())


def test_sparse_initializers() -> None:
    dense = numpy_helper.to_array(WEIGHTS[1]).copy()
    dense[np.abs(dense) < 0.8] = 0
    places = np.argwhere(dense)
    values = dense[tuple(places.T)]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "second"),
        numpy_helper.from_array(places, "second_places"),
        list(dense.shape),
    )
    nodes = list(plain().graph.node)
    made = build(nodes, WEIGHTS[:1], sparse_initializer=[sparse])
    same = build(nodes, [WEIGHTS[0], numpy_helper.from_array(dense, "second")])
    assert numbers(made)[1] == pytest.approx(numbers(same)[1], rel=1e-5)
