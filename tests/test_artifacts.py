"""Training artifacts: models that ONNX Runtime's own generator refuses are trained from ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.cli import cli
from graph_init.ir import Array
from tests.small_models import model, plain_cnn

pytest.importorskip("torch")  # onnxruntime.training imports it
training = pytest.importorskip("onnxruntime.training")
api = pytest.importorskip("onnxruntime.training.api")

WIDTH, CLASSES, ROWS = 12, 3, 16


def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
    rng = np.random.default_rng(0)
    return [
        numpy_helper.from_array(
            (rng.standard_normal(s) * 0.4 + (len(s) == 1)).astype(np.float32), n
        )
        for n, s in shapes.items()
    ]


def network(middle: list[Any], **extra: tuple[int, ...]) -> onnx.ModelProto:
    """x → product → ``middle`` (h to m) → product → Softmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        *middle,
        helper.make_node("MatMul", ["m", "v"], ["logits"], "second"),
        helper.make_node("Softmax", ["logits"], ["y"], "softmax", axis=-1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])]
    shapes = {"w": (WIDTH, WIDTH), "v": (WIDTH, CLASSES), **extra}
    return model(nodes, inputs, outputs, weights(**shapes))


def layer_norm() -> onnx.ModelProto:
    """LayerNormalization without its optional outputs."""
    node = helper.make_node("LayerNormalization", ["h", "gain", "shift"], ["m"], "norm", axis=-1)
    return network([node], gain=(WIDTH,), shift=(WIDTH,))


def atan() -> onnx.ModelProto:
    return network([helper.make_node("Atan", ["h"], ["m"], "atan")])


def local_function() -> onnx.ModelProto:
    """A model-local function: h · tanh(h)."""
    found = network([helper.make_node("Bend", ["h"], ["m"], "bend", domain="mine")])
    body = [
        helper.make_node("Tanh", ["a"], ["t"], "tanh"),
        helper.make_node("Mul", ["a", "t"], ["b"], "product"),
    ]
    opsets = [helper.make_opsetid("", 17)]
    found.functions.append(
        helper.make_function("mine", "Bend", ["a"], ["b"], nodes=body, opset_imports=opsets)
    )
    found.opset_import.append(helper.make_opsetid("mine", 1))
    return found


def elu() -> onnx.ModelProto:
    return network([helper.make_node("Elu", ["h"], ["m"], "elu")])


REFUSED = [layer_norm, atan, local_function, elu]


def rows() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    return x, np.argmax(x[:, :CLASSES], axis=1)


def train(folder: Path, updates: int, rate: float) -> list[float]:
    """Losses of a training by ONNX Runtime's own API."""
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"))
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(rate)
    losses = []
    for _ in range(updates):
        module.train()
        losses.append(float(module(*rows())))
        optimizer.step()
        module.lazy_reset_grad()
    module.eval()
    found = module(*rows())
    losses.append(float(found[0] if isinstance(found, (list, tuple)) else found))
    module.export_model_for_inferencing(str(folder / "trained.onnx"), ["y"])
    return losses


@pytest.mark.parametrize("build", REFUSED)
def test_onnxruntime_refuses_the_model(build: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017  RuntimeError, Fail or a crash of its own checks
        training.artifacts.generate_artifacts(
            build(),
            requires_grad=["w", "v"],
            loss=training.artifacts.LossType.CrossEntropyLoss,
            optimizer=training.artifacts.OptimType.AdamW,
            artifact_directory=tmp_path,
        )


@pytest.mark.parametrize("build", REFUSED)
@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.02), ("sgd", 0.5)])
def test_our_artifacts_train_it(build: Any, optimizer: str, rate: float, tmp_path: Path) -> None:
    import onnxruntime

    graph_init.write_artifacts(build(), tmp_path / "out", batch_size=ROWS, optimizer=optimizer)
    losses = train(tmp_path / "out", 100, rate)
    assert losses[-1] < 0.5 * losses[0]
    trained = onnxruntime.InferenceSession(str(tmp_path / "out" / "trained.onnx"))
    x, labels = rows()
    (y,) = trained.run(["y"], {"x": x})
    assert (y.argmax(1) == labels).mean() > 0.9
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)


def test_the_first_loss_is_the_models(tmp_path: Path) -> None:
    import onnxruntime

    graph_init.write_artifacts(atan(), tmp_path / "out", batch_size=ROWS)
    x, labels = rows()
    (y,) = onnxruntime.InferenceSession(atan().SerializeToString()).run(["y"], {"x": x})
    expected = -np.log(y[np.arange(ROWS), labels]).mean()
    assert train(tmp_path / "out", 1, 0.0)[0] == pytest.approx(expected, rel=1e-5)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    graph_init.write_artifacts(
        plain_cnn(2, channels=4), tmp_path / "out", batch_size=2, freeze=["w0"], scheme="he"
    )
    state = api.CheckpointState.load_checkpoint(str(tmp_path / "out" / "checkpoint"))
    names = {n for n, _ in state.parameters}
    assert "w1" in names and "w0" not in names


def test_the_command(tmp_path: Path) -> None:
    onnx.save(atan(), tmp_path / "m.onnx")
    arguments = ["artifacts", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 0, found.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "training_model.onnx",
        "eval_model.onnx",
        "optimizer_model.onnx",
        "checkpoint",
    }
    missing = ["artifacts", str(tmp_path / "none.onnx"), "-o", str(tmp_path / "other")]
    assert CliRunner().invoke(cli, missing).exit_code == 3
    assert not (tmp_path / "other").exists()
