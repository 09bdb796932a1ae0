"""A batch that a file fixes is freed where nodes keep rows apart; else a node is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graph_init
from graph_init import rows, sizes
from graph_init.cli import cli
from graph_init.errors import UnsupportedModelError
from graph_init.model.load import load
from tests.fixed_batch_models import FREE, HELD


def freed(model: onnx.ModelProto) -> rows.Freed:
    loaded = load(model)
    return rows.free(loaded, sizes.solve(loaded.ir))


def fed(model: onnx.ModelProto, batch: rows.Freed, count: int) -> dict[str, np.ndarray]:
    """Random inputs of ``count`` rows."""
    rng = np.random.default_rng(3)
    found = {}
    for value in model.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name in batch.inputs:
            shape[batch.inputs[value.name]] = count
        drawn = rng.standard_normal(shape) if kind == np.float32 else rng.integers(0, 2, shape)
        found[value.name] = drawn.astype(kind)
    return found


def agree(model: onnx.ModelProto, batch: rows.Freed, count: int) -> None:
    """Of each row the freed model gives what the model gives for it alone."""
    feeds = fed(model, batch, count)
    onnx.checker.check_model(batch.loaded.proto, full_check=True)
    together = ReferenceEvaluator(batch.loaded.proto).run(None, feeds)
    alone = ReferenceEvaluator(model)
    for row in range(count):
        one = {
            n: np.take(a, [row], batch.inputs[n]) if n in batch.inputs else a
            for n, a in feeds.items()
        }
        for whole, part in zip(together, alone.run(None, one), strict=True):
            parts = [a for a in range(part.ndim) if whole.shape[a] != part.shape[a]]
            assert len(parts) == 1
            cut = np.split(whole, count, parts[0])[row]
            np.testing.assert_allclose(cut, part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FREE)
def test_rows_stay_apart(name: str) -> None:
    model = FREE[name]()
    batch = freed(model)
    agree(model, batch, 3)
    again = load(batch.loaded.proto)
    assert rows.fixed(again) is None
    # With one row it is the model itself.
    feeds = fed(model, batch, 1)
    old = ReferenceEvaluator(model).run(None, feeds)
    new = ReferenceEvaluator(batch.loaded.proto).run(None, feeds)
    assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("name", HELD)
def test_a_node_is_named(name: str) -> None:
    model, words = HELD[name]
    with pytest.raises(rows.Obstacle, match=f"'holder' .*{words}"):
        freed(model())


def dynamic() -> onnx.ModelProto:
    """``flattened`` as it would be exported for any batch."""
    model = FREE["flattened"]()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    for value in (*model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    (target,) = (t for t in model.graph.initializer if t.name == "flat")
    target.CopyFrom(numpy_helper.from_array(np.array([-1, 27]), "flat"))
    return model


def test_measured_as_if_exported_for_any_batch() -> None:
    options: dict[str, Any] = {"batch_size": 6, "scale_gradient": True}
    fixed = graph_init.measure(FREE["flattened"](), **options)
    free = graph_init.measure(dynamic(), **options)
    assert fixed.gradient_deviation == pytest.approx(free.gradient_deviation, rel=1e-6)
    (slopes, expected) = (
        [p.log_scale_gradient for p in m.parameters if p.log_scale_gradient is not None]
        for m in (fixed, free)
    )
    assert slopes and slopes == pytest.approx(expected, rel=1e-5)
    sliced = graph_init.measure(FREE["flattened"](), **options, micro_batch=2)
    assert sliced.gradient_deviation == pytest.approx(free.gradient_deviation, rel=1e-5)


def test_data_of_more_rows() -> None:
    rows_given = np.random.default_rng(1).standard_normal((7, 2, 5, 5)).astype(np.float32)
    data = {"x": rows_given, "target": np.arange(7) % 4}
    fixed = graph_init.measure(FREE["flattened"](), data=data)
    assert fixed.gradient_deviation == pytest.approx(
        graph_init.measure(dynamic(), data=data).gradient_deviation, rel=1e-6
    )
    with pytest.raises(UnsupportedModelError, match="--data of 3 rows: .*'holder' .*give 1 or"):
        graph_init.measure(HELD["softmax"][0](), data={"x": np.ones((3, 4, 6), np.float32)})


def test_what_is_written_is_fixed_unless_it_is_asked_for() -> None:
    model = FREE["lstm"]()
    kept = graph_init.initialize(model, batch_size=4, updates=0, scheme="he")
    assert any("--free-batch" in note for note in kept.notes)
    assert kept.model.graph.input[0] == model.graph.input[0]
    assert kept.model.graph.node == model.graph.node
    written = graph_init.initialize(
        model, batch_size=4, updates=0, scheme="he", free_batch=True
    ).model
    weights = {t.name: numpy_helper.to_array(t) for t in kept.model.graph.initializer}
    for tensor in written.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    batch = rows.free(load(kept.model), sizes.solve(load(kept.model).ir))
    agree(kept.model, dataclasses.replace(batch, loaded=load(written)), 3)


def test_apply_and_the_command_line(tmp_path: Path) -> None:
    file, out, scales = (str(tmp_path / n) for n in ("m.onnx", "out.onnx", "scales.json"))
    onnx.save(FREE["attention"](), file)
    run = CliRunner().invoke
    done = run(
        cli,
        ["initialize", file, "-o", out, "--free-batch", "--updates", "2", "--save-scales", scales],
    )
    assert done.exit_code == 0, done.output
    again = str(tmp_path / "again.onnx")
    assert run(cli, ["apply", scales, file, "-o", again, "--free-batch"]).exit_code == 0
    first, second = onnx.load(out), onnx.load(again)
    assert first.graph == second.graph
    assert first.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert graph_init.measure(out, batch_size=5).dims["x"]["0"]["size"] == 5
    held = str(tmp_path / "held.onnx")
    onnx.save(HELD["summed"][0](), held)
    refused = run(cli, ["measure", held, "--batch-size", "4"])
    assert refused.exit_code == 4
    assert "'holder' (ReduceSum) reduces the axis of the batch" in refused.output


def test_a_free_batch_stays_as_it_is() -> None:
    model = dynamic()
    kept = graph_init.initialize(model, updates=0, free_batch=True).model
    assert kept.graph.node == model.graph.node
