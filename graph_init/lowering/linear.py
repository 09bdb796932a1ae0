"""Products: matrix products, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graph_init.ir import MICROSOFT, Builder, Value
from graph_init.lowering.registry import Call, lowers


def _swap(b: Builder, x: Value) -> Value:
    perm = list(range(x.rank))
    perm[-2:] = perm[:-3:-1]
    return b.transpose(x, perm)


def gemm(b: Builder, c: Call) -> Value:
    """alpha·A·B + beta·C, with A or B transposed as the attributes say."""
    left = _swap(b, c[0]) if c.attrs.get("transA") else c[0]
    right = _swap(b, c[1]) if c.attrs.get("transB") else c[1]
    y = b.scale(b.op("MatMul", left, right), c.attrs.get("alpha", 1.0))
    bias = c.get(2)
    return y if bias is None else b.add(y, b.scale(bias, c.attrs.get("beta", 1.0)))


lowers("Gemm")(gemm)


@lowers("MatMul")
def _matmul(b: Builder, c: Call) -> Value:
    """One-dimensional operands become matrices."""
    x, y = c[0], c[1]
    if x.rank > 1 and y.rank > 1:
        return b.op("MatMul", x, y)
    left = b.reshape(x, [1, *x.dims]) if x.rank == 1 else x
    right = b.reshape(y, [*y.dims, 1]) if y.rank == 1 else y
    z = b.op("MatMul", left, right)
    dims = list(z.dims)
    if y.rank == 1:
        dims.pop()
    if x.rank == 1:
        dims.pop(-1 if y.rank == 1 else -2)
    return b.reshape(z, dims)


def _batch_inwards(b: Builder, x: Value) -> Value:
    """The leading axis moved before the last one (``transBatch`` of FusedMatMul)."""
    return b.transpose(x, [*range(1, x.rank - 1), 0, x.rank - 1])


@lowers("FusedMatMul", domain=MICROSOFT)
@lowers("TransposeMatMul", domain=MICROSOFT)
def _fused_matmul(b: Builder, c: Call) -> Value:
    left, right = (
        _batch_inwards(b, x) if c.attrs.get(f"transBatch{side}") else x
        for x, side in ((c[0], "A"), (c[1], "B"))
    )
    left = _swap(b, left) if c.attrs.get("transA") else left
    right = _swap(b, right) if c.attrs.get("transB") else right
    return b.scale(b.op("MatMul", left, right), c.attrs.get("alpha", 1.0))


def window(c: Call, x: Value, kernel: list[int]) -> dict[str, Any]:
    """strides, dilations and explicit pads of a sliding window over ``x``'s spatial axes."""
    spatial = x.dims[2:]
    n = len(spatial)
    strides = list(c.attrs.get("strides") or [1] * n)
    dilations = list(c.attrs.get("dilations") or [1] * n)
    auto = c.attrs.get("auto_pad", "NOTSET")
    pads = list(c.attrs.get("pads") or [0] * 2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            reach = (kernel[i] - 1) * dilations[i] + 1
            steps = -(-spatial[i] // strides[i])
            total = max((steps - 1) * strides[i] + reach - spatial[i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[n + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        pads = [0] * 2 * n
    return {"strides": strides, "dilations": dilations, "pads": pads}


def per_channel(b: Builder, bias: Value, rank: int) -> Value:
    """A vector over channels, shaped to broadcast along axis 1."""
    return b.reshape(bias, [1, bias.size] + [1] * (rank - 2))


def convolve(
    b: Builder,
    x: Value,
    w: Value,
    group: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Value:
    """A convolution of (N, C, *space) with (M, C/group, *kernel), in a form safe to differentiate.

    The engine's ConvGrad (onnxruntime 1.19, CPU) writes outside its buffers for more than one
    group unless there are two spatial axes. So one axis becomes two, and three become a sum of
    two-dimensional convolutions, one for each tap of the first axis, which joins the batch.
    """
    n = x.rank - 2
    if n == 1:
        y = convolve(
            b,
            b.reshape(x, [*x.dims[:2], 1, x.dims[2]]),
            b.reshape(w, [*w.dims[:2], 1, w.dims[2]]),
            group=group,
            strides=[1, *strides],
            dilations=[1, *dilations],
            pads=[0, pads[0], 0, pads[1]],
        )
        return b.reshape(y, [*y.dims[:2], y.dims[3]])
    if n == 3 and group > 1:
        return _by_planes(b, x, w, group=group, strides=strides, dilations=dilations, pads=pads)
    return b.op(
        "Conv",
        x,
        w,
        group=group,
        kernel_shape=list(w.dims[2:]),
        strides=list(strides),
        dilations=list(dilations),
        pads=list(pads),
    )


def _by_planes(
    b: Builder,
    x: Value,
    w: Value,
    group: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Value:
    if pads[0] or pads[3]:
        widths = [0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0]
        x = b.op("Pad", x, b.ints(widths), b.scalar(0.0, x), mode="constant")
    rows, channels, depth, *plane = x.dims
    count = (depth - dilations[0] * (w.dims[2] - 1) - 1) // strides[0] + 1
    total: Value | None = None
    for tap in range(w.dims[2]):
        places = range(tap * dilations[0], depth, strides[0])[:count]
        part = b.transpose(b.op("Gather", x, b.ints(places), axis=2), [0, 2, 1, 3, 4])
        kernel = b.slice(w, 2, tap, tap + 1)
        term = convolve(
            b,
            b.reshape(part, [rows * count, channels, *plane]),
            b.reshape(kernel, [*w.dims[:2], *w.dims[3:]]),
            group=group,
            strides=strides[1:],
            dilations=dilations[1:],
            pads=[*pads[1:3], *pads[4:6]],
        )
        total = term if total is None else b.add(total, term)
    assert total is not None
    y = b.reshape(total, [rows, count, *total.dims[1:]])
    return b.transpose(y, [0, 2, 1, 3, 4])


def plain_conv(b: Builder, c: Call) -> Value:
    """A convolution with its bias, over as many axes as the kernel has."""
    x, w = c[0], c[1]
    y = convolve(b, x, w, c.attrs.get("group", 1), **window(c, x, list(w.dims[2:])))
    bias = c.get(2)
    return y if bias is None else b.add(y, per_channel(b, bias, y.rank))


lowers("Conv")(plain_conv)


def _spread(b: Builder, x: Value, strides: Sequence[int]) -> Value:
    """``x`` with ``stride − 1`` zeros between neighbours along each spatial axis."""
    for axis, stride in enumerate(strides, start=2):
        if stride == 1 or x.dims[axis] == 1:
            continue
        dims = list(x.dims)
        apart = b.reshape(x, [*dims[: axis + 1], 1, *dims[axis + 1 :]])
        widths = [0] * 2 * apart.rank
        widths[apart.rank + axis + 1] = stride - 1
        wide = b.op("Pad", apart, b.ints(widths), b.scalar(0.0, x), mode="constant")
        dims[axis] *= stride
        x = b.slice(b.reshape(wide, dims), axis, 0, dims[axis] - stride + 1)
    return x


@lowers("ConvTranspose")
def _conv_transpose(b: Builder, c: Call) -> Value:
    """A convolution of the spread-out input with the mirrored kernel."""
    x, w, bias = c[0], c[1], c.get(2)
    kernel = list(w.dims[2:])
    n, group = len(kernel), c.attrs.get("group", 1)
    strides = list(c.attrs.get("strides") or [1] * n)
    dilations = list(c.attrs.get("dilations") or [1] * n)
    extra = list(c.attrs.get("output_padding") or [0] * n)
    lead, tail = _transpose_pads(c, x, kernel, strides=strides, dilations=dilations, extra=extra)
    wide = _spread(b, x, strides)
    pads = [0] * (2 * x.rank)
    for i in range(n):
        reach = dilations[i] * (kernel[i] - 1)
        pads[2 + i] = reach - lead[i]
        pads[x.rank + 2 + i] = reach - tail[i] + extra[i]
    for i in range(n):  # negative pads cut
        before, after = -min(pads[2 + i], 0), -min(pads[x.rank + 2 + i], 0)
        wide = b.slice(wide, 2 + i, before, wide.dims[2 + i] - after)
    pads = [max(p, 0) for p in pads]
    for axis in range(2, w.rank):
        w = b.op("Gather", w, b.ints(range(w.dims[axis])[::-1]), axis=axis)
    inputs, outputs = w.dims[:2]
    w = b.reshape(w, [group, inputs // group, outputs, *kernel])
    w = b.transpose(w, [0, 2, 1, *range(3, 3 + n)])
    w = b.reshape(w, [group * outputs, inputs // group, *kernel])
    y = convolve(
        b,
        wide,
        w,
        group=group,
        strides=[1] * n,
        dilations=dilations,
        pads=pads[2 : x.rank] + pads[x.rank + 2 :],
    )
    return y if bias is None else b.add(y, per_channel(b, bias, y.rank))


def _transpose_pads(
    c: Call,
    x: Value,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Leading and trailing pads, worked out from the output's size where that is given."""
    n = len(kernel)
    auto, shape = c.attrs.get("auto_pad", "NOTSET"), c.attrs.get("output_shape")
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = [x.dims[2 + i] * strides[i] for i in range(n)]
    if shape is None:
        pads = list(c.attrs.get("pads") or [0] * 2 * n) if auto == "NOTSET" else [0] * 2 * n
        return pads[:n], pads[n:]
    lead, tail = [], []
    for i, target in enumerate(list(shape)[-n:]):
        full = strides[i] * (x.dims[2 + i] - 1) + extra[i] + dilations[i] * (kernel[i] - 1) + 1
        total = full - target
        small, large = total // 2, total - total // 2
        lead.append(small if auto == "SAME_UPPER" else large)
        tail.append(large if auto == "SAME_UPPER" else small)
    return lead, tail
