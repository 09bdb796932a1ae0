"""What the README tells users to write, run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: What a block of the README finds defined, and what tells whether that has changed.
Names = tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]

#: A factor on weights that makes a network one that the tuner will not leave alone.
DEAD = 0.1

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(word: str) -> list[str]:
    """Blocks of Python in the README that ``word`` occurs in."""
    return [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in b]


def torch_names() -> Names:
    """What the README calls ``module`` and ``example``, and what tells whether it has changed."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers: list[Any] = []
    for _ in range(4):
        layers += [torch.nn.Linear(16, 16, bias=False), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(16, 3))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= DEAD
    names = {"module": module, "example": torch.randn(8, 16)}
    return names, lambda names: names["module"][0].weight.detach().clone().numpy()


def keras_names() -> Names:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(16, "relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((16,)), *dense, keras.layers.Dense(3)])
    for layer in dense:
        layer.kernel.assign(DEAD * layer.kernel)
    return {"model": model}, lambda names: keras.ops.convert_to_numpy(dense[0].kernel.value).copy()


def tensorflow_names() -> Names:
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")

    class Network(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = tf.random.stateless_normal
            self.layers = [tf.Variable(draw((6, 6), (0, k)) / 3, name=f"w{k}") for k in range(4)]

        @tf.function(input_signature=[tf.TensorSpec((None, 6), tf.float32)])
        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = tf.nn.relu(x) @ layer
            return x

    model = Network()
    signature = model.__call__.get_concrete_function()
    tf.saved_model.save(model, "saved_model", signatures=signature)

    def weights(names: dict[str, Any]) -> Any:
        folder = "initialised" if Path("initialised").exists() else "saved_model"
        loaded = tf.saved_model.load(folder)  # it keeps the variables alive
        variables = loaded.signatures["serving_default"].variables
        return next(v.numpy() for v in variables if v.name == "w0:0")

    return {}, weights


def jax_names() -> Names:
    jax = pytest.importorskip("jax")
    equinox, nnx = pytest.importorskip("equinox"), pytest.importorskip("flax.nnx")
    jnp = jax.numpy
    keys = jax.random.split(jax.random.key(0), 4)
    params = [DEAD * jax.random.normal(key, (16, 16)) / 4 for key in keys]

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
    names = {
        "function": function,
        "params": params,
        "equinox_module": mlp,
        "nnx_module": module,
        "example": jnp.ones((8, 16)),
    }

    def weights(names: dict[str, Any]) -> Any:
        kernels = [w.get_value() for _, w in nnx.to_flat_state(nnx.state(names["nnx_module"]))]
        kernel = next(k for k in kernels if k.ndim == 2)
        first = [names["params"][0], names["equinox_module"].layers[0].weight, kernel]
        return np.concatenate([np.array(w).ravel() for w in first])

    return names, weights


FRAMEWORKS: dict[str, Callable[[], Names]] = {
    "graph_init_torch": torch_names,
    "graph_init_keras": keras_names,
    "graph_init_tensorflow": tensorflow_names,
    "graph_init_jax": jax_names,
}


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_the_one_line_in_each_framework(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(package)
    names, weights = FRAMEWORKS[package]()
    before = weights(names)
    exec(compile(block, "README.md", "exec"), names)
    assert (weights(names) != before).all()
