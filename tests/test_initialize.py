"""``initialize`` and ``apply``: what is tuned, what is written, and what is not touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graph_init
from graph_init.errors import UnsupportedModelError
from tests.small_models import plain_cnn

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_published_algorithm_brings_deviation_below_one() -> None:
    result = graph_init.initialize(plain_cnn(), steps=500, tuner="metainit")
    assert result.before.gradient_deviation > 2
    assert result.after.gradient_deviation < 1
    assert result.after.vanished_fraction < 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_only_scalable_tensors_change_each_by_its_factor(
    tmp_path: Path, dtype: type, drawn: str
) -> None:
    source, out, scales = (tmp_path / n for n in ("in.onnx", "out.onnx", "scales.json"))
    onnx.save(plain_cnn(8, dtype=dtype), source)
    result = graph_init.initialize(source, tuner=drawn)
    result.save(out)
    result.save_scales(scales)
    factors = json.loads(scales.read_text())["scales"]
    before, after = tensors(source), tensors(out)
    scalable = {p.name for p in graph_init.inspect(source).parameters if p.scalable}
    assert set(factors) == scalable == {"head", *(f"w{k}" for k in range(8))}
    assert all(f != 1 for f in factors.values())
    assert list(before) == list(after)
    for name, old in before.items():
        new = after[name]
        assert new.dtype == old.dtype == np.dtype(dtype)
        expected = (old.astype(np.float64) * factors.get(name, 1.0)).astype(dtype)
        assert new.tobytes() == expected.tobytes()
        assert (new.tobytes() != old.tobytes()) == (name in scalable)
    again = tmp_path / "again.onnx"
    graph_init.apply(scales, source).save(again)
    assert {n: a.tobytes() for n, a in tensors(again).items()} == {
        n: a.tobytes() for n, a in after.items()
    }
    # Everything but those bytes and the provenance is the user's own file.
    proto, written = onnx.load(source), onnx.load(out)
    del written.metadata_props[:]
    for mine, theirs in zip(written.graph.initializer, proto.graph.initializer, strict=True):
        mine.raw_data = theirs.raw_data
    assert written == proto


def test_same_seed_gives_identical_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        graph_init.initialize(plain_cnn(6), updates=10, seed=3).save(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    other = tmp_path / "c.onnx"
    graph_init.initialize(plain_cnn(6), updates=10, seed=4).save(other)
    assert other.read_bytes() != files[0].read_bytes()


def test_zoo_architecture_is_initialised_and_runs(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "out.onnx"
    graph_init.initialize(LIGHT / "light_squeezenet.onnx", scheme="he", updates=1).save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (output,) = session.run(None, {"data_0": image})
    assert output.shape == (1, 1000, 1, 1)
    assert np.isfinite(output).all() and output.std() > 0


def test_constant_weights_have_no_direction_to_keep() -> None:
    with pytest.raises(UnsupportedModelError, match="--scheme he"):
        graph_init.initialize(LIGHT / "light_squeezenet.onnx", updates=1)


def test_interrupt_keeps_the_best_so_far() -> None:
    def stop(entry: graph_init.HistoryEntry) -> None:
        if entry.step == 7:
            raise KeyboardInterrupt

    result = graph_init.initialize(plain_cnn(6), steps=500, tuner="metainit", on_step=stop)
    assert result.interrupted and result.steps == 8
    assert any(s != 1 for s in result.scales.values())


def test_zero_steps_keep_the_model() -> None:
    result = graph_init.initialize(plain_cnn(3), updates=0)
    assert set(result.scales.values()) == {1.0}
    assert result.before.gradient_deviation == result.after.gradient_deviation
