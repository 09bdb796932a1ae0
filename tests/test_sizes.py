"""Open axes are solved, and inputs that only steer get a value under which the model is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import graph_init
from graph_init import sizes
from graph_init.cli import cli
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.model.load import load
from tests.sized_models import (
    FLOAT,
    INT,
    bands,
    dense,
    ints,
    network,
    node,
    one,
    pair,
    patches,
    pyramid,
    rates,
    recurrent,
    waves,
    weight,
)


def test_shapes(
    case: tuple[onnx.ModelProto, dict[str, tuple[int, ...]]],
) -> None:
    model, expected = case
    found = sizes.solve(load(model).ir)
    assert {n: found.shape(n) for n in found.axes} == expected
    assert np.isfinite(graph_init.measure(model).gradient_deviation)


@pytest.fixture(params=["recurrent", "pyramid", "patches", "bands", "waves", "pair"])
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    """A model, and the shapes that fit it."""
    made = {
        "recurrent": (recurrent, {"x": (16, 32, 18)}),
        "pyramid": (pyramid, {"x": (16, 3, 64, 64)}),
        "patches": (patches, {"x": (16, 3, 224, 224)}),
        "bands": (bands, {"x": (16, 35)}),
        "waves": (waves, {"x": (16, 16_000)}),
        "pair": (pair, {"x": (16, 24), "z": (24, 16)}),
    }
    build, shapes = made[request.param]
    return build(), shapes


def test_sizes_say_what_solved_them() -> None:
    found = graph_init.measure(recurrent())
    reason = found.dims["x"]["2"]["reason"]
    assert found.dims["x"]["2"]["size"] == 18
    assert "'rnn'" in reason and "18 features" in reason
    assert any("'rnn'" in note for note in found.notes)


@pytest.mark.parametrize("declared", [-1, 0])
def test_numbers_below_one_are_open(declared: int) -> None:
    model = recurrent()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = dims[1].dim_value = dims[2].dim_value = declared
    found = sizes.solve(load(model).ir)
    assert found.shape("x") == (16, 32, 18)
    assert graph_init.measure(model, dims={"x[0]": 5}).dims["x"]["0"]["size"] == 5


def test_one_meaningless_name_is_several_sizes() -> None:
    model = recurrent()
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "?"
    assert sizes.solve(load(model).ir).shape("x") == (16, 32, 18)


def test_one_name_is_one_size_on_every_axis() -> None:
    """A state whose rows are its second axis."""
    nodes = [
        node("Unsqueeze", ["x", "axis"], ["u"], "time"),
        node("LSTM", ["u", "w", "r", "", "", "state", "state"], ["h"], "rnn", hidden_size=4),
    ]
    last, w = dense("h", 4)
    model = network(
        [*nodes, last],
        {"x": (FLOAT, ["batch", 6]), "state": (FLOAT, [1, "batch", 4])},
        [ints("axis", 0), weight("w", 1, 16, 6), weight("r", 1, 16, 4), w],
    )
    found = sizes.solve(load(model).ir)
    assert (found.shape("x"), found.shape("state")) == ((16, 6), (1, 16, 4))
    assert (found.batched, found.across) == ({"x"}, {"state"})
    with pytest.raises(UsageError, match="'state' has the rows .* another axis"):
        graph_init.measure(model, micro_batch=4)


def test_a_contradiction_names_both_sides() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"'rnn' \(LSTM\) reads 18 .* features is 20 .*--dim"
    ):
        graph_init.measure(recurrent(), dims={"features": 20})


def test_options_and_data_overrule(tmp_path: Path) -> None:
    found = graph_init.measure(pyramid(), dims={"height": 40, "width": 48}, batch_size=2)
    assert [found.dims["x"][k]["size"] for k in "0123"] == [2, 3, 40, 48]
    rows = np.random.default_rng(0).standard_normal((6, 3, 72, 80)).astype(np.float32)
    data = {"x": rows, "target": np.zeros((6, 2, 18, 20), np.float32)}
    found = graph_init.measure(pyramid(), data=data, loss="mse")
    assert found.dims["x"]["2"] == {"size": 72, "reason": "the data's own"}


def test_an_open_number_is_no_fixed_batch_of_data() -> None:
    """A first axis of −1, as some exporters write it: batches are drawn from the rows."""
    model = pyramid()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    rows = np.random.default_rng(0).standard_normal((6, 3, 64, 64)).astype(np.float32)
    data = {"x": rows, "target": np.zeros((6, 2, 16, 16), np.float32)}
    result = graph_init.initialize(model, data=data, loss="mse", updates=1)
    assert result.settings["batch_size"] == 6


# ---- inputs that steer


def arrays(graph: onnx.GraphProto, way: str = "") -> dict[str, np.ndarray]:
    """All float tensors of a graph and its branches, by where they are."""
    found = {way + t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for n in graph.node:
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                found |= arrays(a.g, f"{way}{n.name}/{a.name}/")
            elif a.type == onnx.AttributeProto.TENSOR:
                found[f"{way}{n.output[0]}"] = numpy_helper.to_array(a.t)
    return {k: v for k, v in found.items() if v.dtype.kind == "f"}


@pytest.mark.parametrize(
    ("given", "branch"), [(None, "then_branch"), (16_000, "then_branch"), (8_000, "else_branch")]
)
def test_weights_in_the_branch_that_is_taken_are_scaled_where_they_are(
    tmp_path: Path, given: int | None, branch: str
) -> None:
    onnx.save(rates(), tmp_path / "in.onnx")
    options: dict[str, Any] = {} if given is None else {"input": {"rate": given}}
    listed = graph_init.inspect(tmp_path / "in.onnx", **options)
    scalable = {p.name for p in listed.parameters if p.scalable}
    assert len(scalable) == 2
    result = graph_init.initialize(tmp_path / "in.onnx", scheme="he", updates=1, **options)
    result.save(tmp_path / "out.onnx", scales=tmp_path / "scales.json")
    assert result.scales.keys() == scalable
    before, after = (arrays(onnx.load(tmp_path / f"{n}.onnx").graph) for n in ("in", "out"))
    assert before.keys() == after.keys()
    changed = {k for k in before if not np.array_equal(before[k], after[k])}
    assert changed == {f"by_rate/{branch}/w", f"by_rate/{branch}/v"}
    if given is None:
        (entry,) = [i for i in listed.to_json()["inputs"] if i["name"] == "rate"]
        assert (entry["value"], entry["value_reason"]) == (
            16_000,
            "the model compares it with 16000",
        )
        assert any("input 'rate', which is set to 16000" in note for note in result.notes)


def test_scales_of_a_branch_are_applied(tmp_path: Path) -> None:
    onnx.save(rates(), tmp_path / "in.onnx")
    names = [p.name for p in graph_init.inspect(tmp_path / "in.onnx").parameters if p.scalable]
    scales = {"format": "graph-init/scales", "version": 1, "scales": dict.fromkeys(names, 2.0)}
    applied = graph_init.apply(scales, tmp_path / "in.onnx")
    applied.save(tmp_path / "out.onnx")
    before, after = (arrays(onnx.load(tmp_path / f"{n}.onnx").graph) for n in ("in", "out"))
    for k, v in after.items():
        np.testing.assert_array_equal(v, before[k] * (2 if "then" in k else 1))


def test_a_length_is_all_that_is_there() -> None:
    """Steps behind the longest row are cut off."""
    nodes = [
        node("ReduceMax", ["lengths"], ["most"], "longest", keepdims=0),
        node("Unsqueeze", ["most", "zero"], ["end"], "as_list"),
        node("Slice", ["x", "zero", "end", "one"], ["part"], "cut"),
    ]
    last, w = dense("part", 6)
    model = network(
        [*nodes, last],
        {"x": (FLOAT, ["n", "time", 6]), "lengths": (INT, ["n"])},
        [ints("zero", 0), ints("one", 1), w],
    )
    found = sizes.solve(load(model).ir)
    assert found.values["lengths"].value.tolist() == [32] * 16
    assert np.isfinite(graph_init.measure(model).gradient_deviation)
    rows = np.random.default_rng(0).standard_normal((4, 7, 6)).astype(np.float32)
    data = {"x": rows, "lengths": np.array([7, 7, 7, 7]), "target": np.zeros((4, 7, 3), "f4")}
    assert np.isfinite(graph_init.measure(model, data=data, loss="mse").gradient_deviation)
    data["lengths"][2] = 5
    with pytest.raises(UsageError, match="'lengths', so it must be the same in every"):
        graph_init.measure(model, data=data, loss="mse")


def test_the_commands_list_inputs_and_take_values(tmp_path: Path) -> None:
    onnx.save(rates(), tmp_path / "model.onnx")
    path = str(tmp_path / "model.onnx")
    shown = CliRunner().invoke(cli, ["inspect", path])
    assert "compares" in shown.stdout and "16000" in shown.stdout
    told = CliRunner().invoke(cli, ["measure", path, "--input", "rate=8000", "--json"])
    assert told.exit_code == 0, told.stderr
    assert "steers" not in told.stderr
    assert {len(p["shape"]) for p in json.loads(told.stdout)["parameters"]} == {2}
    for wrong, words in (("rate=fast", "NAME=VALUE"), ("speed=1", "no such input")):
        refused = CliRunner().invoke(cli, ["measure", path, "--input", wrong])
        assert refused.exit_code == 2 and words in refused.stderr


def test_what_a_spectrum_reads_is_no_parameter() -> None:
    """The window of an STFT, whatever its numbers; the message says what the tensor is."""
    nodes = [node("STFT", ["x", "step", "window"], ["y"], "spectrum")]
    window = numpy_helper.from_array(np.random.default_rng(0).random(64, np.float32), "window")
    model = network(nodes, {"x": (FLOAT, ["n", "samples", 1])}, [one("step", 16), window])
    (found,) = (p for p in graph_init.inspect(model).parameters if p.name == "window")
    assert (found.kind, found.trainable) == ("constant", False)
    with pytest.raises(UnsupportedModelError, match="'window', is no weight: constant of STFT"):
        graph_init.measure(model)
