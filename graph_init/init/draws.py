"""Draws the random weights of one layer, for the schemes.

Every function takes a tensor's :class:`Layer`, a generator and a factor on the result (the gain),
and returns float32 of the tensor's own shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graph_init.ir import Array


@dataclass(frozen=True)
class Layer:
    """A weight tensor: its shape, its fans, and how many of its first axes count matrices.

    A ``kernel`` has shape (output channels, input channels / groups, *field), or the same with in
    and out exchanged.
    """

    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    stacked: int = 0
    kernel: bool = False
    groups: int = 1


Draw = Callable[[Layer, np.random.Generator, float], Array]
Std = Callable[[Layer], float]


def normal(std: Std) -> Draw:
    """N(0, std²)."""

    def draw(layer: Layer, rng: np.random.Generator, factor: float) -> Array:
        scale = np.float32(factor * std(layer))
        return rng.standard_normal(layer.shape, dtype=np.float32) * scale

    return draw


def uniform(std: Std) -> Draw:
    """Uniform with this standard deviation: within ±√3 of it."""

    def draw(layer: Layer, rng: np.random.Generator, factor: float) -> Array:
        bound = np.float32(math.sqrt(3.0) * factor * std(layer))
        return (2 * rng.random(layer.shape, dtype=np.float32) - 1) * bound

    return draw


#: Where ``torch.nn.init.trunc_normal_`` cuts by default: absolute, not in stds.
TRUNCATION = 2.0


def truncated_normal(layer: Layer, rng: np.random.Generator, factor: float) -> Array:
    """N(0, factor²), drawn again beyond ±2."""
    scale = np.float32(factor)
    values = rng.standard_normal(layer.shape, dtype=np.float32) * scale
    while (outside := np.abs(values) > TRUNCATION).any():
        again = rng.standard_normal(int(outside.sum()), dtype=np.float32)
        values[outside] = again * scale
    return values


def orthogonal(layer: Layer, rng: np.random.Generator, factor: float) -> Array:
    """Orthonormal rows or columns, uniform over all such (Saxe et al. 2014), times ``factor``.

    A tensor of more axes is taken as a matrix of its first axis by the others; of ``stacked``
    matrices each is drawn for itself.
    """
    lead, rest = layer.shape[: layer.stacked], layer.shape[layer.stacked :]
    rows, columns = rest[0], math.prod(rest[1:])
    matrices = [_orthonormal(rows, columns, rng) for _ in range(math.prod(lead))]
    values = np.stack(matrices).reshape(layer.shape)
    return (values * factor).astype(np.float32)


def _orthonormal(rows: int, columns: int, rng: np.random.Generator) -> Array:
    flat = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(flat)
    q *= np.where(np.diagonal(r) < 0, -1, 1)  # else the signs follow the algorithm, not chance
    return q if rows >= columns else q.T


def delta_orthogonal(layer: Layer, rng: np.random.Generator, factor: float) -> Array:
    """A kernel that is zero but at its centre, where it is orthogonal (Xiao et al. 2018).

    Each group for itself; anything but a kernel is drawn as :func:`orthogonal`.
    """
    if not layer.kernel:
        return orthogonal(layer, rng, factor)
    rows, columns, *field = layer.shape
    values = np.zeros(layer.shape, np.float32)
    centre = [(size - 1) // 2 for size in field]
    blocks = [_orthonormal(rows // layer.groups, columns, rng) for _ in range(layer.groups)]
    at_centre = values.reshape(rows, columns, -1)[..., np.ravel_multi_index(centre, field)]
    at_centre[...] = np.concatenate(blocks) * factor
    return values
