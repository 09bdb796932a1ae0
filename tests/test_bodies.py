"""Weights inside the bodies of Loop and Scan are parameters, written back where they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graph_init
from graph_init import sizes
from graph_init.analysis import analyze
from graph_init.cli import cli
from graph_init.engine.session import open_session
from graph_init.init.lsuv import UnitVariance
from graph_init.ir import Array
from graph_init.model.load import load
from graph_init.problem import forward_graph
from tests.sized_models import FLOAT, INT, node, weight

ROWS, WIDTH, STEPS = 5, 4, 3
W, B, V = weight("inner", WIDTH, WIDTH), weight("shift", WIDTH), weight("outside", WIDTH, WIDTH)
ALWAYS = numpy_helper.from_array(np.array(True), "always")


def info(name: str, shape: list[Any], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def finished(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, node("MatMul", ["h", "outside"], ["y"], "head")],
        "g",
        [info("x", ["n", WIDTH])],
        [info("y", ["n", WIDTH])],
        initializer=[*tensors, V],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layer(read: str, made: str) -> list[onnx.NodeProto]:
    return [
        node("MatMul", [read, "inner"], [f"{made}_p"], f"product_{made}"),
        node("Add", [f"{made}_p", "shift"], [f"{made}_s"], f"sum_{made}"),
        node("Tanh", [f"{made}_s"], [made], f"tanh_{made}"),
    ]


def unrolled() -> onnx.ModelProto:
    """Three layers of the same weights."""
    nodes = [n for k in range(STEPS) for n in layer(f"h{k}" if k else "x", f"h{k + 1}")]
    return finished([*nodes, node("Identity", ["h3"], ["h"], "same")], [W, B])


def looped(as_constants: bool = False) -> onnx.ModelProto:
    """The same as a Loop, whose body holds the weights: as initializers, or in Constant nodes."""
    made = [node("Constant", [], [t.name], f"make_{t.name}", value=t) for t in (W, B)]
    body = helper.make_graph(
        [
            *(made if as_constants else []),
            *layer("before", "after"),
            node("Identity", ["going"], ["on"], "go_on"),
        ],
        "body",
        [info("k", [], INT), info("going", [], TensorProto.BOOL), info("before", ["n", WIDTH])],
        [info("on", [], TensorProto.BOOL), info("after", ["n", WIDTH])],
        initializer=[] if as_constants else [W, B],
    )
    loop = node("Loop", ["times", "always", "x"], ["h"], "loop", body=body)
    return finished([loop], [numpy_helper.from_array(np.array(STEPS), "times"), ALWAYS])


def scanned() -> onnx.ModelProto:
    """The same as a Scan over three whole zeros, which are added."""
    body = helper.make_graph(
        [
            *layer("before", "turned"),
            node("Cast", ["zero"], ["none"], "float", to=FLOAT),
            node("Add", ["turned", "none"], ["after"], "nothing"),
        ],
        "body",
        [info("before", ["n", WIDTH]), info("zero", [1], INT)],
        [info("after", ["n", WIDTH])],
        initializer=[W, B],
    )
    scan = node("Scan", ["x", "zeros"], ["h"], "scan", body=body, num_scan_inputs=1)
    zeros = numpy_helper.from_array(np.zeros((STEPS, 1), np.int64), "zeros")
    return finished([scan], [zeros])


def nested() -> onnx.ModelProto:
    """A Loop of one iteration around the Loop."""
    inner = looped()
    loop = inner.graph.node[0]
    loop.input[2], loop.output[0] = "outer_before", "outer_after"
    body = helper.make_graph(
        [loop, node("Identity", ["outer_going"], ["outer_on"], "outer_go_on")],
        "outer_body",
        [
            info("j", [], INT),
            info("outer_going", [], TensorProto.BOOL),
            info("outer_before", ["n", WIDTH]),
        ],
        [info("outer_on", [], TensorProto.BOOL), info("outer_after", ["n", WIDTH])],
    )
    outer = node("Loop", ["once", "always", "x"], ["h"], "outer", body=body)
    counts = {"times": STEPS, "once": 1}
    tensors = [numpy_helper.from_array(np.array(n), k) for k, n in counts.items()]
    return finished([outer], [*tensors, ALWAYS])


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializers": looped,
    "constants": lambda: looped(as_constants=True),
    "scan": scanned,
    "nested": nested,
}


def data() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for n in ("x", "target")}


def outputs(model: onnx.ModelProto) -> Array:
    found: Array = ReferenceEvaluator(model).run(None, {"x": data()["x"]})[0]
    return found


def held(model: onnx.ModelProto) -> dict[str, Array]:
    """All floats of a file, by name, wherever they are."""
    found = {}

    def walk(graph: onnx.GraphProto) -> None:
        found.update({t.name: numpy_helper.to_array(t) for t in graph.initializer})
        for each in graph.node:
            for attribute in each.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)
                elif each.op_type == "Constant":
                    found[each.output[0]] = numpy_helper.to_array(attribute.t)

    walk(model.graph)
    return {n: a for n, a in found.items() if a.dtype == np.float32}


@pytest.mark.parametrize("form", FORMS)
def test_as_if_written_out(form: str) -> None:
    model = FORMS[form]()
    np.testing.assert_allclose(outputs(model), outputs(unrolled()), rtol=1e-5, atol=1e-6)
    expected, found = (
        graph_init.measure(m, data=data(), scale_gradient=True) for m in (unrolled(), model)
    )
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.gradient_deviation == pytest.approx(expected.gradient_deviation, rel=1e-4)
    slopes = [
        {p.name: p.log_scale_gradient for p in m.parameters if p.scalable}
        for m in (expected, found)
    ]
    assert set(slopes[1]) == {"inner", "outside"}
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_listed_as_what_they_are(form: str) -> None:
    rows = {p.name: p for p in graph_init.inspect(FORMS[form]()).parameters}
    assert (rows["inner"].kind, rows["inner"].trainable, rows["inner"].scalable) == (
        "matrix",
        True,
        True,
    )
    assert rows["shift"].kind == "bias" and rows["shift"].trainable
    assert (rows["inner"].fan_in, rows["inner"].fan_out) == (WIDTH, WIDTH)


def scaled(model: onnx.ModelProto, factors: dict[str, float]) -> onnx.ModelProto:
    """``model`` with tensors multiplied where they are, by hand."""
    made = copy.deepcopy(model)

    def change(tensor: onnx.TensorProto, name: str) -> None:
        if name in factors:
            new = numpy_helper.to_array(tensor) * np.float32(factors[name])
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))

    def walk(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            change(tensor, tensor.name)
        for each in graph.node:
            for attribute in each.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)
                elif each.op_type == "Constant":
                    change(attribute.t, each.output[0])

    walk(made.graph)
    return made


def test_derivatives_add_up_over_iterations() -> None:
    """∂GD/∂log s of the body's weight against central differences of the file's own deviation."""
    model, step = looped(), 1e-2
    found = graph_init.measure(model, data=data(), scale_gradient=True)
    slopes = {p.name: p.log_scale_gradient for p in found.parameters}
    ends = [
        graph_init.measure(scaled(model, {"inner": np.exp(s)}), data=data()).gradient_deviation
        for s in (-step, step)
    ]
    assert slopes["inner"] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=0.02)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tuner", ["restore", "metainit"])
def test_written_where_they_are(form: str, tuner: str, tmp_path: Path) -> None:
    model = FORMS[form]()
    more = {"updates": 2} if tuner == "restore" else {"steps": 4}
    result = graph_init.initialize(model, tuner=tuner, scheme="he", batch_size=8, **more)
    assert "inner" in result.scales
    written = result.model
    assert [n.op_type for n in written.graph.node] == [n.op_type for n in model.graph.node]
    before, after = held(model), held(written)
    assert before.keys() == after.keys()
    assert not np.array_equal(before["inner"], after["inner"])
    # What was measured is what the file gives.
    again = graph_init.measure(written, data=data())
    unrolled_again = unrolled()
    for tensor in unrolled_again.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(after[tensor.name], tensor.name))
    assert again.gradient_deviation == pytest.approx(
        graph_init.measure(unrolled_again, data=data()).gradient_deviation, rel=1e-4
    )


def test_apply_finds_them(tmp_path: Path) -> None:
    for name, form in FORMS.items():
        model = form()
        factors = {"inner": 2.0, "outside": 0.5}
        saved = {"format": "graph-init/scales", "version": 1, "scales": factors}
        result = graph_init.apply(saved, model)
        np.testing.assert_allclose(
            outputs(result.model), outputs(scaled(model, factors)), rtol=1e-5
        )
        file, scales, out = (tmp_path / f"{name}.{e}" for e in ("onnx", "json", "out.onnx"))
        onnx.save(model, file)
        tuned = graph_init.initialize(str(file), updates=0, scheme="he")
        tuned.save_scales(scales)
        done = CliRunner().invoke(cli, ["apply", str(scales), str(file), "-o", str(out)])
        assert done.exit_code == 0, done.output


def test_frozen_and_chosen_by_name() -> None:
    frozen = graph_init.measure(looped(), data=data(), freeze=["inner"])
    assert {p.name for p in frozen.parameters} == {"shift", "outside"}


def test_a_layer_before_a_loop_with_weights_is_not_the_last() -> None:
    """restore tries smaller outputs of last layers, and what the Loop holds is behind this one."""
    model = looped()
    del model.graph.node[1]
    model.graph.node[0].output[0] = "y"
    first = weight("first", WIDTH, WIDTH)
    model.graph.initializer.append(first)
    model.graph.node.insert(0, node("MatMul", ["x", "first"], ["z"], "before_the_loop"))
    model.graph.node[1].input[2] = "z"
    loaded = load(model)
    parameters = analyze(loaded.ir)
    seen = UnitVariance(parameters)
    forward_graph.build(
        loaded,
        parameters,
        forward_graph.initial_values(loaded),
        forward_graph.GraphSettings(sizes.solve(loaded.ir)),
        graph_pass=seen,
    )
    assert (set(seen.factors), seen.inner) == ({"first", "inner"}, {"first", "inner"})


def restoration(model: onnx.ModelProto) -> tuple[dict[str, float], set[str]]:
    """The factors that restore the signal on one batch, and which layers are not the last ones."""
    loaded = load(model)
    parameters = analyze(loaded.ir)
    seen = UnitVariance(parameters)
    values = forward_graph.initial_values(loaded)
    settings = forward_graph.GraphSettings(sizes.solve(loaded.ir, sizes.Request(rows=ROWS)))
    problem = forward_graph.build(loaded, parameters, values, settings, graph_pass=seen)
    session = open_session(problem.builder.program(list(seen.factors.values())))
    found = session({**problem.fed, **values, "x": data()["x"]}).values()
    return {n: float(f) for n, f in zip(seen.factors, found, strict=True)}, seen.inner


@pytest.mark.parametrize("form", FORMS)
def test_the_signal_is_restored_as_if_written_out(form: str) -> None:
    factors, inner = restoration(FORMS[form]())
    expected, last = restoration(unrolled())
    assert set(factors) == {"inner", "outside"}
    assert factors == pytest.approx(expected, rel=1e-4)
    assert inner == last == {"inner"}


def test_a_weight_turned_around_in_the_body_is_restored() -> None:
    """Its view is made anew from the scaled weight, in every iteration."""
    model, turned = looped(), unrolled()
    body = model.graph.node[0].attribute[0].g
    for graph in (body, turned.graph):
        for each in graph.node:
            if each.op_type == "MatMul" and "inner" in each.input:
                each.input[1] = "turned"
        graph.node.insert(0, node("Transpose", ["inner"], ["turned"], "turn", perm=[1, 0]))
    factors, _ = restoration(model)
    assert factors == pytest.approx(restoration(turned)[0], rel=1e-4)
    assert factors["inner"] != pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("form", ["initializers", "scan"])
def test_restore_scales_them(form: str) -> None:
    """From weights that are far too large, of which the start's trials diverge."""
    model = scaled(FORMS[form](), {"inner": 30.0, "outside": 1e3})
    result = graph_init.initialize(model, updates=3, batch_size=8)
    assert result.scales["inner"] < 0.1 and result.scales["outside"] < 0.01
