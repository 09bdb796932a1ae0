"""Products: matrix products, convolutions."""

from __future__ import annotations

from typing import Any

from graph_init.builder import MICROSOFT, Builder, Value
from graph_init.lowering.registry import Call, lowers


def _swap(b: Builder, x: Value) -> Value:
    perm = list(range(x.rank))
    perm[-2:] = perm[:-3:-1]
    return b.transpose(x, perm)


@lowers("Gemm")
def _gemm(b: Builder, c: Call) -> Value:
    left = _swap(b, c[0]) if c.attrs.get("transA") else c[0]
    right = _swap(b, c[1]) if c.attrs.get("transB") else c[1]
    y = b.scale(b.op("MatMul", left, right), c.attrs.get("alpha", 1.0))
    bias = c.get(2)
    return y if bias is None else b.add(y, b.scale(bias, c.attrs.get("beta", 1.0)))


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


@lowers("FusedMatMul", domain=MICROSOFT)
def _fused_matmul(b: Builder, c: Call) -> Value:
    if c.attrs.get("transBatchA") or c.attrs.get("transBatchB"):
        raise c.refuse("uses transBatchA or transBatchB; export without that fusion")
    left = _swap(b, c[0]) if c.attrs.get("transA") else c[0]
    right = _swap(b, c[1]) if c.attrs.get("transB") else c[1]
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


@lowers("Conv")
def _conv(b: Builder, c: Call) -> Value:
    x, w = c[0], c[1]
    attrs = window(c, x, list(w.dims[2:]))
    y = b.op("Conv", x, w, group=c.attrs.get("group", 1), kernel_shape=list(w.dims[2:]), **attrs)
    bias = c.get(2)
    return y if bias is None else b.add(y, per_channel(b, bias, y.rank))
