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
from graph_init.deviation.collapse import Signs
from graph_init.tuning.loop import TuningResult
from graph_init.tuning.restore import Candidate, Restorer
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
    found = collapse.signs(rows, [r.vanished_fraction for r in rows], std).sentences
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


def one_number(rows: int | str = 1) -> onnx.ModelProto:
    """A network with one output, for a batch of ``rows``."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 16), "w1": (16, 1)}
    return small_models.model(
        [
            helper.make_node("MatMul", ["x", "w0"], ["a"]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "w1"], ["c"]),
            helper.make_node("Sigmoid", ["c"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 1])],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in shapes.items()
        ],
    )


@pytest.mark.parametrize("method", ["taylor", "finite-difference"])
def test_a_single_number_has_no_standard_deviation(method: str) -> None:
    found = graph_init.measure(one_number(), method=method)
    assert np.isnan(found.output_std)
    assert found.warnings == []
    assert found.to_json()["output_std"] is None


def test_several_rows_of_one_number_have_one_in_slices_too() -> None:
    whole = graph_init.measure(one_number("n"), batch_size=4)
    slices = graph_init.measure(one_number("n"), batch_size=4, micro_batch=1)
    assert whole.output_std > 0.01
    assert slices.output_std == pytest.approx(whole.output_std, rel=1e-4)


def test_a_single_number_does_not_speak_against_the_start() -> None:
    result = graph_init.initialize(one_number())
    assert set(result.scales.values()) == {1.0}
    assert result.after.warnings == []


HEALTHY = Signs(0.0, (), 1.0)
ONES = np.ones(1)


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        (Candidate(scales=ONES, first=1.0, last=0.1, signs=HEALTHY, deviation=1.0), True),
        (
            Candidate(scales=ONES, first=1.0, last=0.1, signs=Signs(0.65, (), 1.0), deviation=1.0),
            False,
        ),
        (
            Candidate(
                scales=ONES, first=1.0, last=0.1, signs=Signs(0.0, ("w",), 1.0), deviation=1.0
            ),
            False,
        ),
        (
            Candidate(scales=ONES, first=1.0, last=0.1, signs=Signs(0.0, (), 1e-4), deviation=1.0),
            False,
        ),
        (Candidate(scales=ONES, first=2158.0, last=0.1, signs=HEALTHY, deviation=1.0), False),
        (Candidate(scales=ONES, first=1.0, last=0.1, signs=HEALTHY, deviation=np.inf), False),
    ],
    ids=["healthy", "vanished", "cut", "dead", "exploded", "not finite"],
)
@pytest.mark.parametrize("saturates", [False, True])
def test_a_state_that_is_cut_off_is_not_taken(
    other: Candidate, taken: bool, saturates: bool
) -> None:
    start = Candidate(scales=ONES, first=0.53, last=0.5, signs=HEALTHY, deviation=2.0)
    restorer = object.__new__(Restorer)
    assert (restorer.choose([start, other], saturates) is other) == taken


def test_of_two_cut_states_the_trials_choose() -> None:
    start = Candidate(
        scales=ONES, first=1.0, last=1.0, signs=Signs(1.0, ("a", "b"), 0.0), deviation=1.0
    )
    other = Candidate(scales=ONES, first=1.0, last=0.1, signs=Signs(0.6, (), 0.3), deviation=1.0)
    assert object.__new__(Restorer).choose([start, other], False) is other


def test_where_other_batches_show_a_collapse_the_start_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the choice is made on need not show it."""
    entry = graph_init.HistoryEntry(
        step=0, gradient_deviation=1.0, loss=1.0, gradient_norm=1.0, vanished_fraction=0.0
    )
    dead = TuningResult(np.full(13, 0.05), 1, [entry], False)
    monkeypatch.setattr(Restorer, "__call__", lambda *_: dead)
    result = graph_init.initialize(deep_mlp())
    assert set(result.scales.values()) == {1.0}
    assert (result.after, result.best_step) == (result.before, 0)
    assert result.after.warnings == []
    (note,) = result.notes
    assert (
        note.startswith("the scales that were found are not used") and "no gradient reaches" in note
    )
