"""Resize and Upsample: a constant interpolation matrix for each axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graph_init.ir import Array, Builder, Value
from graph_init.lowering.registry import Call, lowers

#: Elements of the matrix of one axis.
_MOST_WEIGHTS = 1 << 28


@dataclass(frozen=True)
class _Axis:
    """One resized axis: sizes, scale, and its part of the region of interest."""

    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


#: coordinate_transformation_mode -> positions in the input of the output's elements 0 … n−1
_COORDINATES: dict[str, Callable[[_Axis, Array], Array]] = {
    "half_pixel": lambda a, i: (i + 0.5) / a.scale - 0.5,
    "half_pixel_symmetric": lambda a, i: (
        a.size / 2 * (1 - a.target / (a.scale * a.size)) + (i + 0.5) / a.scale - 0.5
    ),
    "pytorch_half_pixel": lambda a, i: (i + 0.5) / a.scale - 0.5 if a.target > 1 else 0 * i,
    "align_corners": lambda a, i: (
        i * (a.size - 1) / (a.scale * a.size - 1) if a.scale * a.size != 1 else 0 * i
    ),
    "asymmetric": lambda a, i: i / a.scale,
    "tf_crop_and_resize": lambda a, i: (
        a.start * (a.size - 1) + i * (a.end - a.start) * (a.size - 1) / (a.target - 1)
        if a.target > 1
        else 0 * i + 0.5 * (a.start + a.end) * (a.size - 1)
    ),
    "tf_half_pixel_for_nn": lambda a, i: (i + 0.5) / a.scale,
}

#: nearest_mode -> index of a position
_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _linear(distance: Array, a: float) -> Array:
    weight: Array = np.maximum(1 - np.abs(distance), 0)
    return weight


def _cubic(distance: Array, a: float) -> Array:
    """Keys 1981, equation 15."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


#: mode -> (weight of a tap at a distance, taps on each side)
_KERNELS: dict[str, tuple[Callable[[Array, float], Array], int]] = {
    "linear": (_linear, 1),
    "cubic": (_cubic, 2),
}


@dataclass(frozen=True)
class _Mode:
    kernel: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def _matrix(axis: _Axis, mode: _Mode) -> Array:
    """Weights (target, size); an element outside the input counts as the nearest inside."""
    position = _COORDINATES[mode.coordinates](axis, np.arange(axis.target, dtype=np.float64))
    weights = np.zeros((axis.target, axis.size))
    rows = np.arange(axis.target)
    if mode.kernel == "nearest":
        # Positions are rounded as in single precision, in which the standard's reference works.
        places = _NEAREST[mode.nearest](np.round(position, 6)).astype(int)
        weights[rows, np.clip(places, 0, axis.size - 1)] = 1
        return weights
    kernel, reach = _KERNELS[mode.kernel]
    shrink = min(axis.scale, 1.0) if mode.antialias else 1.0
    width = int(np.ceil(reach / shrink))
    first = np.floor(position).astype(int) - width + 1
    taps = first[:, None] + np.arange(2 * width)[None, :]
    values = kernel((taps - position[:, None]) * shrink, mode.cubic)
    if mode.exclude_outside:
        values = np.where((taps >= 0) & (taps < axis.size), values, 0.0)
    values = values / values.sum(1, keepdims=True)
    np.add.at(weights, (rows[:, None], np.clip(taps, 0, axis.size - 1)), values)
    return weights


def _along(b: Builder, x: Value, axis: int, weights: Array) -> Value:
    """``x`` with ``axis`` multiplied by ``weights`` (target, size); selections are gathers."""
    if weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights))):
        return x
    if np.all((weights == 0) | (weights == 1)) and np.all(weights.sum(1) == 1):
        return b.op("Gather", x, b.ints(weights.argmax(1)), axis=axis)
    perm = [i for i in range(x.rank) if i != axis] + [axis]
    back = [int(i) for i in np.argsort(perm)]
    product = b.op("MatMul", b.transpose(x, perm), b.constant(weights.T, x.dtype))
    return b.transpose(product, back)


def _sizes(c: Call, x: Value, axes: list[int]) -> tuple[list[float], list[int]]:
    """Scales and target sizes of ``axes``, from whichever is given."""
    scales, sizes = c.const(2), c.const(3)
    if scales is not None and scales.size:
        factors = [float(s) for s in scales.reshape(-1)]
        return factors, [int(np.floor(x.dims[a] * s)) for a, s in zip(axes, factors, strict=True)]
    if sizes is None:
        raise c.refuse("has neither scales nor sizes")
    targets = [int(s) for s in sizes.reshape(-1)]
    factors = [t / x.dims[a] for a, t in zip(axes, targets, strict=True)]
    policy = c.attrs.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        factor = (max if policy == "not_smaller" else min)(factors)
        factors = [factor] * len(axes)
        # Halves are rounded up.
        targets = [int(np.floor(factor * x.dims[a] + 0.5)) for a in axes]
    return factors, targets


def upsample(b: Builder, c: Call) -> Value:
    """The predecessor of Resize: asymmetric coordinates, rounded down."""
    x = c[0]
    scales = c.attrs.get("scales") or c.const(1)
    if scales is None:
        raise c.refuse("has no scales")
    mode = _Mode(
        c.attrs.get("mode", "nearest"),
        "asymmetric",
        nearest="floor",
        cubic=-0.75,
        exclude_outside=False,
        antialias=False,
    )
    for a, scale in enumerate(float(s) for s in np.asarray(scales).reshape(-1)):
        if scale != 1:
            target = int(np.floor(x.dims[a] * scale))
            x = _along(b, x, a, _matrix(_Axis(x.dims[a], target, scale), mode))
    return x


lowers("Upsample")(upsample)


@lowers("Resize")
def _resize(b: Builder, c: Call) -> Value:
    if c.opset < 11:
        return upsample(b, c)
    x = c[0]
    axes = [a % x.rank for a in c.attrs.get("axes") or range(x.rank)]
    mode = _Mode(
        c.attrs.get("mode", "nearest"),
        c.attrs.get("coordinate_transformation_mode", "half_pixel"),
        nearest=c.attrs.get("nearest_mode", "round_prefer_floor"),
        cubic=c.attrs.get("cubic_coeff_a", -0.75),
        exclude_outside=bool(c.attrs.get("exclude_outside", 0)),
        antialias=bool(c.attrs.get("antialias", 0)),
    )
    crop = mode.coordinates == "tf_crop_and_resize"
    region = np.asarray(c.const(1) if crop else np.zeros(0), np.float64).reshape(-1)
    factors, targets = _sizes(c, x, axes)
    outside = np.zeros((), bool)
    for k, (a, factor, target) in enumerate(zip(axes, factors, targets, strict=True)):
        start, end = (region[k], region[len(axes) + k]) if crop else (0.0, 1.0)
        axis = _Axis(x.dims[a], target, scale=factor, start=start, end=end)
        if target * axis.size > _MOST_WEIGHTS:
            raise c.refuse(f"makes {target:,} places of {axis.size:,}, which is too much")
        if factor == 1 and target == axis.size and not crop:
            continue
        if crop:
            position = _COORDINATES[mode.coordinates](axis, np.arange(target, dtype=np.float64))
            beyond = (position < 0) | (position > axis.size - 1)
            outside = outside | beyond.reshape([-1 if i == a else 1 for i in range(x.rank)])
        x = _along(b, x, a, _matrix(axis, mode))
    if not outside.any():
        return x
    fill = b.scalar(c.attrs.get("extrapolation_value", 0.0), x)
    return b.where(b.constant(outside), fill, x)
