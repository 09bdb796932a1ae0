"""Figures that are not finite, in what a zoo's run prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_init import zoo
from tests.small_models import deep_mlp, model, scaled
from tests.zoo_runs import run

pytest.importorskip("dask")


def one_number() -> onnx.ModelProto:
    """The mean of x·w: its standard deviation is not defined."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["y"], keepdims=0),
    ]
    weight = deep_mlp(1, 8).graph.initializer[0]
    return model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(numpy_helper.to_array(weight), "w")],
    )


def refused(token: str) -> float:
    raise ValueError(f"{token} is no JSON")


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    """An output of one number, and a start that overflows, in the lines and in both tables."""
    source = tmp_path / "in"
    source.mkdir()
    onnx.save(one_number(), source / "one.onnx")
    onnx.save(scaled(deep_mlp(4, 8), 1e12), source / "overflows.onnx")
    status, told, errors = run(source, "-o", tmp_path / "out", "--updates", "2", "--workers", "1")
    assert status == 0, errors
    assert "2 done" in told and "overflows: GD not finite → " in errors
    for file in ("zoo.json", "one.json", "overflows.json"):
        json.loads((tmp_path / "out" / file).read_text("utf-8"), parse_constant=refused)
    one, overflows = zoo.read(str(tmp_path / "out")).rows
    assert one.after is not None and one.after.output_std is None
    assert overflows.before is not None and overflows.before.gradient_deviation is None
    assert overflows.after is not None and overflows.after.gradient_deviation is not None
