"""Models of JAX's kinds: each as (model, params or None, example)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

#: Rows of every example.
ROWS = 6

Built = tuple[Any, Any, Any]


def floats(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), (ROWS, *shape))


def words(length: int, vocabulary: int) -> jax.Array:
    return jax.random.randint(jax.random.key(7), (ROWS, length), 0, vocabulary)


def draw(shapes: dict[str, Any]) -> dict[str, Any]:
    """Gaussian weights over the root of the last axis but one, zeros for vectors."""
    keys = iter(jax.random.split(jax.random.key(1), 64))

    def leaf(shape: tuple[int, ...]) -> jax.Array:
        if len(shape) < 2:
            return jnp.zeros(shape)
        return jax.random.normal(next(keys), shape) / shape[-2] ** 0.5

    return jax.tree.map(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))


# ---- functions


def mlp(params: Any, x: jax.Array) -> jax.Array:
    for layer in params["layers"]:
        x = jax.nn.gelu(x @ layer["w"] + layer["b"], approximate=False)
    return jax.nn.softmax(x @ params["head"])


def stacked(params: Any, x: jax.Array) -> jax.Array:
    """Layers of one shape, scanned over."""

    def layer(carry: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        return carry + jnp.tanh(carry @ weights["w"] + weights["b"]), None

    return jax.lax.scan(layer, x, params["layers"])[0] @ params["head"]


def tied(params: Any, words: jax.Array) -> jax.Array:
    """A language model whose head is its embedding."""
    x = params["embedding"][words]
    x = x + jax.nn.silu(x @ params["up"]) @ params["down"]
    x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * (1 + params["gain"])
    return jnp.einsum("bsd,vd->bsv", x, params["embedding"])


# ---- Flax Linen


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
        x = nn.Conv(8, (3, 3), strides=2, feature_group_count=4, kernel_dilation=1)(x)
        x = nn.leaky_relu(nn.GroupNorm(num_groups=2)(x))
        x = nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(4)(x)


class Small(nn.Module):
    """Images of few places and many channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (8, 12, 16):
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(width, (3, 3))(x)))
        return nn.Dense(5)(x.reshape(len(x), -1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RNN(nn.OptimizedLSTMCell(8))(x)
        x = nn.RNN(nn.GRUCell(6), reverse=True, keep_order=True)(x)
        return nn.Dense(3)(x[:, -1])


class Shared(nn.Module):
    """One layer that is called twice."""

    @nn.compact
    def __call__(self, left: jax.Array, right: jax.Array) -> jax.Array:
        tower = nn.Dense(16, name="tower")
        joined = jnp.concatenate([nn.tanh(tower(left)), nn.tanh(tower(right))], axis=-1)
        return nn.Dense(3, name="head")(joined)


# ---- Flax NNX


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.dropout(self.attention(self.first(x), mask=mask))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class Transformer(nnx.Module):
    """Causal, with the embedding as head, positions, and a block that is used twice."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(20, 16, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(jax.random.key(3), (8, 16)))
        self.block = Block(16, rngs)
        self.blocks = nnx.List([self.block, Block(16, rngs), self.block])
        self.batch_norm = nnx.BatchNorm(16, rngs=rngs)

    def __call__(self, words: jax.Array) -> jax.Array:
        x = self.embedding(words) + self.positions[: words.shape[1]]
        mask = nnx.make_causal_mask(words)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.batch_norm(x))


# ---- Equinox


class Convolutional(eqx.Module):
    layers: list[Any]
    head: eqx.nn.Linear
    scale: float = 0.5

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(3, 8, 3, key=keys[0]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.ConvTranspose2d(8, 6, 3, stride=2, key=keys[1]),
            eqx.nn.GroupNorm(2, 6),
            eqx.nn.Dropout(0.5),
            eqx.nn.AdaptiveAvgPool2d(2),
        ]
        self.head = eqx.nn.Linear(24, 4, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return self.head(self.scale * x.ravel())


def linen(module: nn.Module, *example: jax.Array) -> Built:
    return module, jax.jit(module.init)(jax.random.key(0), *example), example


def half_precision() -> Built:
    shapes = {"layers": [{"w": (12, 16), "b": (16,)}], "head": (16, 5)}
    return mlp, jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(shapes)), (floats(12),)


MODELS: dict[str, Callable[[], Built]] = {
    "function": lambda: (
        mlp,
        draw(
            {"layers": [{"w": (12, 32), "b": (32,)}, {"w": (32, 32), "b": (32,)}], "head": (32, 5)}
        ),
        (floats(12),),
    ),
    "function, scanned layers": lambda: (
        stacked,
        draw({"layers": {"w": (4, 12, 12), "b": (4, 12)}, "head": (12, 5)}),
        (floats(12),),
    ),
    "function, tied embedding": lambda: (
        tied,
        draw({"embedding": (20, 12), "up": (12, 24), "down": (24, 12), "gain": (12,)}),
        (words(7, 20),),
    ),
    "function, bfloat16": half_precision,
    "Linen, convolutions": lambda: linen(Cnn(), floats(12, 12, 3)),
    "Linen, small images": lambda: linen(Small(), floats(4, 4, 8)),
    "Linen, recurrent": lambda: linen(Recurrent(), floats(7, 5)),
    "Linen, shared layer": lambda: linen(Shared(), floats(6), -floats(6)),
    "NNX, transformer": lambda: (Transformer(nnx.Rngs(0)), None, (words(7, 20),)),
    "Equinox, MLP": lambda: (
        eqx.nn.MLP(12, 5, 32, 2, key=jax.random.key(0)),
        None,
        (floats(12),),
    ),
    "Equinox, convolutions": lambda: (
        Convolutional(jax.random.key(0)),
        None,
        (floats(3, 12, 12),),
    ),
}


def forward(model: Any, params: Any, example: Any) -> Any:
    """What the model gives when it is evaluated."""
    if isinstance(model, nn.Module):
        return model.apply(params, *example)
    if isinstance(model, nnx.Module):
        copy = nnx.clone(model)
        copy.eval()
        return copy(*example)
    if isinstance(model, eqx.Module):
        return jax.vmap(eqx.nn.inference_mode(model))(*example)
    return model(params, *example)


def tree(model: Any, params: Any) -> Any:
    """The pytree of a model's arrays."""
    if isinstance(model, nnx.Module):
        return nnx.state(model)
    return eqx.filter(model, eqx.is_array) if params is None else params


def loss(outputs: jax.Array, target: jax.Array) -> jax.Array:
    flat = jax.nn.log_softmax(outputs.reshape(-1, outputs.shape[-1]).astype(jnp.float32))
    return -jnp.mean(flat[jnp.arange(len(flat)), target])


def _apart(model: Any, params: Any, example: Any) -> tuple[Any, Callable[[Any], jax.Array]]:
    """What is trained, and the outputs as a function of it."""
    if isinstance(model, nnx.Module):
        definition, whole, rest = nnx.split(model, nnx.Param, ...)
        return whole, lambda p: forward(nnx.merge(definition, p, rest), None, example)
    if params is None:
        whole, static = eqx.partition(model, eqx.is_inexact_array)
        return whole, lambda p: forward(eqx.combine(p, static), None, example)
    return params, partial(forward, model, example=example)


def gradients(model: Any, params: Any, example: Any, target: Any) -> Any:
    """JAX's own of the mean squared error, as a pytree."""
    whole, call = _apart(model, params, example)
    return jax.grad(lambda p: jnp.mean(jnp.square(call(p) - target)))(whole)


def train(model: Any, params: Any, example: Any, steps: int = 5) -> list[float]:
    """Losses of a few steps of gradient descent."""
    whole, call = _apart(model, params, example)
    target = jnp.arange(call(whole)[..., 0].size) % 3
    step = jax.jit(jax.value_and_grad(lambda p: loss(call(p), target)))
    losses = []
    for _ in range(steps):
        value, gradient = step(whole)
        losses.append(float(value))
        whole = jax.tree.map(lambda p, g: (p - 0.05 * g).astype(p.dtype), whole, gradient)
    return losses
