"""Matrix products, convolutions with their derivatives, and pooling, by PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803  the names of the operator's attributes
    transB: int = 0,  # noqa: N803
    transBatchA: int = 0,  # noqa: N803
    transBatchB: int = 0,  # noqa: N803
) -> Tensor:
    """alpha·A·B; an operand's first axis may stand before its last but one, as in (N, …, M)."""
    a = _turned(a, transA, transBatchA)
    b = _turned(b, transB, transBatchB)
    if alpha != 1:
        a, b = (a * alpha, b) if a.numel() < b.numel() else (a, b * alpha)
    return torch.matmul(a, b)


def _turned(x: Tensor, swaps: int, moves_batch: int) -> Tensor:
    if moves_batch:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if swaps and x.ndim > 1 else x


def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)


# -- convolutions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """Geometry of a convolution of ``n`` axes, by the operator's attributes."""

    n: int
    attributes: Mapping[str, Any]

    @property
    def around(self) -> list[int]:
        """The widths before each axis, then those behind."""
        return list(self.attributes.get("pads") or [0] * 2 * self.n)

    @property
    def outer(self) -> list[int]:
        """What is added to the input beforehand (cut off, if negative), in PyTorch's order.

        That is all of the padding where the two ends of an axis differ, and nothing otherwise.
        """
        first, last = self.around[: self.n], self.around[self.n :]
        even = first == last and min(first, default=0) >= 0
        return [] if even else _last_axis_first(first, last)

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments of PyTorch's own convolution, for an input with ``outer`` around it."""
        ones = [1] * self.n
        return {
            "stride": list(self.attributes.get("strides") or ones),
            "dilation": list(self.attributes.get("dilations") or ones),
            "padding": [0] * self.n if self.outer else self.around[: self.n],
            "output_padding": [0] * self.n,
            "groups": self.attributes.get("group", 1),
        }


def _last_axis_first(first: Sequence[int], last: Sequence[int]) -> list[int]:
    return [w for pair in reversed(list(zip(first, last, strict=True))) for w in pair]


def conv(x: Tensor, w: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    """Conv with explicit pads, of (N, C, …) with (M, C/group, …)."""
    window = _Window(x.ndim - 2, attributes)
    if window.outer:
        x = functional.pad(x, window.outer)
    return torch.convolution(x, w, bias, transposed=False, **window.keywords)


def conv_transpose(x: Tensor, w: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    """ConvTranspose with explicit pads: all places are computed, then cut or filled with zeros."""
    n = x.ndim - 2
    window = _Window(n, attributes)
    whole = {**window.keywords, "padding": [0] * n}
    y = torch.convolution(x, w, None, transposed=True, **whole)
    extra = attributes.get("output_padding") or [0] * n
    before, behind = window.around[:n], window.around[n:]
    y = functional.pad(
        y,
        _last_axis_first([-p for p in before], [e - p for e, p in zip(extra, behind, strict=True)]),
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * n)


def conv_grad(
    dy: Tensor, x: Tensor, w: Tensor, *, wanted: Sequence[bool], **attributes: Any
) -> tuple[Tensor | None, ...]:
    """The cotangents of a convolution's input, kernel and bias, from ``dy`` of its output."""
    window = _Window(x.ndim - 2, attributes)
    if window.outer:
        x = functional.pad(x, window.outer)
    dx, dw, db = torch.ops.aten.convolution_backward(
        grad_output=dy,
        input=x,
        weight=w,
        bias_sizes=[w.shape[0]],
        transposed=False,
        output_mask=[k < len(wanted) and wanted[k] for k in range(3)],
        **window.keywords,
    )
    if dx is not None and window.outer:
        dx = functional.pad(dx, [-v for v in window.outer])
    return dx, dw, db


# -- pooling --------------------------------------------------------------------------------------

_POOLS = {
    1: functional.max_pool1d_with_indices,
    2: functional.max_pool2d_with_indices,
    3: functional.max_pool3d_with_indices,
}


def max_pool(
    x: Tensor, *, wanted: Sequence[bool], kernel_shape: Sequence[int], **attributes: Any
) -> tuple[Tensor, Tensor | None]:
    """The largest element of each window, and where in the whole tensor it lies, row by row."""
    n = len(kernel_shape)
    window = _Window(n, attributes)
    widths = _last_axis_first(window.around[:n], window.around[n:])
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = functional.pad(x, widths, value=lowest) if any(widths) else x
    values, places = _POOLS[n](
        padded,
        list(kernel_shape),
        stride=window.keywords["stride"],
        dilation=window.keywords["dilation"],
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )
    if len(wanted) < 2 or not wanted[1]:
        return values, None
    if any(widths):
        places = _without_pads(places, x.shape[2:], window.around)
    planes = torch.arange(math.prod(x.shape[:2]), device=x.device) * math.prod(x.shape[2:])
    return values, places + planes.reshape(*x.shape[:2], *[1] * n)


def _without_pads(places: Tensor, space: Sequence[int], around: Sequence[int]) -> Tensor:
    """Places in a padded plane as those in the plane of the sizes ``space``."""
    n, weight = len(space), 1
    found = torch.zeros_like(places)
    for i in reversed(range(n)):
        size = space[i] + around[i] + around[n + i]
        found += (places % size - around[i]) * weight
        places, weight = places // size, weight * space[i]
    return found
