"""Warnings about states that have collapsed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.cli import cli
from graph_init.deviation import collapse
from tests import small_models
from tests.small_models import deep_mlp, scaled


@pytest.mark.parametrize("method", ["taylor", "finite-difference"])
def test_vanished_fractions_of_the_tensors_make_the_whole(method: str) -> None:
    found = graph_init.measure(small_models.plain_cnn(), method=method)
    whole = sum(p.vanished_fraction * p.elements for p in found.parameters)
    assert whole == pytest.approx(found.vanished_fraction * found.elements, abs=0.1)


def test_a_healthy_network_has_no_warning() -> None:
    assert graph_init.measure(deep_mlp()).warnings == []


def test_vanished_gradients_and_a_dead_signal() -> None:
    gradients, cut, signal = graph_init.measure(scaled(deep_mlp(), 0.05)).warnings
    assert gradients.startswith("100% of the gradient is below 1e-05")
    assert cut == "no gradient reaches 'w0', 'w1', 'w2' and 10 more"
    assert signal.startswith("the output's standard deviation is")


def test_a_network_that_is_cut() -> None:
    """No unit of the fourth layer is ever active."""
    model = deep_mlp(depth=6)
    at = next(k for k, n in enumerate(model.graph.node) if n.op_type == "Relu" and "m3" in n.input)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([-1e3]), "low"))
    model.graph.node.insert(at, helper.make_node("Add", ["m3", "low"], ["low_m3"]))
    model.graph.node[at + 1].input[0] = "low_m3"
    assert "no gradient reaches 'w0', 'w1', 'w2' and 4 more" in graph_init.measure(model).warnings


def test_rows_of_a_table_that_no_batch_reads_are_no_collapse() -> None:
    rng = np.random.default_rng(0)
    model = small_models.model(
        [
            helper.make_node("Gather", ["table", "x"], ["row"]),
            helper.make_node("MatMul", ["row", "w"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(rng.standard_normal((5000, 8)).astype(np.float32), "table"),
            numpy_helper.from_array(rng.standard_normal((8, 4)).astype(np.float32), "w"),
        ],
    )
    found = graph_init.measure(model)
    assert found.vanished_fraction > 0.9
    assert found.warnings == []


@pytest.mark.parametrize(
    ("fractions", "std", "expected"),
    [
        ((0.4, 0.4), 1.0, []),
        ((0.4, 0.9), 1.0, ["65% of the gradient"]),
        ((0.0, 1.0), 1.0, ["no gradient reaches 'b'"]),
        ((0.0, 0.0), 1e-4, ["the output's standard deviation is 0.0001"]),
    ],
)
def test_each_warning_by_itself(
    fractions: tuple[float, float], std: float, expected: list[str]
) -> None:
    sizes = (10, 10) if fractions[1] < 1 else (10, 5)
    rows = [
        graph_init.ParameterMeasurement(
            n,
            "matrix",
            (e,),
            e,
            scalable=True,
            norm=1.0,
            gradient_deviation=0.0,
            vanished_fraction=f,
        )
        for n, e, f in zip("ab", sizes, fractions, strict=True)
    ]
    found = collapse.warnings(rows, std)
    assert len(found) == len(expected)
    assert all(f.startswith(e) for f, e in zip(found, expected, strict=True))


def test_the_commands_warn_beside_their_output(tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(scaled(deep_mlp(), 0.05), source)
    measured = CliRunner().invoke(cli, ["measure", str(source), "--json"])
    assert "warning: 100% of the gradient" in measured.stderr
    assert len(json.loads(measured.stdout)["warnings"]) == 3
    arguments = ["initialize", str(source), "-o", str(out), "--tuner", "metainit", "--steps", "1"]
    tuned = CliRunner().invoke(cli, [*arguments, "--json"])
    assert "warning: after tuning, 100% of the gradient" in tuned.stderr
    assert len(json.loads(tuned.stdout)["after"]["warnings"]) == 3


def test_a_comparison_names_the_states() -> None:
    x = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    plan = graph_init.Plan(
        schemes=("keep", "he"), tune=False, seeds=2, updates=2, optimizers=("sgd",)
    )
    data = {"x": x, "target": np.zeros(64, np.int64)}
    found = graph_init.compare(scaled(deep_mlp(), 0.05), data, plan=plan, loss="cross-entropy")
    (warning,) = found.warnings
    assert warning.startswith("keep (2 of 2 seeds): 100% of the gradient")
    assert found.to_json()["warnings"] == [warning]
