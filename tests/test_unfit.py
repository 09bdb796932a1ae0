"""Files with operators of classical machine learning, and old ones, as others write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graph_init
from graph_init.cli import cli
from tests import small_models

RNG = np.random.default_rng(0)
TREE = {
    "n_targets": 1,
    "nodes_featureids": [0, 0, 0],
    "nodes_hitrates": [1.0] * 3,
    "nodes_missing_value_tracks_true": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_treeids": [0, 0, 0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "target_ids": [0, 0],
    "target_nodeids": [1, 2],
    "target_treeids": [0, 0],
    "target_weights": [1.0, -1.0],
}
LAYER = [
    helper.make_node("MatMul", ["x", "w"], ["h"]),
    helper.make_node("Tanh", ["h"], ["features"]),
    helper.make_node("MatMul", ["features", "v"], ["logits"]),
    helper.make_node("Softmax", ["logits"], ["scores"]),
]


def classical(op: str, source: str, target: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, [source], [target], op.lower(), domain="ai.onnx.ml", **attributes)


def file(path: Path, nodes: list[onnx.NodeProto], *outputs: onnx.ValueInfoProto) -> Path:
    weights = [
        numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (6, 8)), ("v", (8, 3)))
        if any(name in n.input for n in nodes)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        list(outputs),
        initializer=weights,
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def tree_behind(path: Path) -> Path:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    return file(path, [*LAYER[:2], classical("TreeEnsembleRegressor", "features", "y", **TREE)], y)


def map_behind(path: Path) -> Path:
    kind = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    y = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    zip_map = classical("ZipMap", "scores", "y", classlabels_int64s=[0, 1, 2])
    return file(path, [*LAYER, zip_map], y)


@pytest.mark.parametrize(
    ("make", "node", "before"),
    [
        (tree_behind, "'treeensembleregressor' (ai.onnx.ml TreeEnsembleRegressor)", "features"),
        (map_behind, "'zipmap' (ai.onnx.ml ZipMap)", "scores"),
    ],
    ids=["trees", "map"],
)
def test_behind_a_network_the_output_before_it_is_named_and_works(
    tmp_path: Path, make: object, node: str, before: str
) -> None:
    assert callable(make)
    path, out = make(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    refused = CliRunner().invoke(cli, ["measure", str(path)])
    assert refused.exit_code == 4
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith(
        f"error: {path}: node {node} comes after the network and has no gradient"
    )
    assert line.endswith(f"--output-name '{before}'")
    options = ["--output-name", before, "--updates", "2"]
    done = CliRunner().invoke(cli, ["initialize", str(path), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    given, made = onnx.load(path), onnx.load(out)
    assert [n.SerializeToString() for n in made.graph.node] == [
        n.SerializeToString() for n in given.graph.node
    ]
    assert made.graph.output == given.graph.output


def test_trees_alone_have_nothing_to_tune(tmp_path: Path) -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    path = file(tmp_path / "t.onnx", [classical("TreeEnsembleRegressor", "x", "y", **TREE)], y)
    found = CliRunner().invoke(cli, ["measure", str(path)])
    assert found.exit_code == 4
    assert "has no layer with weights to tune" in found.stderr
    assert CliRunner().invoke(cli, ["inspect", str(path)]).exit_code == 0


def prepared(path: Path, first: onnx.NodeProto) -> Path:
    """A network that reads what ``first`` makes of the input."""
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    behind = [helper.make_node("MatMul", ["s", "w"], ["h"]), *LAYER[1:]]
    return file(path, [first, *behind], y)


def test_what_prepares_the_input_is_named(tmp_path: Path) -> None:
    path = prepared(tmp_path / "n.onnx", classical("Normalizer", "x", "s", norm="L2"))
    found = CliRunner().invoke(cli, ["measure", str(path)])
    assert found.exit_code == 4
    assert "node 'normalizer' (ai.onnx.ml Normalizer) prepares the input" in found.stderr


@pytest.mark.parametrize("features", [1, 6])
def test_a_scaler_is_a_difference_times_a_factor(tmp_path: Path, features: int) -> None:
    offset, scale = (RNG.uniform(0.5, 2.0, features).astype(np.float32) for _ in range(2))
    scaler = classical("Scaler", "x", "s", offset=offset.tolist(), scale=scale.tolist())
    path = prepared(tmp_path / "s.onnx", scaler)
    x = RNG.standard_normal((5, 6)).astype(np.float32)
    (scores,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    labels = np.array([0, 1, 2, 0, 1])
    found = graph_init.measure(path, data={"x": x, "target": labels})
    assert found.loss == pytest.approx(-np.log(scores[range(5), labels]).mean(), rel=1e-5)
    result = graph_init.initialize(path, updates=2, batch_size=5)
    assert [n.op_type for n in result.model.graph.node][0] == "Scaler"


def test_an_inner_value_can_be_the_output() -> None:
    """Without what lies behind it; the caller's model stays as it is."""
    model = helper.make_model(
        helper.make_graph(
            LAYER,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
            initializer=[
                numpy_helper.from_array(RNG.standard_normal((6, 8)).astype(np.float32), "w"),
                numpy_helper.from_array(RNG.standard_normal((8, 3)).astype(np.float32), "v"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    before = model.SerializeToString()
    found = graph_init.measure(model, output_name="features")
    assert [p.name for p in found.parameters] == ["w"]
    assert found.loss_kind == "mse"
    assert {p.name for p in graph_init.measure(model).parameters} == {"w", "v"}
    assert model.SerializeToString() == before


def test_initializers_of_old_files_need_not_be_inputs(tmp_path: Path) -> None:
    """As onnxruntime reads files of IR version 3."""
    runtime = pytest.importorskip("onnxruntime")
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    path = file(tmp_path / "old.onnx", LAYER, y)
    model = onnx.load(path)
    model.ir_version = 3
    onnx.save(model, path)
    x = np.zeros((2, 6), np.float32)
    assert runtime.InferenceSession(path).run(None, {"x": x})[0].shape == (2, 3)
    out = tmp_path / "out.onnx"
    graph_init.initialize(path, updates=2).save(out)
    assert onnx.load(out).ir_version == 3
    assert runtime.InferenceSession(out).run(None, {"x": x})[0].shape == (2, 3)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_measured_and_written_in_their_type(kind: type) -> None:
    source = small_models.plain_cnn(depth=2, dtype=kind)
    made = graph_init.initialize(source, updates=2).model
    for tensor in made.graph.initializer:
        assert numpy_helper.to_array(tensor).dtype == kind
