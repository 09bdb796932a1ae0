"""PyTorch's convolutions and poolings as ONNX has them: the oracle's functions over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the customary name


def _window(a: dict[str, Any], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    n = len(kernel)
    return tuple(
        list(a.get(k) or d)
        for k, d in (  # type: ignore[return-value]
            ("strides", [1] * n),
            ("dilations", [1] * n),
            ("pads", [0] * 2 * n),
        )
    )


def _mode(a: dict[str, Any]) -> str:
    return str(a.get("auto_pad", "NOTSET"))


def _around(a: dict[str, Any], x: Tensor, kernel: Sequence[int]) -> list[int]:
    """The pads of a window that slides over ``x``, as ONNX counts them."""
    n = len(kernel)
    strides, dilations, pads = _window(a, kernel)
    if _mode(a) == "VALID":
        pads = [0] * 2 * n
    elif _mode(a).startswith("SAME"):
        for i, size in enumerate(x.shape[2:]):
            reach = dilations[i] * (kernel[i] - 1) + 1
            total = max((math.ceil(size / strides[i]) - 1) * strides[i] + reach - size, 0)
            small, large = total // 2, total - total // 2
            first = small if _mode(a) == "SAME_UPPER" else large
            pads[i], pads[n + i] = first, total - first
    elif a.get("ceil_mode"):
        for i, size in enumerate(x.shape[2:]):
            room = size + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1
            count = math.ceil(room / strides[i]) + 1
            if (count - 1) * strides[i] >= size + pads[i]:  # it would start in the trailing pad
                count -= 1
            pads[n + i] += (count - 1) * strides[i] - room
    return pads


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    n = len(pads) // 2
    flat = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
    return F.pad(x, flat, value=value)


def conv(a: dict[str, Any], x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(w.shape[2:])
    strides, dilations, _ = _window(a, kernel)
    f = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    x = padded(x, _around(a, x, kernel))
    return f(x, w, bias, stride=strides, dilation=dilations, groups=a.get("group", 1))


def conv_transpose(a: dict[str, Any], x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(w.shape[2:])
    n = len(kernel)
    strides, dilations, pads = _window(a, kernel)
    extra = list(a.get("output_padding") or [0] * n)
    f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    whole = f(x, w, stride=strides, groups=a.get("group", 1), dilation=dilations)
    sizes = list(whole.shape[2:])
    shape = a.get("output_shape")
    if shape is None and _mode(a).startswith("SAME"):
        shape = [s * d for s, d in zip(strides, x.shape[2:], strict=True)]
    if shape is not None:
        for i in range(n):
            total = sizes[i] + extra[i] - shape[-n:][i]
            half = max(total, 0) // 2
            first = half if _mode(a) == "SAME_UPPER" else max(total, 0) - half
            pads[i], pads[n + i] = first, total - first
    elif _mode(a) == "VALID":
        pads = [0] * 2 * n
    cut = [-p for p in pads[:n]] + [e - p for e, p in zip(extra, pads[n:], strict=True)]
    y = padded(whole, cut)
    return y if bias is None else y + bias.reshape(-1, *[1] * n)


def max_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    strides, dilations, _ = _window(a, kernel)
    f = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    wide = padded(x, _around(a, x, kernel), -math.inf)
    found: Tensor = f(wide, kernel, strides, dilation=dilations)
    return found


def _sums(a: dict[str, Any], x: Tensor, pads: Sequence[int]) -> Tensor:
    """The sum over each window, with zeros around ``x``."""
    kernel, channels = a["kernel_shape"], x.shape[1]
    strides, dilations, _ = _window(a, kernel)
    f = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    ones = torch.ones((channels, 1, *kernel), dtype=x.dtype)
    return f(padded(x, pads), ones, stride=strides, dilation=dilations, groups=channels)


def average_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    pads, ones = _around(a, x, a["kernel_shape"]), torch.ones_like(x)
    if not a.get("count_include_pad"):
        return _sums(a, x, pads) / _sums(a, ones, pads)
    own = _around({k: v for k, v in a.items() if k != "ceil_mode"}, x, a["kernel_shape"])
    beyond = [p - q for p, q in zip(pads, own, strict=True)]
    return _sums(a, x, pads) / _sums(a, padded(ones, own, 1.0), beyond)


def lp_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    p = a.get("p", 2)
    return _sums(a, x.abs() ** p, _around(a, x, a["kernel_shape"])) ** (1 / p)
