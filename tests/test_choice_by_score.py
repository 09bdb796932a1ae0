"""A branch that the data choose is refused with a way that works."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import UnsupportedModelError


def test_the_option_that_is_named_works() -> None:
    """A score above a half is looked at by a second network."""
    rng = np.random.default_rng(0)

    def branch(name: str, node: str, inputs: list[str]) -> object:
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, (1, 1))
        return helper.make_graph([helper.make_node(node, inputs, [f"{name}_y"])], name, [], [value])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["score"]),
        helper.make_node("GreaterOrEqual", ["score", "half"], ["above"]),
        helper.make_node(
            "If",
            ["above"],
            ["y"],
            "choice",
            then_branch=branch("then", "Neg", ["score"]),
            else_branch=branch("else", "Identity", ["score"]),
        ),
    ]
    arrays = {"w": rng.standard_normal((6, 8)), "v": rng.standard_normal((8, 1)), "half": [0.5]}
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1))],
        initializer=[
            numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(UnsupportedModelError, match="'choice'.*depends on the data") as refused:
        graph_init.measure(model)
    named = re.search(r"--output-name (\S+) ends", str(refused.value))
    assert named is not None
    assert np.isfinite(graph_init.measure(model, output_name=named[1]).loss)
