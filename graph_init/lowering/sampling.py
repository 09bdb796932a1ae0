"""Operators that read an image between its pixels: GridSample, RoiAlign, DeformConv.

All read an image (rows, channels, *space) at positions (rows, points) an axis, in pixels, as a
weighted sum of taps: the taps' indices have no derivative, the weights have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers

INT64 = 7


def _clamp(b: Builder, x: Value, low: float, high: float) -> Value:
    lower, upper = b.scalar(low, x), b.scalar(high, x)
    x = b.where(b.op("Less", x, lower), lower, x)
    return b.where(b.op("Greater", x, upper), upper, x)


def _cubic_weights(b: Builder, fraction: Value, a: float = -0.75) -> list[Value]:
    """Weights of the taps at −1, 0, 1, 2 (Keys 1981)."""
    one, two = b.scalar(1.0, fraction), b.scalar(2.0, fraction)

    def near(d: Value) -> Value:
        inner = b.sub(b.scale(d, a + 2), b.scalar(a + 3, d))
        return b.add(b.mul(inner, b.mul(d, d)), b.scalar(1.0, d))

    def far(d: Value) -> Value:
        inner = b.add(b.mul(b.sub(b.scale(d, a), b.scalar(5 * a, d)), d), b.scalar(8 * a, d))
        return b.sub(b.mul(inner, d), b.scalar(4 * a, d))

    back = b.sub(one, fraction)
    return [far(b.add(fraction, one)), near(fraction), near(back), far(b.sub(two, fraction))]


def _taps(b: Builder, position: Value, mode: str) -> list[tuple[Value, Value | None]]:
    """(index as a float without derivative, weight) of each tap along one axis."""
    if mode == "nearest":
        return [(b.op("Round", position), None)]
    base = b.op("Floor", position)
    fraction = b.sub(position, base)
    if mode == "cubic":
        weights = _cubic_weights(b, fraction)
        return [(b.add(base, b.scalar(float(k - 1), base)), weights[k]) for k in range(4)]
    return [
        (base, b.sub(b.scalar(1.0, fraction), fraction)),
        (b.add(base, b.scalar(1.0, base)), fraction),
    ]


def sample(
    b: Builder,
    image: Value,
    positions: Sequence[Value],
    mode: str = "linear",
    wrap: Callable[[Value, int], Value] | None = None,
) -> Value:
    """``image`` (n, c, *space) read at ``positions`` (n, p), a tensor for each axis: (n, c, p).

    ``wrap`` brings an index of an axis of the given size back into the image; without it what lies
    outside is zero.
    """
    rows, channels, *space = image.dims
    points = positions[0].dims[1]
    flat = b.reshape(image, [rows, channels, -1])
    total: Value | None = None
    for combination in itertools.product(*(_taps(b, p, mode) for p in positions)):
        place: Value | None = None
        weight: Value | None = None
        valid: Value | None = None
        for (index, w), size in zip(combination, space, strict=True):
            if wrap is not None:
                index = wrap(index, size)
            else:
                inside = b.op(
                    "And",
                    b.op("GreaterOrEqual", index, b.scalar(0.0, index)),
                    b.op("LessOrEqual", index, b.scalar(float(size - 1), index)),
                )
                valid = inside if valid is None else b.op("And", valid, inside)
            whole = b.cast(_clamp(b, index, 0.0, float(size - 1)), INT64)
            place = (
                whole if place is None else b.add(b.mul(place, b.constant(np.int64(size))), whole)
            )
            weight = w if weight is None else weight if w is None else b.mul(weight, w)
        assert place is not None
        where = b.expand(b.reshape(place, [rows, 1, points]), [rows, channels, points])
        term = b.op("GatherElements", flat, where, axis=2)
        if weight is not None:
            term = b.mul(term, b.reshape(weight, [rows, 1, points]))
        if valid is not None:
            term = b.where(b.reshape(valid, [rows, 1, points]), term, b.scalar(0.0, term))
        total = term if total is None else b.add(total, term)
    assert total is not None
    return total


def _border(b: Builder) -> Callable[[Value, int], Value]:
    return lambda index, size: _clamp(b, index, 0.0, float(size - 1))


def _reflect(b: Builder, x: Value, low: float, high: float) -> Value:
    """``x`` mirrored at ``low`` and ``high`` until it lies between."""
    span = high - low
    if span <= 0:
        return b.mul(x, b.scalar(0.0, x))
    away = b.op("Abs", b.sub(x, b.scalar(low, x)))
    times = b.op("Floor", b.scale(away, 1 / span))
    rest = b.sub(away, b.scale(times, span))
    half = b.scale(times, 0.5)
    odd = b.op("Greater", b.sub(half, b.op("Floor", half)), b.scalar(0.25, half))
    return b.add(b.where(odd, b.sub(b.scalar(span, rest), rest), rest), b.scalar(low, x))


_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@lowers("GridSample")
def _grid_sample(b: Builder, c: Call) -> Value:
    """Positions from the grid's [−1, 1]; the grid's last axis runs from the innermost axis on."""
    image, grid = c[0], c[1]
    space = image.dims[2:]
    n, align = len(space), bool(c.attrs.get("align_corners", 0))
    padding = c.attrs.get("padding_mode", "zeros")
    mode = _MODES.get(m := c.attrs.get("mode", "linear"), m)
    rows, points = grid.dims[0], math.prod(grid.dims[1:-1])
    positions = []
    for axis, size in enumerate(space):
        part = b.op("Gather", grid, b.ints([n - 1 - axis]), axis=grid.rank - 1)
        unit = b.scale(b.add(b.reshape(part, [rows, points]), b.scalar(1.0, part)), 0.5)
        position = (
            b.scale(unit, size - 1)
            if align
            else b.sub(b.scale(unit, float(size)), b.scalar(0.5, unit))
        )
        if padding == "border" and mode != "cubic":
            position = _clamp(b, position, 0.0, float(size - 1))
        if padding == "reflection" and mode != "cubic":
            low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
            position = _clamp(b, _reflect(b, position, low, high), 0.0, float(size - 1))
        positions.append(position)

    def reflected(index: Value, size: int) -> Value:
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        return _reflect(b, index, low, high)

    wrap = {"border": _border(b), "reflection": reflected}.get(padding)
    y = sample(b, image, positions, mode=mode, wrap=wrap)
    return b.reshape(y, [*image.dims[:2], *grid.dims[1:-1]])


@lowers("RoiAlign")
def _roi_align(b: Builder, c: Call) -> Value:
    """Mean (or maximum) of samples on a regular grid within every bin of every region."""
    image, rois, batch = c[0], c[1], c[2]
    high, wide = c.attrs.get("output_height", 1), c.attrs.get("output_width", 1)
    ratio, scale = c.attrs.get("sampling_ratio", 0), c.attrs.get("spatial_scale", 1.0)
    if ratio <= 0:
        raise c.refuse(
            "chooses its number of samples by the data (sampling_ratio 0); set sampling_ratio"
        )
    aligned = c.attrs.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    aligned = aligned and c.opset >= 16
    count, channels = rois.dims[0], image.dims[1]
    corner = [
        b.sub(
            b.scale(b.op("Gather", rois, b.ints([k]), axis=1), scale),
            b.scalar(0.5 if aligned else 0.0, rois),
        )
        for k in range(4)
    ]
    lines: list[Value] = []
    for axis, bins in ((1, high), (0, wide)):
        start = corner[axis]
        extent = b.sub(corner[axis + 2], start)
        if not aligned:
            one = b.scalar(1.0, extent)
            extent = b.where(b.op("Greater", extent, one), extent, one)
        steps = (np.arange(bins * ratio) + 0.5) / (bins * ratio)
        lines.append(b.add(start, b.mul(extent, b.constant(steps[None, :], rois.dtype))))
    grid_shape = [count, high * ratio, wide * ratio]
    positions = []
    inside: Value | None = None
    for line, shape, size in (
        (lines[0], [count, high * ratio, 1], image.dims[2]),
        (lines[1], [count, 1, wide * ratio], image.dims[3]),
    ):
        p = b.reshape(b.expand(b.reshape(line, shape), grid_shape), [count, -1])
        ok = b.op(
            "And",
            b.op("GreaterOrEqual", p, b.scalar(-1.0, p)),
            b.op("LessOrEqual", p, b.scalar(float(size), p)),
        )
        inside = ok if inside is None else b.op("And", inside, ok)
        positions.append(_clamp(b, p, 0.0, float(size - 1)))
    chosen = b.op("Gather", image, batch, axis=0)
    assert inside is not None
    if c.attrs.get("mode", "avg") == "max":
        values = _largest_tap(b, chosen, positions)
    else:
        values = sample(b, chosen, positions, mode="linear", wrap=_border(b))
    values = b.where(b.reshape(inside, [count, 1, inside.dims[1]]), values, b.scalar(0.0, values))
    apart = b.reshape(values, [count, channels, high, ratio, wide, ratio])
    if c.attrs.get("mode", "avg") == "avg":
        return b.reshape(b.mean(apart, [3, 5]), [count, channels, high, wide])
    flat = b.reshape(
        b.transpose(apart, [0, 1, 2, 4, 3, 5]), [count, channels, high, wide, ratio * ratio]
    )
    where = b.op("ArgMax", flat, axis=4, keepdims=1)
    return b.reshape(b.op("GatherElements", flat, where, axis=4), [count, channels, high, wide])


def _largest_tap(b: Builder, image: Value, positions: Sequence[Value]) -> Value:
    """The largest weighted tap, which is what the standard's ``max`` mode takes of a sample."""
    rows, channels, *space = image.dims
    points = positions[0].dims[1]
    flat = b.reshape(image, [rows, channels, -1])
    best: Value | None = None
    for (i, wi), (j, wj) in itertools.product(*(_taps(b, p, "linear") for p in positions)):
        assert wi is not None and wj is not None
        y, x = (
            b.cast(_clamp(b, v, 0.0, float(size - 1)), INT64)
            for v, size in zip((i, j), space, strict=True)
        )
        place = b.add(b.mul(y, b.constant(np.int64(space[1]))), x)
        where = b.expand(b.reshape(place, [rows, 1, points]), [rows, channels, points])
        term = b.mul(
            b.op("GatherElements", flat, where, axis=2),
            b.reshape(b.mul(wi, wj), [rows, 1, points]),
        )
        best = term if best is None else b.where(b.op("Greater", term, best), term, best)
    assert best is not None
    return best


@lowers("DeformConv")
def _deform_conv(b: Builder, c: Call) -> Value:
    """A convolution whose taps are moved by offsets: samples as columns, then one product."""
    x, w, offset, bias, mask = c[0], c[1], c[2], c.get(3), c.get(4)
    kernel = list(w.dims[2:])
    n, taps = len(kernel), math.prod(kernel)
    strides, dilations = (c.attrs.get(k) or [1] * n for k in ("strides", "dilations"))
    pads = c.attrs.get("pads") or [0] * 2 * n
    group, parts = c.attrs.get("group", 1), c.attrs.get("offset_group", 1)
    rows, channels = x.dims[:2]
    out = list(offset.dims[2:])
    points = math.prod(out)
    each = channels // parts
    # (rows·parts, taps, n, points): the offsets of one part are shared by its channels.
    moved = b.reshape(offset, [rows * parts, taps, n, points])
    positions = []
    for axis in range(n):
        line = np.zeros((taps, points))
        for t, tap in enumerate(itertools.product(*(range(k) for k in kernel))):
            start = np.arange(out[axis]) * strides[axis] - pads[axis] + tap[axis] * dilations[axis]
            shape = [-1 if k == axis else 1 for k in range(n)]
            line[t] = np.broadcast_to(start.reshape(shape), out).reshape(-1)
        shift = b.reshape(
            b.op("Gather", moved, b.ints([axis]), axis=2), [rows * parts, taps * points]
        )
        positions.append(b.add(shift, b.constant(line.reshape(1, -1), x.dtype)))
    image = b.reshape(x, [rows * parts, each, *x.dims[2:]])
    columns = sample(b, image, positions)
    if mask is not None:
        columns = b.mul(columns, b.reshape(mask, [rows * parts, 1, taps * points]))
    per_group = channels // group
    columns = b.reshape(columns, [rows, group, per_group * taps, points])
    weights = b.reshape(w, [1, group, w.dims[0] // group, per_group * taps])
    y = b.reshape(b.op("MatMul", weights, columns), [rows, w.dims[0], *out])
    return y if bias is None else b.add(y, b.reshape(bias, [1, bias.size] + [1] * n))
