"""Normalisations, as means, products and square roots."""

from __future__ import annotations

import numpy as np

from graph_init.ir import MICROSOFT, Builder, Value
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
    """1 / sqrt(variance + epsilon)."""
    return b.reciprocal(b.op("Sqrt", b.add(variance, b.scalar(epsilon, variance))))


def affine(b: Builder, x: Value, gain: Value | None, shift: Value | None) -> Value:
    """gain·x + shift, where these are given."""
    x = x if gain is None else b.mul(x, gain)
    return x if shift is None else b.add(x, shift)


@lowers("Scaler", domain="ai.onnx.ml")
def _scaler(b: Builder, c: Call) -> Value:
    """(x − offset)·scale, each one number or one for each feature; of whole numbers, too."""
    x = b.cast(c[0], b.precision)
    offset, scale = (
        b.cast(b.constant(np.asarray(c.attrs.get(name, [none]), np.float32)), b.precision)
        for name, none in (("offset", 0.0), ("scale", 1.0))
    )
    return b.mul(b.sub(x, offset), scale)


@lowers("LayerNormalization")
def _layer(b: Builder, c: Call) -> list[Value | None]:
    x = c[0]
    axis = c.attrs.get("axis", -1) % x.rank
    axes = list(range(axis, x.rank))
    y, mean, inverse = standardize(b, x, axes, c.attrs.get("epsilon", 1e-5))
    return [affine(b, y, c.get(1), c.get(2)), mean, inverse]


def rms(b: Builder, x: Value, axes: list[int], epsilon: float) -> Value:
    """x divided by the root of its mean square over ``axes``."""
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
    """Running statistics in ``eval`` mode, the batch's own in ``train`` mode, else as it says."""
    x = c[0]
    epsilon = c.attrs.get("epsilon", 1e-5)
    gain, shift = (per_channel(b, c[i], x.rank) for i in (1, 2))
    training = c.batch_norm == "train" or (
        c.batch_norm == "model" and bool(c.attrs.get("training_mode"))
    )
    if not training:
        mean, variance = (per_channel(b, c[i], x.rank) for i in (3, 4))
        y = b.mul(b.sub(x, mean), inverse_root(b, variance, epsilon))
        return [affine(b, y, gain, shift), c[3], c[4], *[None] * 2][: len(c.wanted)]
    axes = [i for i in range(x.rank) if i != 1]
    mean = b.mean(x, axes)
    centred = b.sub(x, mean)
    variance = b.mean(b.mul(centred, centred), axes)
    y = b.mul(centred, inverse_root(b, variance, epsilon))
    old = c.attrs.get("momentum", 0.9)
    running = [
        b.add(b.scale(c[i], old), b.scale(b.reshape(v, c[i].dims), 1 - old))
        for i, v in ((3, mean), (4, variance))
    ]
    return [affine(b, y, gain, shift), *running, *[None] * 2][: len(c.wanted)]


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
    """Where the norm is zero so is the result."""
    x, axis = c[0], c.attrs.get("axis", -1)
    absolute = c.attrs.get("p", 2) == 1
    total = b.sum(b.op("Abs", x) if absolute else b.mul(x, x), [axis])
    empty = b.op("Equal", total, b.scalar(0.0, total))
    total = b.where(empty, b.scalar(1.0, total), total)
    return b.mul(x, b.reciprocal(total if absolute else b.op("Sqrt", total)))


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
