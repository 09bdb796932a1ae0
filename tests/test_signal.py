"""The tuner that restores the signal, and tries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

import graph_init
from graph_init.analysis import analyze
from graph_init.cli import cli
from graph_init.init.lsuv import UnitVariance
from graph_init.model.load import load
from graph_init.options import Options
from graph_init.problem import workload
from graph_init.problem.forward_graph import initial_values
from tests import small_models
from tests.small_models import deep_mlp, scaled


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_dead_start_trains_after_it(factor: float) -> None:
    model = scaled(deep_mlp(), factor)
    result = graph_init.initialize(model, tuner="restore", batch_size=16, loss="cross-entropy")
    start, *others = result.history
    assert start.state == "start"
    before = np.inf if start.trial_loss is None else start.trial_loss
    guessing = np.log(10)
    assert before > 0.9 * guessing
    # From 0.67 to 1.32 over eight seeds of the batch.
    assert min(e.trial_loss for e in others) < 0.7 * guessing
    assert min(abs(np.log(s)) for n, s in result.scales.items() if n != "head") > 0.1
    # One deviation of the output that is tried, on other batches.
    assert min(abs(np.log(result.after.output_std / t)) for t in (0.3, 1.0)) < 0.5


def test_every_layer_has_unit_deviation() -> None:
    result = graph_init.initialize(
        scaled(small_models.plain_cnn(depth=8), 0.3), tuner="restore", batch_size=64
    )
    model = result.model
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    for node in convolutions:
        model.graph.output.append(helper.make_empty_tensor_value_info(node.output[0]))
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(5).standard_normal((64, 3, 8, 8), np.float32)
    found = session.run([n.output[0] for n in convolutions], {"x": x})
    assert [f.std() for f in found] == pytest.approx([1] * len(found), rel=0.25)


def test_half_the_deviation_before_activations_that_saturate() -> None:
    model = deep_mlp(depth=6)
    for node in model.graph.node:
        if node.op_type == "Relu" and node.input[0] in ("m1", "m3"):
            node.op_type = "Tanh"
    result = graph_init.initialize(
        scaled(model, 3.0), tuner="restore", batch_size=256, loss="cross-entropy"
    )
    inner = result.model
    layers = [f"m{k}" for k in range(6)]
    for name in layers:
        inner.graph.output.append(helper.make_empty_tensor_value_info(name))
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        inner.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(5).standard_normal((256, 32), np.float32)
    found = [f.std() for f in session.run(layers, {"x": x})]
    assert found == pytest.approx([1, 0.5, 1, 0.5, 1, 1], rel=0.15)


def test_its_own_result_is_kept() -> None:
    model = scaled(small_models.plain_cnn(depth=8), 0.3)
    first = graph_init.initialize(model, tuner="restore")
    again = graph_init.initialize(first.model, tuner="restore")
    assert again.history[0].trial_loss <= 1.05 * min(e.trial_loss for e in again.history[1:])
    assert set(again.scales.values()) == {1.0}


def test_rates_fall_until_one_is_stable() -> None:
    """At all rates up to 0.01 a network as wide as this does not train."""
    model = deep_mlp(depth=6, width=1500)
    result = graph_init.initialize(model, tuner="restore", batch_size=4, loss="cross-entropy")
    assert min(e.trial_loss for e in result.history) < 0.5


@pytest.mark.parametrize(("factor", "changed"), [(0.3, True), (1.0, False)])
def test_where_the_trials_cannot_tell_an_unsound_start_goes(factor: float, changed: bool) -> None:
    """Every state can learn a single row."""
    model = scaled(deep_mlp(), factor)
    found = graph_init.initialize(model, tuner="restore", batch_size=1, loss="cross-entropy")
    assert (set(found.scales.values()) != {1.0}) == changed


@pytest.mark.parametrize(("activation", "factor"), [("Tanh", 6.0), ("Tanh", 1.0), ("Relu", 1.5)])
def test_deviation_decides_where_a_network_that_saturates_has_learnt_the_batch(
    activation: str, factor: float
) -> None:
    model = scaled(deep_mlp(depth=3), factor)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = activation
    found = graph_init.initialize(model, batch_size=8, loss="cross-entropy")
    start, *others = found.history
    assert all(e.trial_loss < 0.005 for e in found.history)
    lowest = min(e.gradient_deviation for e in others)
    better = lowest < 0.8 * start.gradient_deviation
    assert better or activation == "Tanh"
    assert better or factor < 6
    changed = better and activation == "Tanh"
    assert (set(found.scales.values()) != {1.0}) == changed
    if changed:
        assert found.history[found.best_step].gradient_deviation == lowest


def test_no_steps_leave_the_model() -> None:
    result = graph_init.initialize(small_models.plain_cnn(), tuner="restore", updates=0)
    assert result.history == []
    assert set(result.scales.values()) == {1.0}


def test_an_interrupt_keeps_the_best_so_far() -> None:
    def stop(entry: graph_init.HistoryEntry) -> None:
        if entry.step == 1:
            raise KeyboardInterrupt

    model = scaled(small_models.plain_cnn(depth=8), 0.3)
    result = graph_init.initialize(model, tuner="restore", on_step=stop)
    assert result.interrupted
    assert len(result.history) == 2
    assert set(result.scales.values()) != {1.0}


def test_the_last_layer_is_that_behind_which_there_is_none() -> None:
    """Two heads over a trunk with a skip."""
    rng = np.random.default_rng(0)
    names = ("first", "branch", "left", "right")
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), n) for n in names
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "branch"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node("MatMul", ["d", "left"], ["e"]),
        helper.make_node("MatMul", ["d", "right"], ["f"]),
        helper.make_node("Concat", ["e", "f"], ["y"], axis=1),
    ]
    model = small_models.model(
        nodes,
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        weights,
    )
    loaded = load(model)
    parameters = analyze(loaded.ir)
    values = initial_values(loaded)
    options = Options(batch_size=4)
    visitor = UnitVariance(parameters)
    workload.build(loaded, parameters, values, options).rebuild(visitor)
    assert set(visitor.factors) == set(names)
    assert visitor.inner == {"first", "branch"}


def test_the_command(tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(scaled(small_models.plain_cnn(depth=8), 0.3), source)
    given = ["initialize", str(source), "-o", str(out), "--tuner", "restore", "--json"]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [e["step"] for e in content["history"]] == [0, 1, 2]
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    for name, factor in content["scales"].items():
        np.testing.assert_allclose(weights[name], before[name] * factor, rtol=1e-6)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(graph_init.GraphInitError, match="--tuner metainit"):
        graph_init.initialize(
            deep_mlp(depth=4, width=2000), tuner="restore", memory_limit="400MB", batch_size=1
        )
