"""Normalisations, as means, products and square roots."""

from __future__ import annotations

import numpy as np

from graph_init.builder import MICROSOFT, Builder, Value
from graph_init.lowering.linear import per_channel
from graph_init.lowering.registry import Call, lowers


def standardize(
    b: Builder, x: Value, axes: list[int], epsilon: float
) -> tuple[Value, Value, Value]:
    """(x − mean) / sqrt(variance + epsilon) over ``axes``; also the mean and 1/deviation."""
    mean = b.mean(x, axes)
    centred = b.sub(x, mean)
    inverse = inverse_root(b, b.mean(b.mul(centred, centred), axes), epsilon)
    return b.mul(centred, inverse), mean, inverse


def inverse_root(b: Builder, variance: Value, epsilon: float) -> Value:
    return b.reciprocal(b.op("Sqrt", b.add(variance, b.scalar(epsilon, variance))))


def affine(b: Builder, x: Value, gain: Value | None, shift: Value | None) -> Value:
    x = x if gain is None else b.mul(x, gain)
    return x if shift is None else b.add(x, shift)


@lowers("LayerNormalization")
def _layer(b: Builder, c: Call) -> list[Value | None]:
    x = c[0]
    axis = c.attrs.get("axis", -1) % x.rank
    axes = list(range(axis, x.rank))
    y, mean, inverse = standardize(b, x, axes, c.attrs.get("epsilon", 1e-5))
    return [affine(b, y, c.get(1), c.get(2)), mean, inverse]


def rms(b: Builder, x: Value, axes: list[int], epsilon: float) -> Value:
    return b.mul(x, inverse_root(b, b.mean(b.mul(x, x), axes), epsilon))


@lowers("RMSNormalization")
@lowers("SimplifiedLayerNormalization")
@lowers("SimplifiedLayerNormalization", domain=MICROSOFT)
def _rms(b: Builder, c: Call) -> Value:
    axis = c.attrs.get("axis", -1) % c[0].rank
    axes = list(range(axis, c[0].rank))
    return affine(b, rms(b, c[0], axes, c.attrs.get("epsilon", 1e-5)), c.get(1), None)


@lowers("BatchNormalization")
def _batch(b: Builder, c: Call) -> list[Value | None]:
    """Running statistics in ``eval`` mode; the batch's own in ``train`` mode."""
    x = c[0]
    epsilon = c.attrs.get("epsilon", 1e-5)
    gain, shift = (per_channel(b, c[i], x.rank) for i in (1, 2))
    if c.batch_norm == "train":
        y = standardize(b, x, [i for i in range(x.rank) if i != 1], epsilon)[0]
        return [affine(b, y, gain, shift), *[None] * (len(c.wanted) - 1)]
    mean, variance = (per_channel(b, c[i], x.rank) for i in (3, 4))
    y = b.mul(b.sub(x, mean), inverse_root(b, variance, epsilon))
    return [affine(b, y, gain, shift), *[None] * (len(c.wanted) - 1)]


@lowers("InstanceNormalization")
def _instance(b: Builder, c: Call) -> Value:
    x = c[0]
    y = standardize(b, x, list(range(2, x.rank)), c.attrs.get("epsilon", 1e-5))[0]
    return affine(b, y, per_channel(b, c[1], x.rank), per_channel(b, c[2], x.rank))


@lowers("GroupNormalization")
def _group(b: Builder, c: Call) -> Value:
    x = c[0]
    groups = c.attrs["num_groups"]
    n, channels = x.dims[:2]
    apart = b.reshape(x, [n, groups, -1])
    y = b.reshape(standardize(b, apart, [2], c.attrs.get("epsilon", 1e-5))[0], x.dims)
    gain, shift = c[1], c[2]
    if gain.size != channels:  # opset 18: a number per group
        each = channels // groups
        gain, shift = (
            b.reshape(b.expand(b.reshape(v, [groups, 1]), [groups, each]), [channels])
            for v in (gain, shift)
        )
    return affine(b, y, per_channel(b, gain, x.rank), per_channel(b, shift, x.rank))


@lowers("LpNormalization")
def _lp(b: Builder, c: Call) -> Value:
    x, axis = c[0], c.attrs.get("axis", -1)
    if c.attrs.get("p", 2) == 1:
        return b.mul(x, b.reciprocal(b.sum(b.op("Abs", x), [axis])))
    return b.mul(x, b.reciprocal(b.op("Sqrt", b.sum(b.mul(x, x), [axis]))))


@lowers("LRN")
def _lrn(b: Builder, c: Call) -> Value:
    """x / (bias + alpha/size · Σ x² over neighbouring channels)^beta; the sum is a band matrix."""
    x, size = c[0], c.attrs["size"]
    n, channels = x.dims[:2]
    i, j = np.indices((channels, channels))
    band = (j - i >= -((size - 1) // 2)) & (j - i <= size // 2)
    flat = b.reshape(b.mul(x, x), [n, channels, -1])
    near = b.reshape(b.op("MatMul", b.constant(band, x.dtype), flat), x.dims)
    alpha, beta = c.attrs.get("alpha", 1e-4), c.attrs.get("beta", 0.75)
    base = b.add(b.scale(near, alpha / size), b.scalar(c.attrs.get("bias", 1.0), x))
    return b.mul(x, b.op("Exp", b.scale(b.op("Log", base), -beta)))
