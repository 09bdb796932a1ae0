"""A batch that a file fixes is freed where nodes keep rows apart; else a node is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graph_init import rows, sizes
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
