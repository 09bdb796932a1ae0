"""Models of Flax for :mod:`tools.experiments.check_models`, apart: importing JAX takes long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (128, 96, 64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (64, 96, 128):
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3))(x)))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, words: jax.Array) -> jax.Array:
        x = nn.Embed(100, 64)(words)
        for _ in range(3):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(y, y)
            y = nn.LayerNorm()(x)
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(256)(y)))
        return nn.Dense(100)(nn.LayerNorm()(x))


def _normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(7), shape)


MODELS: Mapping[str, Callable[[], tuple[Any, jax.Array]]] = {
    "mlp": lambda: (Mlp(), _normal(8, 64)),
    "cnn": lambda: (Cnn(), _normal(8, 16, 16, 3)),
    "transformer": lambda: (
        Transformer(),
        jax.random.randint(jax.random.key(7), (8, 16), 0, 100).astype(jnp.int32),
    ),
}
