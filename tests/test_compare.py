"""Comparisons of initial states, as a library and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import graph_init
from graph_init.cli import cli
from graph_init.errors import UsageError
from graph_init.ir import Array
from tests.small_models import plain_cnn

pytest.importorskip("onnxruntime")


def digits(rows: int = 400) -> dict[str, Array]:
    from sklearn.datasets import load_digits

    found = load_digits()
    x = np.repeat((found.images / 8 - 1).astype(np.float32)[:, None], 3, 1)
    return {"x": x[:rows], "target": found.target[:rows]}


SMALL = graph_init.Plan(
    schemes=("keep", "lsuv"),
    seeds=2,
    updates=40,
    learning_rates=(0.001, 0.03, 1e30),
    tuner=graph_init.Restore(updates=3),
    optimizers=("sgd",),
)


@pytest.fixture(scope="module")
def small() -> graph_init.Comparison:
    return graph_init.compare(plain_cnn(3, channels=8), digits(), plan=SMALL)


def test_every_state_seed_and_rate_is_run(small: graph_init.Comparison) -> None:
    names = {"keep", "keep, tuned", "lsuv", "lsuv, tuned"}
    assert {s.name for s in small.states} == names
    assert len(small.states) == 8
    found = {(r.state, r.seed, r.learning_rate) for r in small.runs}
    assert found == {(n, s, r) for n in names for s in (0, 1) for r in SMALL.learning_rates}


def test_runs_train_or_diverge(small: graph_init.Comparison) -> None:
    for run in small.runs:
        if run.learning_rate == 1e30:
            assert run.diverged and run.final_loss == np.inf and run.accuracy == 0
        else:
            assert len(run.losses) == 40
            assert run.final_loss == pytest.approx(np.mean(run.losses[-4:]))
    assert any(r.trained for r in small.runs if r.learning_rate == 0.03)


def test_states_start_from_the_same_batches(small: graph_init.Comparison) -> None:
    """Same weights (keep) and seed: the first loss is the same at every learning rate."""
    for seed in (0, 1):
        first = {r.losses[0] for r in small.runs if r.state == "keep" and r.seed == seed}
        assert len(first) == 1
    lsuv = {r.losses[0] for r in small.runs if r.state == "lsuv"}
    assert len(lsuv) == 2  # another draw a seed


def test_the_summary_takes_the_best_rate(small: graph_init.Comparison) -> None:
    rows = {row.state: row for row in small.summary}
    for name, row in rows.items():
        at = small.of(name, "sgd")
        medians = {rate: np.median([r.final_loss for r in runs]) for rate, runs in at.items()}
        assert row.final_loss == min(medians.values()) == medians[row.learning_rate]
        assert row.largest_rate is None or row.largest_rate < 1e30
    measured = [s.measurement for s in small.states if s.name == "lsuv"]
    assert rows["lsuv"].gradient_deviation == np.median(
        [m.gradient_deviation for m in measured if m is not None]
    )


def test_a_comparison_is_repeatable(small: graph_init.Comparison) -> None:
    again = graph_init.compare(plain_cnn(3, channels=8), digits(), plan=SMALL)
    assert json.dumps(again.to_json()) == json.dumps(small.to_json())


def test_what_is_saved(small: graph_init.Comparison, tmp_path: Path) -> None:
    small.save(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "comparison.json",
        "curves.png",
        "learning-rates.png",
    }
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(content["runs"]) == len(small.runs)
    assert content["settings"]["learning_rates"] == {"sgd": [0.001, 0.03, 1e30]}
    diverged = [r for r in content["runs"] if r["diverged"]]
    assert diverged and all(r["final_loss"] is None for r in diverged)
    for picture in (tmp_path / "out").glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path: Path) -> None:
    onnx.save(plain_cnn(2, channels=4), tmp_path / "m.onnx")
    np.savez(tmp_path / "train.npz", **digits(200))
    np.savez(tmp_path / "test.npz", **digits(64))
    arguments = [
        "compare",
        str(tmp_path / "m.onnx"),
        "--data",
        str(tmp_path / "train.npz"),
        "--test",
        str(tmp_path / "test.npz"),
        "--scheme",
        "he",
        "--no-tune",
        "--seeds",
        "1",
        "--updates",
        "5",
        "-o",
        str(tmp_path / "out"),
    ]
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 0, found.output
    assert "after 5 updates with adam" in found.output
    found = CliRunner().invoke(cli, [*arguments, "--json"])
    content = json.loads(found.stdout)
    assert [s["name"] for s in content["states"]] == ["he"]
    assert {r["optimizer"] for r in content["runs"]} == {"sgd", "adam"}


def test_an_output_that_is_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    onnx.save(plain_cnn(2, channels=4), tmp_path / "m.onnx")
    for command in (["compare", "--data", "missing.npz"], ["artifacts"]):
        arguments = [*command, str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out")]
        found = CliRunner().invoke(cli, arguments)
        assert found.exit_code == 2
        assert "is a file" in found.output
    assert (tmp_path / "out").read_text() == "mine"


def test_a_model_of_placeholders_is_compared_without_keep() -> None:
    model = plain_cnn(2, channels=4)
    for tensor in model.graph.initializer:
        if tensor.name != "head":
            filled = np.full(list(tensor.dims), 0.1, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(filled, tensor.name))
    plan = graph_init.Plan(seeds=1, updates=2, tune=False, optimizers=("sgd",))
    found = graph_init.compare(model, digits(100), plan=plan)
    assert [s.name for s in found.states] == ["he", "xavier", "orthogonal", "lsuv"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"schemes": ["hee"]}, "did you mean 'he'"),
        ({"optimizers": ["sdg"]}, "did you mean 'sgd'"),
        ({"seeds": 0}, "--seeds"),
        ({"tuner": "sign"}, "did you mean 'metainit'"),
        ({"updates": 0}, "--updates"),
        ({"held_out": 1.5}, "--held-out"),
        ({"learning_rates": [-1.0]}, "--learning-rate"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        graph_init.compare(plain_cnn(2), digits(50), plan=graph_init.Plan(**plan))


def test_batches_of_an_iterable_are_joined() -> None:
    data = digits(200)
    parts = [{k: v[a : a + 50] for k, v in data.items()} for a in range(0, 200, 50)]
    plan = graph_init.Plan(schemes=["keep"], tune=False, seeds=1, updates=3, optimizers=["sgd"])
    whole, joined = (graph_init.compare(plain_cnn(2), d, plan=plan) for d in (data, parts))
    assert json.dumps(whole.to_json()) == json.dumps(joined.to_json())


@pytest.mark.parametrize("name", ["cnn", "transformer", "mlp"])
def test_the_examples_on_digits_and_mnist1d(name: str) -> None:
    """A few updates of what docs/comparison.md shows in full."""
    pytest.importorskip("torch")
    pytest.importorskip("mnist1d")
    from tools import compare_examples

    found, _ = compare_examples.run(name, compare_examples.QUICK)
    assert {s.name for s in found.states} == {"keep", "keep, tuned", "lsuv", "lsuv, tuned"}
    assert len(found.runs) == 4 * 5
    assert any(np.mean(r.losses[-5:]) < r.losses[0] for r in found.runs)
