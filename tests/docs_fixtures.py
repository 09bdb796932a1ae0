"""What pages find in place: files in the current folder, and names of a reader's own program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import fixed_batch_models, sized_models, small_models
from tests.docs_pages import ROOT, Fixture

#: A factor on weights that makes a network one that the tuner will not leave alone.
DEAD = 0.1

PIXELS, CLASSES, ROWS = 32, 10, 160


def classifier(depth: int = 3) -> onnx.ModelProto:
    """Layers of ReLU and a Softmax; takes x (n, 32), gives probabilities (n, 10)."""
    model = small_models.deep_mlp(depth, PIXELS)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"))
    (output,) = model.graph.output
    output.name = "probabilities"
    return model


def model_file(names: dict[str, Any]) -> None:
    onnx.save(classifier(), "model.onnx")


def models(names: dict[str, Any]) -> None:
    Path("models/vision").mkdir(parents=True)
    onnx.save(classifier(), "models/first.onnx")
    onnx.save(classifier(2), "models/vision/second.onnx")


def open_sizes(names: dict[str, Any]) -> None:
    onnx.save(sized_models.recurrent(), "recurrent.onnx")
    onnx.save(sized_models.rates(), "rates.onnx")
    onnx.save(fixed_batch_models.attention(), "fixed.onnx")


def broken_file(names: dict[str, Any]) -> None:
    Path("models/broken.onnx").write_text("no model\n")


def mended(names: dict[str, Any]) -> None:
    onnx.save(classifier(), "models/broken.onnx")


def data_file(names: dict[str, Any]) -> None:
    """Classes that can be told apart."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, CLASSES, ROWS)
    centres = rng.standard_normal((CLASSES, PIXELS))
    x = centres[target] + 0.5 * rng.standard_normal((ROWS, PIXELS))
    for name in ("train.npz", "test.npz"):
        np.savez(name, x=x.astype(np.float32), target=target)


def broken_models(names: dict[str, Any]) -> None:
    """What the FAQ fails on."""
    onnx.save(small_models.one_layer("Det"), "det.onnx")
    onnx.save(small_models.one_layer("Exp", weight=1e30), "huge.onnx")
    onnx.save(small_models.scaled(small_models.deep_mlp(12), 0.2), "collapsed.onnx")
    placeholder = small_models.deep_mlp(3)
    for tensor in placeholder.graph.initializer:
        equal = np.full(tuple(tensor.dims), 0.02, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(equal, tensor.name))
    onnx.save(placeholder, "placeholder.onnx")
    wide = small_models.one_layer()
    wide.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 32
    onnx.save(wide, "wide.onnx")
    fixed = classifier()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    mean = helper.make_node("ReduceMean", ["probabilities"], ["means"], "mean", axes=[0])
    fixed.graph.node.append(mean)
    fixed.graph.output[0].name = "means"
    onnx.save(fixed, "fixed.onnx")
    Path("notes.txt").write_text("no model\n")


def plain_onnxruntime(names: dict[str, Any]) -> None:
    """A module ``onnxruntime`` that is found before the training build, and is none."""
    inner = Path("onnxruntime") / "capi"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text(
        '__version__ = "1.24.1"\ndef get_available_providers(): return ["CPUExecutionProvider"]\n'
    )
    for name in ("__init__", "_pybind_state"):
        (inner / f"{name}.py").write_text("")


def torch_module(names: dict[str, Any]) -> Callable[[], None]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers: list[Any] = []
    for _ in range(4):
        layers += [torch.nn.Linear(16, 16, bias=False), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(16, 3))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= DEAD
    names.update(module=module, example=torch.randn(8, 16))
    return _changes(lambda: module[0].weight.detach().numpy().copy())


def transformer(names: dict[str, Any]) -> Callable[[], None]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config)
    ids = torch.randint(0, 40, (4, 8))
    names.update(model=model, ids=ids, mask=torch.ones_like(ids))
    weight = model.classifier.weight
    with torch.no_grad():
        weight *= DEAD
    return _changes(lambda: weight.detach().numpy().copy())


def keras_model(names: dict[str, Any]) -> Callable[[], None]:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(16, "relu") for _ in range(4)]
    names["model"] = keras.Sequential([keras.Input((16,)), *dense, keras.layers.Dense(3)])
    for layer in dense:
        layer.kernel.assign(DEAD * layer.kernel)
    return _changes(lambda: keras.ops.convert_to_numpy(dense[0].kernel.value).copy())


def saved_model(names: dict[str, Any]) -> Callable[[], None]:
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            draw = tf.random.stateless_normal
            self.layers = [tf.Variable(draw((6, 6), (0, k)) / 3, name=f"w{k}") for k in range(4)]

        @tf.function(input_signature=[tf.TensorSpec((None, 6), tf.float32)])  # type: ignore
        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = tf.nn.relu(x) @ layer
            return x

    model = Network()
    signature = model.__call__.get_concrete_function()
    tf.saved_model.save(model, "saved_model", signatures=signature)

    def weights() -> Any:
        folder = "initialised" if Path("initialised").exists() else "saved_model"
        loaded = tf.saved_model.load(folder)  # it keeps the variables alive
        variables = loaded.signatures["serving_default"].variables
        return next(v.numpy() for v in variables if v.name == "w0:0")

    return _changes(weights)


def jax_models(names: dict[str, Any], all_three: bool = True) -> Callable[[], None]:
    """A function, an Equinox and an NNX module; ``all_three`` says whether each is changed."""
    jax = pytest.importorskip("jax")
    equinox, nnx = pytest.importorskip("equinox"), pytest.importorskip("flax.nnx")
    jnp = jax.numpy
    keys = jax.random.split(jax.random.key(0), 4)

    def function(params: Any, x: Any) -> Any:
        for weight in params:
            x = jax.nn.relu(x) @ weight
        return x

    mlp = equinox.nn.MLP(16, 3, 16, 4, key=jax.random.key(1))
    mlp = equinox.tree_at(
        lambda m: [layer.weight for layer in m.layers], mlp, replace_fn=lambda w: DEAD * w
    )
    rngs = nnx.Rngs(0)
    module = nnx.Sequential(
        *(f for _ in range(4) for f in (nnx.Linear(16, 16, rngs=rngs), nnx.relu))
    )
    for layer in module.layers[::2]:
        layer.kernel.set_value(DEAD * layer.kernel.get_value())
    names.update(
        function=function,
        params=[DEAD * jax.random.normal(key, (16, 16)) / 4 for key in keys],
        equinox_module=mlp,
        nnx_module=module,
        example=jnp.ones((8, 16)),
    )

    def weights() -> Any:
        """The first weight of each model that the block may have changed."""
        kernels = [w.get_value() for _, w in nnx.to_flat_state(nnx.state(module))]
        kernel = next(k for k in kernels if k.ndim == 2)
        first = [names["params"][0], names["equinox_module"].layers[0].weight, kernel]
        return [np.array(w) for w in first[: 3 if all_three else 1]]

    return _changes(lambda: np.concatenate([w.ravel() for w in weights()]))


def entry_points(names: dict[str, Any]) -> None:
    """What installing the package of ``pyproject.toml`` registers."""
    declared = Path("pyproject.toml").read_text("utf-8")
    (group,) = re.findall(r'\[project\.entry-points\."(.*?)"\]', declared)
    lines = re.findall(r'^(\w+) = "([\w.]+)"$', declared.partition(group)[2], re.MULTILINE)
    info = Path("installed-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1.0\n")
    points = "".join(f"{name} = {target}\n" for name, target in lines)
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}")


def clone(names: dict[str, Any]) -> None:
    """The repository's own files, as they are."""
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "graph_init",
            "frontends",
            "tests",
            "pyproject.toml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            target = Path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


def _changes(weights: Callable[[], Any]) -> Callable[[], None]:
    before = weights()

    def check() -> None:
        assert (weights() != before).all(), "the block has left the weights as they were"

    return check


def installed(module: str) -> Fixture:
    """The page's programs import it; without it the page is passed over."""

    def look(names: dict[str, Any]) -> None:
        pytest.importorskip(module)

    return look


FIXTURES: dict[str, Fixture] = {
    "model.onnx": model_file,
    "models": models,
    "open-sizes": open_sizes,
    "broken": broken_file,
    "mended": mended,
    "train.npz": data_file,
    "broken-models": broken_models,
    "clone": clone,
    "pytorch": installed("torch"),
    "scikit-learn": installed("sklearn"),
    "plain-onnxruntime": plain_onnxruntime,
    "torch": torch_module,
    "transformers": transformer,
    "keras": keras_model,
    "saved-model": saved_model,
    "jax": jax_models,
    "jax-function": partial(jax_models, all_three=False),
    "entry-points": entry_points,
}
