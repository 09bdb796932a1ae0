"""Numbers that fail: noticed, traced to where they arose, and survived where that is possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.cli import cli
from graph_init.errors import NumericalError, UnsupportedModelError, UsageError
from graph_init.tuning import dtype_limits
from tests.small_models import deep_mlp, model, one_layer, plain_cnn, scaled


def chain(*ops: tuple[str, dict[str, Any]], weight: float = 1.0, size: int = 4) -> onnx.ModelProto:
    """h = x @ w, then the operators; constants are (name, value) in their second input."""
    w = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) * weight
    weights = [numpy_helper.from_array(w.astype(np.float32), "w")]
    nodes, at = [helper.make_node("MatMul", ["x", "w"], ["h"], "product")], "h"
    for k, (op, given) in enumerate(ops):
        inputs = [at]
        if "constant" in given:
            constant = np.asarray(given["constant"], np.float32)
            weights.append(numpy_helper.from_array(constant, f"c{k}"))
            inputs.append(f"c{k}")
        nodes.append(helper.make_node(op, inputs, [f"o{k}"], f"n{k}"))
        at = f"o{k}"
    nodes.append(helper.make_node("Identity", [at], ["y"], "last"))
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n in "xy"]
    return model(nodes, infos[:1], infos[1:], weights)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (one_layer("Exp", weight=1e30), r"node 'last' \(Exp\).*'y' holds \d+ infinite of 64"),
        (scaled(plain_cnn(4), 1e15), r"node 'conv2' \(Conv\).*'c2' holds 8192 infinite"),
        (chain(("Sqrt", {}), ("Exp", {})), r"node 'n0' \(Sqrt\).*'o0' holds \d+ NaN"),
        (chain(("Exp", {}), ("Log", {}), weight=1e5), r"node 'n0' \(Exp\).*'o0'"),
        (chain(("Mul", {"constant": 1e25})), r"every node's output is finite.*predictions reach"),
        # Infinities that a node is given are no fault: the fault is made by the one after it.
        (
            chain(("Add", {"constant": [[-np.inf] * 4]}), ("Softmax", {}), ("Log", {})),
            r"node 'n1' \(Softmax\).*'o1' holds 64 NaN",
        ),
        (chain(("Add", {"constant": np.nan})), "tensor 'c0' holds 1 NaN of 1 elements; give it"),
    ],
)
def test_a_forward_pass_names_its_first_bad_node(made: onnx.ModelProto, words: str) -> None:
    with pytest.raises(NumericalError, match=words):
        graph_init.measure(made)


def test_slices_and_differences_are_traced_alike() -> None:
    for options in ({"micro_batch": 4}, {"method": "finite-difference"}):
        with pytest.raises(NumericalError, match=r"node 'conv2' \(Conv\)"):
            graph_init.measure(scaled(plain_cnn(4), 1e15), **options)


def test_a_gradient_and_its_change_name_the_parameter() -> None:
    rooted = chain(("Relu", {}), ("Sqrt", {}))  # finite, with an infinite slope at zero
    with pytest.raises(NumericalError, match="the gradient of 'w' is not finite"):
        graph_init.measure(rooted)
    steep = chain(("Mul", {"constant": 1e11}), weight=1e-4)
    with pytest.raises(NumericalError, match="the change of the gradient of 'w' is not finite"):
        graph_init.measure(steep, loss="mse")
    with pytest.raises(
        NumericalError, match="the gradient of 'head' .*reaches.* and of 6 more is not finite"
    ):
        graph_init.measure(with_root(plain_cnn(3)), loss="mse", output_name="root")


def with_root(made: onnx.ModelProto) -> onnx.ModelProto:
    made.graph.node.append(helper.make_node("Relu", ["logits"], ["positive"], "positive"))
    made.graph.node.append(helper.make_node("Sqrt", ["positive"], ["root"], "root"))
    made.graph.output.append(
        helper.make_tensor_value_info("root", TensorProto.FLOAT, ["batch", 10])
    )
    return made


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e8, 1e30])
def test_starts_that_overflow_or_die_are_restored(factor: float, tmp_path: Path) -> None:
    result = graph_init.initialize(scaled(deep_mlp(6), factor), updates=10)
    assert result.after.output_std > 0.1 and not result.after.warnings
    assert np.isfinite(result.after.gradient_deviation) and np.isfinite(result.after.loss)
    overflows = factor >= 1e8
    assert bool(result.notes) == overflows
    if overflows:
        assert "at the start the loss is" in result.notes[0] and "node 'MatMul" in result.notes[0]
        assert not np.isfinite(result.before.loss)
        content = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert content["before"]["loss"] is None and content["notes"] == result.notes
    result.save(tmp_path / "o.onnx")
    result.save_report(tmp_path / "r.html")
    assert all("MatMul" in n and n[:20] in (tmp_path / "r.html").read_text() for n in result.notes)
    assert graph_init.measure(tmp_path / "o.onnx").loss == pytest.approx(result.after.loss, rel=0.5)


def test_healthy_models_are_tried_in_three_states_as_ever() -> None:
    states = [h.state for h in graph_init.initialize(deep_mlp(4), updates=5).history]
    assert len(states) == 3 and not any("fan-in" in s for s in states)
    dead = graph_init.initialize(scaled(deep_mlp(6), 1e-20), updates=5)
    assert [h.state for h in dead.history][-1].endswith("from 1/√fan-in")


def test_what_scales_cannot_mend_is_5_and_names_the_node(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(chain(("Sqrt", {})), path)
    for more in ((), ("--tuner", "metainit", "--steps", "2")):
        found = CliRunner().invoke(cli, ["initialize", str(path), "-o", str(out), *more])
        assert found.exit_code == 5 and "node 'n0' (Sqrt)" in found.stderr, found.output
        assert not out.exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad: float, tmp_path: Path) -> None:
    made = deep_mlp(2)
    array = numpy_helper.to_array(made.graph.initializer[1]).copy()
    array[2, 3] = bad
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, "w1"))
    for function in (graph_init.measure, graph_init.initialize):
        with pytest.raises(NumericalError, match="parameter 'w1' holds 1 .* of 1024 elements"):
            function(made)
    assert graph_init.initialize(made, scheme="he", updates=2).after.loss > 0
    scales = {"format": "graph-init/scales", "version": 1, "scales": {"w1": 2.0}}
    twice = graph_init.apply(scales, made).model.graph.initializer[1]
    np.testing.assert_array_equal(numpy_helper.to_array(twice), array * 2)


def test_wider_than_float32(tmp_path: Path) -> None:
    made = plain_cnn(2, dtype=np.float64)
    array = numpy_helper.to_array(made.graph.initializer[0]).copy()
    array[:] *= 1e300
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w0"))
    with pytest.raises(NumericalError, match="parameter 'w0' holds 216 infinite"):
        graph_init.measure(made)


def test_factors_are_kept_where_the_type_can_hold_them(tmp_path: Path) -> None:
    ones = np.ones(10, np.float32)
    for factor, size, dtype, taken in (
        (1e6, 1.0, "float16", 65504.0),
        (1e-9, 1.0, "float16", 64 * 2.0**-24),
        (0.5, 1e-7, "float16", 1.0),  # that which is too small already is not made smaller
        (2.0, 65504, "float16", 1.0),
    ):
        found = dtype_limits.limit(factor, ones * np.float32(size), dtype)
        assert found is not None and found.taken == pytest.approx(taken, rel=1e-6)
        assert dtype in found.sentence("w", dtype)
    for factor, size, dtype in (
        (2.0, 1.0, "float16"),
        (1e-30, 1.0, "bfloat16"),
        (1e9, 1, "float32"),
    ):
        assert dtype_limits.limit(factor, ones * np.float32(size), dtype) is None
    assert dtype_limits.limit(3.0, 0 * ones, "float16") is None
    # The first layer reads numbers so large that its weights would have to be 1e-8.
    made = chain(("Tanh", {}), size=8)
    made.graph.node[0].input[0] = "large"
    made.graph.node.insert(0, helper.make_node("Mul", ["x", "million"], ["large"], "scale"))
    made.graph.initializer.append(numpy_helper.from_array(np.float16(6e4), "million"))
    for tensor in made.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = graph_init.initialize(made, updates=5)
    assert result.scales["w"] < 1e-4
    result.save(tmp_path / "o.onnx")
    new = numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0])
    old = numpy_helper.to_array(made.graph.initializer[0]).astype(np.float64)
    exact = old * result.scales["w"]
    assert np.linalg.norm(new - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("factor", [1e-44, 1e38])
def test_a_factor_that_does_not_fit_is_refused(dtype: Any, factor: float, tmp_path: Path) -> None:
    made = plain_cnn(2)
    w = made.graph.initializer[0]
    narrow = (100 * numpy_helper.to_array(w)).astype(dtype)
    w.CopyFrom(numpy_helper.from_array(narrow, "w0"))
    scales = {"format": "graph-init/scales", "version": 1, "scales": {"w0": factor}}
    with pytest.raises(NumericalError, match=f"'w0' times .* does not fit {np.dtype(dtype)}"):
        graph_init.apply(scales, made).save(tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_zero_weights_have_no_direction() -> None:
    with pytest.raises(UnsupportedModelError, match="no parameter is scalable .*'w'.*all zeros"):
        graph_init.initialize(one_layer("Tanh", weight=0.0))
    assert graph_init.measure(one_layer("Tanh", weight=0.0)).parameters[0].norm == 0


@pytest.mark.parametrize("tuner", [graph_init.MetaInit(steps=5), graph_init.Restore(updates=5)])
def test_one_element(tuner: Any) -> None:
    """A single scalable tensor of one element, and a batch of one."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in "xy"]
    array = numpy_helper.from_array(np.full((1, 1), 3, np.float32), "w")
    result = graph_init.initialize(
        model(nodes, infos[:1], infos[1:], [array]), tuner=tuner, batch_size=1
    )
    assert np.isfinite(result.scales["w"]) and result.scales["w"] > 0
    assert np.isfinite(result.after.gradient_deviation)


def test_gradients_that_are_zero() -> None:
    found = graph_init.measure(chain(("Mul", {"constant": 0.0})), scale_gradient=True)
    assert found.gradient_deviation == pytest.approx(1) and found.vanished_fraction == 1
    assert found.gradient_norm == 0 and found.warnings
    result = graph_init.initialize(chain(("Mul", {"constant": 0.0})), updates=3)
    assert np.isfinite(result.scales["w"]) and result.after.warnings


def test_a_batch_of_one_and_constant_inputs() -> None:
    zeros = {"x": np.zeros((1, 32), np.float32), "target": np.ones((1, 10), np.float32)}
    for batch in (None, zeros):
        found = graph_init.initialize(deep_mlp(3), data=batch, batch_size=1, updates=3)
        assert np.isfinite(found.after.gradient_deviation)
        assert all(np.isfinite(s) and s > 0 for s in found.scales.values())
    normed = chain()
    normed.graph.node.insert(
        1,
        helper.make_node(
            "BatchNormalization",
            ["h", "g", "b", "m", "v"],
            ["normed"],
            "norm",
        ),
    )
    normed.graph.node[2].input[0] = "normed"
    for name, value in (("g", 1), ("b", 0), ("m", 0), ("v", 1)):
        array = np.full(4, value, np.float32)
        normed.graph.initializer.append(numpy_helper.from_array(array, name))
    found = graph_init.measure(normed, batch_size=1, batch_norm="train")
    assert np.isfinite(found.gradient_deviation)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": np.array([0, 1, 2, 10])}, "labels from 0 to 10, but the model has 10 classes"),
        ({"target": np.array([0, 1, 2, -1])}, "labels from -1 to 2"),
        ({"target": np.array([0, 1, 2, 1.5])}, "'target' has fractions"),
        ({"target": np.array([0, 1, 2, np.nan])}, "'target' has fractions or NaN"),
        ({"target": np.array(["cat", "dog", "cat", "dog"])}, "elements of type <U3"),
        ({"target": np.zeros((4, 10))}, r"'target' has shape \(4, 10\)"),
        ({"x": np.zeros((4, 3, 8, 8), complex)}, "elements of type complex128"),
        ({"x": np.full((4, 3, 8, 8), np.nan)}, r"'x' holds 768 NaN .* in row 0"),
        ({"x": np.full((4, 3, 8, 8), 1e300)}, "the model computes in float32"),
        ({"x": np.zeros((0, 3, 8, 8)), "target": np.zeros(0, int)}, "holds no rows"),
        ({"x": np.zeros((4, 3, 0, 8))}, "has shape"),
    ],
)
def test_data_that_cannot_be_used(change: dict[str, Any], words: str) -> None:
    data = {"x": np.zeros((4, 3, 8, 8), np.float32), "target": np.arange(4)} | change
    with pytest.raises(UsageError, match=words):
        graph_init.measure(plain_cnn(2), data=data)


def test_masks_of_minus_infinity_are_data() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Add", ["h", "mask"], ["masked"], "mask"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax"),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "mask")]
    w = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    made = model(nodes, infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [w])
    mask = np.zeros((3, 4), np.float32)
    mask[:, 3] = -np.inf
    data = {"x": np.ones((3, 4), np.float32), "mask": mask, "target": np.arange(3)}
    assert np.isfinite(graph_init.measure(made, data=data).loss)
    mask[0] = -np.inf
    with pytest.raises(NumericalError, match="the loss|the gradient"):
        graph_init.measure(made, data=data)


def test_compare_says_which_state_failed_and_why(tmp_path: Path) -> None:
    made = scaled(plain_cnn(4), 1e15)
    rng = np.random.default_rng(0)
    data = {
        "x": rng.standard_normal((32, 3, 8, 8)).astype(np.float32),
        "target": rng.integers(0, 10, 32),
    }
    plan = graph_init.Plan(schemes=["keep", "he"], seeds=1, updates=2, optimizers=["sgd"])
    found = graph_init.compare(made, data, plan=plan)
    problems = {s.name: s.problem for s in found.states}
    assert "node 'conv2' (Conv)" in (problems["keep"] or "")
    assert problems["he"] is None and problems["keep, tuned"] is None
