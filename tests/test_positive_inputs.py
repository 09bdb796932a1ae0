"""Random inputs of which a model takes the logarithm or a root, or by which it divides."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.analysis import analyze
from graph_init.model.load import load
from graph_init.options import Options
from graph_init.problem import workload
from graph_init.problem.forward_graph import initial_values


def noise_model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A layer that reads ``s`` (batch, 1), which ``nodes`` make of the input ``sigma`` (batch,)."""
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.standard_normal((1, 8)).astype(np.float32),
        "v": rng.standard_normal((8, 5)).astype(np.float32),
        "column": np.array([-1, 1]),
        "half": np.float32(0.5),
        "two": np.float32(2),
        "minus": np.float32(-2),
    }
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("MatMul", ["s", "w"], ["a"]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "v"], ["y"]),
        ],
        "noise",
        [helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        initializer=[numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], f"n_{output}", **attributes)


COLUMN = node("Reshape", "sigma column", "c")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([COLUMN, node("Log", "c", "s")], "node 'n_s' (Log) takes its logarithm"),
        (
            [
                node("Mul", "sigma half", "h"),
                node("Sqrt", "h", "r"),
                node("Reshape", "r column", "s"),
            ],
            "node 'n_r' (Sqrt) takes its square root",
        ),
        (
            [COLUMN, node("Add", "half c", "h"), node("Log", "h", "s")],
            "node 'n_s' (Log) takes its logarithm",
        ),
        ([COLUMN, node("Pow", "c half", "s")], "node 'n_s' (Pow) raises it to a power"),
        ([COLUMN, node("Pow", "c minus", "s")], "node 'n_s' (Pow) raises it to a power"),
        ([COLUMN, node("Div", "half c", "s")], "divides by it"),
    ],
)
def test_it_is_drawn_positive_and_said(nodes: list[onnx.NodeProto], words: str) -> None:
    found = graph_init.measure(noise_model(*nodes))
    assert np.isfinite(found.gradient_deviation)
    (note,) = (n for n in found.notes if "'sigma' is drawn positive" in n)
    assert words in note


@pytest.mark.parametrize(
    "nodes",
    [
        [COLUMN, node("Pow", "c two", "s")],
        [COLUMN, node("Abs", "c", "m"), node("Sqrt", "m", "s")],
        [COLUMN, node("Mul", "c minus", "s")],
        [COLUMN, node("Add", "c minus", "h"), node("Abs", "h", "m"), node("Log", "m", "s")],
        [COLUMN, node("Div", "c two", "s")],
    ],
)
def test_others_are_drawn_as_ever(nodes: list[onnx.NodeProto]) -> None:
    loaded = load(noise_model(*nodes))
    work = workload.build(loaded, analyze(loaded.ir), initial_values(loaded), Options())
    assert not work.layout.positive
    assert (work.source.search.batch(0)["sigma"] < 0).any()


def test_data_are_taken_as_they_are() -> None:
    rows = {"sigma": np.full(8, 2, np.float32), "target": np.arange(8) % 5}
    found = graph_init.measure(noise_model(COLUMN, node("Log", "c", "s")), data=rows)
    assert not any("drawn" in note for note in found.notes)
