"""Convolutions of many channels as matrix products of gathered patches.

With rows of channels (N·H·W, C), the patches under a kernel of T taps are a gather of rows,
(N·OH·OW, T·C), and a convolution is one product with the kernel as a (M, T·C) matrix; its
derivative in the kernel is one product, and so is that in its input, of the cotangent's patches.
The engine's own ConvGrad does an image at a time, which leaves small images to small products: at
512 channels of 4×4, batch 16, both derivatives take 0.5 to 0.8 of its time so
(tools/benchmark_convolutions.py). The gather costs 1/M of the product, and memory for T times the
input, so that it is worth it for many channels, or where an image is so small that the engine's
time is spent between the images.

Only for graphs that are run: the gradient of a Gather is no Gather.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from graph_init.ir import Builder, Shape, Value

#: Channels, in and out, from which on this is done: with half as many a step of the benchmark's
#: CNNs is no faster, and larger.
MANY = 512
#: The same for outputs of at most so many positions.
FEW, SMALL = 8, 16


@dataclass(frozen=True)
class Window:
    """A sliding window over two spatial axes without strides."""

    kernel: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def turned(self) -> Window:
        """That of the derivative in the input."""
        reach = [d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True)]
        pads = [r - p for r, p in zip(reach * 2, self.pads, strict=True)]
        return Window(self.kernel, self.dilations, (pads[0], pads[1], pads[2], pads[3]))


def window(x: Value, w: Value, attrs: Mapping[str, Any]) -> Window | None:
    """The window of a convolution that is better done by patches, else None."""
    if x.rank != 4 or min(w.dims[:2]) < FEW or attrs.get("group", 1) != 1:
        return None
    kernel, pads = w.dims[2:], attrs.get("pads") or [0] * 4
    strides, dilations = attrs.get("strides") or [1, 1], attrs.get("dilations") or [1, 1]
    if math.prod(kernel) == 1 or any(s != 1 for s in strides):
        return None
    found = Window(
        (kernel[0], kernel[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )
    if min(found.turned().pads) < 0:
        return None
    many = min(w.dims[:2]) >= MANY or math.prod(_space(x.dims[2:], found)) <= SMALL
    return found if many else None


def _rows(b: Builder, x: Value) -> Value:
    """(N, C, H, W) as (N·H·W, C)."""
    return b.reshape(b.transpose(x, [0, 2, 3, 1]), [x.size // x.dims[1], x.dims[1]])


def _images(b: Builder, rows: Value, batch: int, space: Sequence[int]) -> Value:
    """(N·H·W, C) as (N, C, H, W)."""
    return b.transpose(b.reshape(rows, [batch, *space, rows.dims[1]]), [0, 3, 1, 2])


def _patches(b: Builder, x: Value, place: Window, backwards: bool = False) -> Value:
    """(N, C, H, W) as (N·OH·OW, T·C), the taps in order or from last to first."""
    n, channels, height, width = x.dims
    top, left, bottom, right = place.pads
    high, wide = height + top + bottom, width + left + right
    last = b.transpose(x, [0, 2, 3, 1])
    if any(place.pads):
        widths = [0, top, left, 0, 0, bottom, right, 0]
        last = b.op("Pad", last, b.ints(widths), b.scalar(0.0, x), mode="constant")
    space = _space((height, width), place)
    image, row, column = np.ix_(range(n), range(space[0]), range(space[1]))
    taps = list(product(*(range(k) for k in place.kernel)))[:: -1 if backwards else 1]
    index = np.stack(
        [
            (image * high + row + i * place.dilations[0]) * wide + column + j * place.dilations[1]
            for i, j in taps
        ],
        axis=-1,
    ).reshape(-1, place.taps)
    rows = b.reshape(last, [n * high * wide, channels])
    found = b.op("Gather", rows, b.constant(index.astype(np.int32)), axis=0)
    return b.reshape(found, [len(index), place.taps * channels])


def _space(space: Sequence[int], place: Window) -> Shape:
    pads = (place.pads[0] + place.pads[2], place.pads[1] + place.pads[3])
    reach = (d * (k - 1) for k, d in zip(place.kernel, place.dilations, strict=True))
    return tuple(s + p - r for s, p, r in zip(space, pads, reach, strict=True))


def _kernel(b: Builder, w: Value) -> Value:
    """(M, C, *kernel) as (M, *kernel, C)."""
    return b.transpose(w, [0, 2, 3, 1])


def convolve(b: Builder, x: Value, w: Value, place: Window) -> Value:
    """(N, M, OH, OW)."""
    matrix = b.reshape(_kernel(b, w), [w.dims[0], place.taps * w.dims[1]])
    y = b.product(_patches(b, x, place), matrix, transpose_b=True)
    return _images(b, y, x.dims[0], _space(x.dims[2:], place))


def input_derivative(b: Builder, cotangent: Value, x: Value, w: Value, place: Window) -> Value:
    """(N, C, H, W): the patches of the cotangent times the kernel, turned around."""
    by_tap = b.transpose(b.reshape(_kernel(b, w), [w.dims[0], place.taps, w.dims[1]]), [1, 0, 2])
    matrix = b.reshape(by_tap, [place.taps * w.dims[0], w.dims[1]])
    rows = b.product(_patches(b, cotangent, place.turned(), backwards=True), matrix)
    return _images(b, rows, x.dims[0], x.dims[2:])


def kernel_derivative(b: Builder, cotangent: Value, x: Value, w: Value, place: Window) -> Value:
    """(M, C, *kernel)."""
    matrix = b.product(_rows(b, cotangent), _patches(b, x, place), transpose_a=True)
    return b.transpose(b.reshape(matrix, [w.dims[0], *place.kernel, w.dims[1]]), [0, 3, 1, 2])
