"""Open axes are solved, and inputs that only steer get a value under which the model is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init import sizes
from graph_init.cli import cli
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.model.load import load

_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Inputs = dict[str, tuple[int, list[Any]]]


def weight(name: str, *shape: int) -> TensorProto:
    drawn = np.random.default_rng(len(name)).standard_normal(shape) / np.sqrt(max(shape[-1], 1))
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def ints(name: str, *numbers: int) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def one(name: str, number: int) -> TensorProto:
    return numpy_helper.from_array(np.array(number, np.int64), name)


def network(
    nodes: list[onnx.NodeProto], inputs: Inputs, tensors: list[TensorProto]
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    made = [helper.make_tensor_value_info("y", _FLOAT, None)]
    graph = helper.make_graph(nodes, "g", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, ins: list[str], outs: list[str], name: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, ins, outs, name, **attrs)


def dense(read: str, features: int, made: str = "y") -> tuple[onnx.NodeProto, TensorProto]:
    w = f"{made}_w"
    return node("MatMul", [read, w], [made], f"dense_{made}"), weight(w, features, 3)


def recurrent() -> onnx.ModelProto:
    """An LSTM whose weights read 18 features."""
    last, w = dense("h", 4)
    nodes = [node("LSTM", ["x", "w", "r"], ["h"], "rnn", hidden_size=4), last]
    return network(
        nodes,
        {"x": (_FLOAT, ["time", "rows", "features"])},
        [weight("w", 1, 16, 18), weight("r", 1, 16, 4), w],
    )


def pyramid() -> onnx.ModelProto:
    """An hourglass with a skip connection: sides that 8 divides, and windows that fit."""
    nodes = [
        node("Conv", ["x", "k1"], ["a"], "down1", strides=[4, 4], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "k2"], ["b"], "down2", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["b", "k3"], ["c"], "up", strides=[2, 2]),
        node("Concat", ["a", "c"], ["d"], "skip", axis=1),
        node("Conv", ["d", "k4"], ["y"], "head"),
    ]
    kernels = [
        weight("k1", 4, 3, 3, 3), weight("k2", 4, 4, 3, 3), weight("k3", 4, 4, 2, 2),
        weight("k4", 2, 8, 1, 1),
    ]  # fmt: skip
    return network(nodes, {"x": (_FLOAT, ["n", 3, "height", "width"])}, kernels)


def patches() -> onnx.ModelProto:
    """Patches of 16, and a table of 196 positions: images of 224 by 224."""
    nodes = [
        node("Conv", ["x", "k"], ["p"], "embed", strides=[16, 16]),
        node("Reshape", ["p", "flat"], ["q"], "flatten"),
        node("Transpose", ["q"], ["t"], "turn", perm=[0, 2, 1]),
        node("Add", ["t", "positions"], ["u"], "place"),
    ]
    last, w = dense("u", 8)
    return network(
        [*nodes, last],
        {"x": (_FLOAT, ["n", "channels", "height", "width"])},
        [weight("k", 8, 3, 16, 16), ints("flat", 0, 8, -1), weight("positions", 1, 196, 8), w],
    )


def waves() -> onnx.ModelProto:
    """A strided convolution along a signal."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["c"], "channel"),
        node("Conv", ["c", "k"], ["s"], "frames", strides=[160]),
        node("GlobalAveragePool", ["s"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flatten"),
    ]
    last, w = dense("f", 8)
    return network(
        [*nodes, last],
        {"x": (_FLOAT, ["n", "samples"])},
        [ints("one", 1), weight("k", 8, 1, 400), w],
    )


def pair() -> onnx.ModelProto:
    """Two inputs without names for their sizes, which must agree; the second is turned."""
    nodes = [
        node("Transpose", ["z"], ["t"], "turn", perm=[1, 0]),
        node("Add", ["x", "t"], ["s"], "sum"),
    ]
    last, w = dense("s", 24)
    return network([*nodes, last], {"x": (_FLOAT, [None, 24]), "z": (_FLOAT, [24, None])}, [w])


def test_shapes(
    case: tuple[onnx.ModelProto, dict[str, tuple[int, ...]]],
) -> None:
    model, expected = case
    found = sizes.solve(load(model).ir)
    assert {n: found.shape(n) for n in found.axes} == expected
    assert np.isfinite(graph_init.measure(model).gradient_deviation)


@pytest.fixture(params=["recurrent", "pyramid", "patches", "waves", "pair"])
def case(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...]]]:
    """A model, and the shapes that fit it."""
    made = {
        "recurrent": (recurrent, {"x": (16, 32, 18)}),
        "pyramid": (pyramid, {"x": (16, 3, 64, 64)}),
        "patches": (patches, {"x": (16, 3, 224, 224)}),
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
        {"x": (_FLOAT, ["batch", 6]), "state": (_FLOAT, [1, "batch", 4])},
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


# ---- inputs that steer


def rates() -> onnx.ModelProto:
    """Weights in the branches of an If on a sampling rate, as detectors of speech have them."""

    def branch(name: str, features: int) -> onnx.GraphProto:
        inside = [
            node("Slice", ["x", "zero", "size", "one"], ["part"], "cut"),
            node("MatMul", ["part", "w"], ["h"], "read"),
            node("Constant", [], ["v"], "held", value=weight("v", 5, 3)),
            node("MatMul", ["h", "v"], [f"{name}_out"], "write"),
        ]
        tensors = [weight("w", features, 5), ints("size", features)]
        made = [helper.make_tensor_value_info(f"{name}_out", _FLOAT, None)]
        return helper.make_graph(inside, name, [], made, tensors)

    nodes = [
        node("Equal", ["rate", "sixteen"], ["fast"], "is_fast"),
        node(
            "If", ["fast"], ["y"], "by_rate",
            then_branch=branch("fast_net", 8), else_branch=branch("slow_net", 4),
        ),
    ]  # fmt: skip
    tensors = [one("sixteen", 16_000), ints("zero", 0), ints("one", 1)]
    return network(nodes, {"x": (_FLOAT, ["n", 8]), "rate": (_INT, [])}, tensors)


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
        assert any("'rate' steers the graph and is 16000" in note for note in result.notes)


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
        {"x": (_FLOAT, ["n", "time", 6]), "lengths": (_INT, ["n"])},
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
    shown = CliRunner().invoke(cli, ["inspect", path], env={"COLUMNS": "200"})
    assert "compares it with 16000" in shown.stdout
    told = CliRunner().invoke(cli, ["measure", path, "--input", "rate=8000", "--json"])
    assert told.exit_code == 0, told.stderr
    assert "steers" not in told.stderr
    assert {len(p["shape"]) for p in json.loads(told.stdout)["parameters"]} == {2}
    for wrong, words in (("rate=fast", "NAME=VALUE"), ("speed=1", "no such input")):
        refused = CliRunner().invoke(cli, ["measure", path, "--input", wrong])
        assert refused.exit_code == 2 and words in refused.stderr
