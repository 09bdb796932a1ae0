"""Micro-batches and finite differences against the whole batch, exactly."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.deviation import finite_difference
from graph_init.engine import memory
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.options.checks import Size
from tests.small_models import model


def network(tmp_path: Path, activation: str = "Relu", batch: Any = "n") -> Path:
    """Two convolutions, a pooling and a matrix product; ``activation`` between them."""
    rng = np.random.default_rng(3)

    def he(*shape: int) -> np.ndarray:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    weights = {
        "w1": he(6, 3, 3, 3),
        "b1": rng.standard_normal(6).astype(np.float32) * 0.1,
        "w2": he(8, 6, 3, 3),
        "w3": he(5, 8).T.copy(),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["c1"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], strides=[2, 2]),
        helper.make_node(activation, ["c2"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["logits"]),
    ]
    made = model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 9, 9])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    path = tmp_path / f"{activation}.onnx"
    onnx.save(made, path)
    return path


def slopes(found: Any) -> np.ndarray:
    return np.array([r.log_scale_gradient for r in found.parameters if r.scalable])


def agree(cut: Any, whole: Any) -> None:
    """To float32 rounding, which the few ratios with the smallest denominators enlarge."""
    assert cut.gradient_deviation == pytest.approx(whole.gradient_deviation, rel=3e-4)
    largest = np.abs(slopes(whole)).max()
    np.testing.assert_allclose(slopes(cut), slopes(whole), atol=1e-3 * largest)


def measured(path: Path, **options: Any) -> Any:
    return graph_init.measure(
        path, batch_size=12, loss="cross-entropy", scale_gradient=True, seed=5, **options
    )


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 6])
def test_micro_batches_give_the_whole_batch(tmp_path: Path, micro_batch: int) -> None:
    path = network(tmp_path)
    whole, cut = measured(path), measured(path, micro_batch=micro_batch)
    for name in ("loss", "gradient_norm", "vanished_fraction", "output_std"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=2e-6), name
    agree(cut, whole)
    for mine, theirs in zip(cut.parameters, whole.parameters, strict=True):
        assert mine.norm == pytest.approx(theirs.norm, rel=1e-6)


def test_micro_batches_of_real_data(tmp_path: Path) -> None:
    path = network(tmp_path)
    rng = np.random.default_rng(0)
    data = {
        "x": rng.standard_normal((12, 3, 9, 9)).astype(np.float32),
        "target": rng.integers(0, 5, 12),
    }
    options: dict[str, Any] = {"data": data, "loss": "cross-entropy", "scale_gradient": True}
    whole = graph_init.measure(path, **options)
    cut = graph_init.measure(path, micro_batch=4, **options)
    agree(cut, whole)


def test_initialize_in_micro_batches(tmp_path: Path) -> None:
    path = network(tmp_path)
    options: dict[str, Any] = {
        "batch_size": 8,
        "loss": "cross-entropy",
        "steps": 5,
        "tuner": "metainit",
    }
    whole = graph_init.initialize(path, **options)
    cut = graph_init.initialize(path, micro_batch=2, **options)
    assert cut.scales == pytest.approx(whole.scales, rel=1e-4)
    assert cut.after.gradient_deviation == pytest.approx(whole.after.gradient_deviation, rel=1e-3)


def test_finite_differences_tend_to_taylor_where_the_model_is_smooth(tmp_path: Path) -> None:
    path = network(tmp_path, "Tanh")
    exact = measured(path)
    errors = []
    for step in (0.3, 0.1, 0.03):
        found = measured(path, method="finite-difference", difference_step=step)
        assert found.method == "finite-difference"
        assert found.loss == pytest.approx(exact.loss, rel=1e-6)
        errors.append(abs(found.gradient_deviation - exact.gradient_deviation))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02 * exact.gradient_deviation


def test_the_derivative_of_finite_differences(tmp_path: Path) -> None:
    """Against Taylor's, and against differences of the finite-difference deviation itself."""
    path = network(tmp_path, "Tanh")
    exact, found = slopes(measured(path)), slopes(measured(path, method="finite-difference"))
    assert exact @ found / np.linalg.norm(exact) / np.linalg.norm(found) > 0.99
    large = np.abs(exact) > 0.05 * np.abs(exact).max()
    assert (np.sign(exact) == np.sign(found))[large].all()


def test_finite_differences_in_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps ten times as long as usual, so that only the slices can make a difference.

    A product with a Hessian is a difference of float32 gradients over a step. Sums in another
    order, as of slices or of another engine, round otherwise, and what the slopes move by is in
    inverse proportion to the step.
    """
    monkeypatch.setattr(finite_difference, "RELATIVE_STEP", 1e-3)
    path = network(tmp_path, "Tanh")
    options: dict[str, Any] = {"method": "finite-difference", "difference_step": 0.1}
    whole, cut = measured(path, **options), measured(path, micro_batch=4, **options)
    assert cut.gradient_deviation == pytest.approx(whole.gradient_deviation, rel=1e-3)
    difference = np.linalg.norm(slopes(cut) - slopes(whole))
    assert difference < 1e-2 * np.linalg.norm(slopes(whole))


def test_initialize_by_finite_differences(tmp_path: Path) -> None:
    path = network(tmp_path, "Tanh")
    found = graph_init.initialize(
        path,
        batch_size=16,
        loss="cross-entropy",
        steps=20,
        tuner="metainit",
        method="finite-difference",
    )
    assert found.after.gradient_deviation < found.before.gradient_deviation
    assert found.provenance["graph_init.method"] == "finite-difference"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"micro_batch": 5}, "--micro-batch 5 does not divide the batch of 12; choose one of 1, 2"),
        ({"micro_batch": 0}, "--micro-batch must be at least 1"),
        ({"micro_batch": 4, "batch_norm": "train"}, "statistics are the whole batch's"),
        ({"difference_step": 0.1}, "--difference-step belongs to --method finite-difference"),
        (
            {"difference_step": -1.0, "method": "finite-difference"},
            "--difference-step must be positive",
        ),
        ({"device": "tpu"}, "--device is one of auto, cpu, cuda, mps"),
        ({"method": "secant"}, "--method is one of taylor, finite-difference"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        measured(network(tmp_path), **options)


def test_micro_batches_need_a_dynamic_batch(tmp_path: Path) -> None:
    path = network(tmp_path, batch=12)
    with pytest.raises(UsageError, match="'x' has the fixed batch size 12; export the model with"):
        measured(path, micro_batch=4)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({}, "take --method finite-difference"),
        ({"micro_batch": 4}, "take a smaller --micro-batch or --method finite-difference"),
        ({"method": "finite-difference"}, "take smaller sizes with --dim"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_starts(
    tmp_path: Path, options: dict[str, Any], remedy: str
) -> None:
    words = r"needs about \d\d MB of memory, and 30 MB is allowed by --memory-limit; "
    with pytest.raises(UnsupportedModelError, match=words + remedy):
        measured(network(tmp_path), memory_limit="30MB", **options)


@pytest.mark.parametrize(
    ("words", "size"),
    [("8GB", 8 << 30), ("1.5 GiB", 3 << 29), ("500m", 500 << 20), ("12", 12)],
)
def test_sizes(words: str, size: int) -> None:
    assert Size()("--memory-limit", words) == size


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    with open(tmp_path / "data", "wb") as stream:
        stream.write(np.arange(4096, dtype=np.float32).tobytes())
    with open(tmp_path / "data", "rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.float32)[16:].reshape(2, -1)
    memory.release(array)
    memory.release(np.zeros(3))
    assert array[0, 0] == 16


def test_a_size_that_is_none() -> None:
    with pytest.raises(UsageError, match="'lots' is not a size like 8GB"):
        Size()("--memory-limit", "lots")


def cuda_is_there() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(
    not cuda_is_there(),
    reason="it compares a GPU with the CPU, and the installed onnxruntime has no CUDA provider; "
    "install graph-init[gpu] on a machine with a GPU of NVIDIA",
)
@pytest.mark.parametrize("options", [{}, {"micro_batch": 4}, {"method": "finite-difference"}])
def test_cuda_gives_the_numbers_of_the_cpu(tmp_path: Path, options: dict[str, Any]) -> None:
    path = network(tmp_path, "Tanh")
    here, there = measured(path, **options), measured(path, device="cuda", **options)
    assert there.gradient_deviation == pytest.approx(here.gradient_deviation, rel=1e-2)
    assert there.loss == pytest.approx(here.loss, rel=1e-4)


@pytest.mark.skipif(
    cuda_is_there(),
    reason="it tests what is said where CUDA is missing, and here it is there; install "
    "graph-init[cpu]",
)
def test_cuda_is_refused_where_it_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no CUDAExecutionProvider; run"):
        measured(network(tmp_path), device="cuda")
