"""Discrete Fourier transforms as products with constant matrices."""

from __future__ import annotations

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers


def _transform(
    b: Builder, real: Value, imaginary: Value | None, length: int, outputs: int, inverse: bool
) -> tuple[Value, Value]:
    """The transform over the last axis, which is cut or padded with zeros to ``length``."""
    sign = 1.0 if inverse else -1.0
    angle = sign * 2 * np.pi * np.outer(np.arange(length), np.arange(outputs)) / length
    scale = 1 / length if inverse else 1.0
    cos, sin = (b.constant(f(angle) * scale, real.dtype) for f in (np.cos, np.sin))

    def fitted(x: Value) -> Value:
        axis = x.rank - 1
        x = b.slice(x, axis, 0, min(length, x.dims[axis]))
        short = length - x.dims[axis]
        if not short:
            return x
        widths = [0] * (2 * x.rank - 1) + [short]
        return b.op("Pad", x, b.ints(widths), b.scalar(0.0, x), mode="constant")

    real = fitted(real)
    re, im = b.op("MatMul", real, cos), b.op("MatMul", real, sin)
    if imaginary is not None:
        imaginary = fitted(imaginary)
        re = b.sub(re, b.op("MatMul", imaginary, sin))
        im = b.add(im, b.op("MatMul", imaginary, cos))
    return re, im


def _parts(b: Builder, x: Value) -> tuple[Value, Value | None]:
    """Real and imaginary part of a tensor whose last axis holds the two (or the real one)."""
    last = x.rank - 1
    real = b.reshape(b.slice(x, last, 0, 1), x.dims[:-1])
    if x.dims[last] == 1:
        return real, None
    return real, b.reshape(b.slice(x, last, 1, 2), x.dims[:-1])


def _pair(b: Builder, re: Value, im: Value) -> Value:
    return b.op("Concat", *(b.reshape(v, [*v.dims, 1]) for v in (re, im)), axis=re.rank)


@lowers("DFT")
def _dft(b: Builder, c: Call) -> Value:
    x = c[0]
    given = c.const(2)
    # The axis is an attribute (default 1) in opset 17 and an input (default -2) since 20.
    axis = c.attrs.get("axis", 1) if c.opset < 20 else -2 if given is None else int(given.flat[0])
    axis %= x.rank
    size = c.const(1)
    length = x.dims[axis] if size is None else int(size.flat[0])
    inverse, onesided = bool(c.attrs.get("inverse")), bool(c.attrs.get("onesided"))
    real, imaginary = _parts(b, x)
    perm = [i for i in range(x.rank - 1) if i != axis] + [axis]
    back = [int(i) for i in np.argsort(perm)]
    moved = [None if v is None else b.transpose(v, perm) for v in (real, imaginary)]
    assert moved[0] is not None
    if inverse and onesided:
        return _from_half(
            b, moved[0], moved[1], length=length if size is not None else None, back=back
        )
    outputs = length // 2 + 1 if onesided else length
    re, im = _transform(b, moved[0], moved[1], length=length, outputs=outputs, inverse=inverse)
    return _pair(b, b.transpose(re, back), b.transpose(im, back))


def _from_half(
    b: Builder, real: Value, imaginary: Value | None, length: int | None, back: list[int]
) -> Value:
    """The real signal of a spectrum of which conjugate symmetry gives the other half."""
    bins = real.dims[-1]
    length = 2 * (bins - 1) if length is None else length
    weight = np.full(bins, 2.0)
    weight[0] = 1.0
    if length % 2 == 0:
        weight[length // 2 : length // 2 + 1] = 1.0
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(length)) / length
    cos = b.constant(weight[:, None] * np.cos(angle) / length, real.dtype)
    y = b.op("MatMul", real, cos)
    if imaginary is not None:
        sin = b.constant(weight[:, None] * np.sin(angle) / length, real.dtype)
        y = b.sub(y, b.op("MatMul", imaginary, sin))
    y = b.transpose(y, back)
    return b.reshape(y, [*y.dims, 1])


@lowers("STFT")
def _stft(b: Builder, c: Call) -> Value:
    """Frames (rows, frames, length), windowed, then transformed."""
    x, step, window, size = c[0], c.const(1), c.get(2), c.const(3)
    assert step is not None
    hop = int(step.flat[0])
    if size is not None:
        length = int(size.flat[0])
    elif window is not None:
        length = window.size
    else:
        raise c.refuse("has neither a window nor a frame length")
    signal = x if x.rank == 3 else b.reshape(x, [*x.dims, 1])
    frames = (signal.dims[1] - length) // hop + 1
    places = (np.arange(frames)[:, None] * hop + np.arange(length)[None, :]).reshape(-1)
    parts: list[Value | None] = []
    for part in _parts(b, signal):
        if part is None:
            parts.append(None)
            continue
        cut = b.reshape(b.op("Gather", part, b.ints(places), axis=1), [x.dims[0], frames, length])
        parts.append(cut if window is None else b.mul(cut, window))
    assert parts[0] is not None
    outputs = length // 2 + 1 if c.attrs.get("onesided", 1) else length
    return _pair(
        b, *_transform(b, parts[0], parts[1], length=length, outputs=outputs, inverse=False)
    )
