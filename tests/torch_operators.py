"""PyTorch's own functions for operators of ONNX: the independent oracle of their derivatives.

Nothing of graph-init takes part. What PyTorch has no function for is not here: its derivatives are
compared with numeric differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the customary name

from tests.torch_windows import average_pool, conv, conv_transpose, lp_pool, max_pool, padded

#: What an operator gives: of (attributes, inputs), None for one that is absent.
Function = Callable[..., Any]


class OutsidePytorchError(Exception):
    """A setting for which PyTorch has no function."""


def _ints(x: Tensor) -> list[int]:
    return [int(v) for v in x.reshape(-1).tolist()]


def _axes(a: dict[str, Any], given: Sequence[Tensor | None], rank: int) -> list[int]:
    axes = _ints(given[0]) if given and given[0] is not None else a.get("axes")
    if not axes:
        return [] if a.get("noop_with_empty_axes") else list(range(rank))
    return list(axes)


def _reduction(f: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def apply(a: dict[str, Any], x: Tensor, *axes: Tensor | None) -> Tensor:
        return f(x, _axes(a, axes, x.dim()), bool(a.get("keepdims", 1)))

    return apply


def _unless_none(f: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    """PyTorch takes an empty list of axes for all."""
    return _reduction(lambda x, axes, keep: f(x, axes, keep) if axes else f(x[None], [0], False))


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((i % x.dim() for i in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _unary(f: Callable[[Tensor], Tensor]) -> Function:
    return lambda a, x: f(x)


def _all(f: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def apply(a: dict[str, Any], *xs: Tensor) -> Tensor:
        result = xs[0]
        for x in xs[1:]:
            result = f(result, x)
        return result

    return apply


# -- normalization, attention to axes ------------------------------------------------------------


def _batch_norm(a: dict[str, Any], x: Tensor, *rest: Tensor) -> Tensor:
    if a.get("training_mode"):
        raise OutsidePytorchError
    scale, bias, mean, variance = rest
    shape = (-1, *[1] * (x.dim() - 2))
    scale, bias, mean, variance = (v.reshape(shape) for v in (scale, bias, mean, variance))
    # F.batch_norm takes the statistics for constants.
    return (x - mean) * torch.rsqrt(variance + a.get("epsilon", 1e-5)) * scale + bias


def _layer_norm(a: dict[str, Any], x: Tensor, w: Tensor, b: Tensor | None = None) -> Any:
    axes = list(range(a.get("axis", -1) % x.dim(), x.dim()))
    y, mean, scale = _standardized(x, axes, a.get("epsilon", 1e-5))
    return y * w + (0.0 if b is None else b), mean, scale


def _standardized(x: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Not by F.layer_norm or F.instance_norm: of PyTorch 2.13's their third derivative is wrong.

    It differs from differences of their own second by a third.
    """
    mean = x.mean(axes, keepdim=True)
    scale = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + epsilon)
    return (x - mean) * scale, mean, scale


def _instance_norm(a: dict[str, Any], x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    axes = list(range(2, x.dim()))
    shape = (-1, *[1] * len(axes))
    return _standardized(x, axes, a.get("epsilon", 1e-5))[0] * w.reshape(shape) + b.reshape(shape)


def _rms_norm(a: dict[str, Any], x: Tensor, w: Tensor) -> Tensor:
    axes = list(range(a.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + a.get("epsilon", 1e-5)) * w


def _lp_norm(a: dict[str, Any], x: Tensor) -> Tensor:
    return F.normalize(x, p=a.get("p", 2), dim=a.get("axis", -1))


def _gemm(
    a: dict[str, Any], left: Tensor, right: Tensor, added: Tensor | float | None = None
) -> Tensor:
    left = left.T if a.get("transA") else left
    right = right.T if a.get("transB") else right
    added = 0.0 if added is None else added
    return a.get("alpha", 1.0) * (left @ right) + a.get("beta", 1.0) * added


def _concat(a: dict[str, Any], *xs: Tensor) -> Tensor:
    return torch.cat(xs, a["axis"])


def _cumulative(f: Callable[[Tensor, int], Tensor]) -> Function:
    def apply(a: dict[str, Any], x: Tensor, axis: Tensor) -> Tensor:
        dim = int(axis)
        if a.get("exclusive"):
            raise OutsidePytorchError
        if a.get("reverse"):
            return f(x.flip(dim), dim).flip(dim)
        return f(x, dim)

    return apply


def _split(a: dict[str, Any], x: Tensor, sizes: Tensor | None = None) -> Any:
    axis = a.get("axis", 0)
    if sizes is None:
        count = a.get("num_outputs") or a["outputs"]
        return torch.split(x, math.ceil(x.shape[axis] / count), axis)
    return torch.split(x, _ints(sizes), axis)


def _gather(a: dict[str, Any], x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    flat = (index.reshape(-1) % x.shape[axis]).long()
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)


def _gather_elements(a: dict[str, Any], x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    return x.gather(axis, index % x.shape[axis])


def _scatter_elements(a: dict[str, Any], x: Tensor, index: Tensor, new: Tensor) -> Tensor:
    axis, kind = a.get("axis", 0), a.get("reduction", "none")
    if kind not in ("none", "add"):
        raise OutsidePytorchError
    index = index % x.shape[axis]
    return x.scatter(axis, index, new) if kind == "none" else x.scatter_add(axis, index, new)


def _gather_nd(a: dict[str, Any], x: Tensor, index: Tensor) -> Tensor:
    if a.get("batch_dims"):
        raise OutsidePytorchError
    return x[tuple(index.unbind(-1))]


def _reshape(a: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    sizes = _ints(shape)
    if not a.get("allowzero"):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def _slice(a: dict[str, Any], x: Tensor, *given: Tensor | None) -> Tensor:
    starts, ends = _ints(given[0]), _ints(given[1])  # type: ignore[arg-type]
    axes = _ints(given[2]) if len(given) > 2 and given[2] is not None else range(len(starts))
    steps = _ints(given[3]) if len(given) > 3 and given[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        kept = list(range(x.shape[axis]))[slice(start, end if end > -(2**62) else None, step)]
        x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64))
    return x


def _expand(a: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_ints(shape))))


def _squeeze(a: dict[str, Any], x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _unsqueeze(a: dict[str, Any], x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(i % rank for i in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _clip(a: dict[str, Any], x: Tensor, *bounds: Tensor | None) -> Tensor:
    for bound, f in zip(bounds, (torch.maximum, torch.minimum), strict=False):
        x = x if bound is None else f(x, bound)
    return x


def _trilu(a: dict[str, Any], x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if a.get("upper", 1) else torch.tril(x, diagonal)


def _depth_to_space(a: dict[str, Any], x: Tensor) -> Tensor:
    block = a["blocksize"]
    if a.get("mode", "DCR") == "DCR":
        n, c, h, w = x.shape
        x = x.reshape(n, block**2, c // block**2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return F.pixel_shuffle(x, block)


def _space_to_depth(a: dict[str, Any], x: Tensor) -> Tensor:
    """PyTorch's pixel_unshuffle has the places in a block behind the channels."""
    y = F.pixel_unshuffle(x, a["blocksize"])
    if a.get("mode", "DCR") == "CRD":
        return y
    n, c, h, w = x.shape
    return y.reshape(n, c, -1, *y.shape[2:]).transpose(1, 2).flatten(1, 2)


def _prelu(a: dict[str, Any], x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _nll(a: dict[str, Any], x: Tensor, target: Tensor, w: Tensor | None = None) -> Tensor:
    """F.nll_loss takes the weights for constants."""
    kept = target != a.get("ignore_index", -100)
    index = torch.where(kept, target, 0).long()
    weights = torch.ones(x.shape[1], dtype=x.dtype) if w is None else w
    each = weights[index] * kept
    losses = -x.gather(1, index.unsqueeze(1)).squeeze(1) * each
    kind = a.get("reduction", "mean")
    if kind == "none":
        return losses
    return losses.sum() if kind == "sum" else losses.sum() / each.sum()


def _cross_entropy(a: dict[str, Any], x: Tensor, target: Tensor, w: Tensor | None = None) -> Any:
    logs = F.log_softmax(x, 1)
    return _nll(a, logs, target, w), logs


def _attr(f: Callable[..., Tensor], **defaults: Any) -> Function:
    """``f`` of the inputs, and of these attributes in order."""
    return lambda a, *xs: f(*xs, *(a.get(k, v) for k, v in defaults.items()))


def _top_k(a: dict[str, Any], x: Tensor, k: Tensor) -> Any:
    return torch.topk(x, int(k), a.get("axis", -1), bool(a.get("largest", 1)))


def _pad(a: dict[str, Any], x: Tensor, pads: Tensor, *more: Tensor | None) -> Tensor:
    value, axes = (*more, None, None)[:2]
    if a.get("mode", "constant") != "constant" or axes is not None:
        raise OutsidePytorchError
    inside = padded(torch.ones_like(x), _ints(pads))
    return padded(x, _ints(pads)) + (0.0 if value is None else value * (1 - inside))


def _dropout(a: dict[str, Any], x: Tensor, *rest: Tensor | None) -> Tensor:
    return x


def _first(a: dict[str, Any], *xs: Tensor) -> Tensor:
    return xs[0]


FUNCTIONS: dict[str, Function] = {
    **{
        name.title() if name != "log" else "Log": _unary(getattr(torch, name))
        for name in (
            "abs acos acosh asin asinh atan atanh cos cosh erf exp log neg reciprocal sigmoid sin "
            "sinh sqrt tan tanh relu"
        ).split()
    },
    "Softsign": _unary(F.softsign),
    "Softplus": _unary(F.softplus),
    "Mish": _unary(F.mish),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "Cast": _unary(lambda x: x),
    "CastLike": _first,
    "Dropout": _dropout,
    "Swish": _attr(lambda x, alpha: x * torch.sigmoid(alpha * x), alpha=1.0),
    "LeakyRelu": _attr(F.leaky_relu, alpha=0.01),
    "Elu": _attr(F.elu, alpha=1.0),
    "Celu": _attr(F.celu, alpha=1.0),
    "Selu": _attr(
        lambda x, alpha, gamma: gamma * F.elu(x, alpha),
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    ),
    "ThresholdedRelu": _attr(lambda x, alpha: F.threshold(x, alpha, 0.0), alpha=1.0),
    "HardSigmoid": _attr(lambda x, s, o: torch.clamp(s * x + o, 0, 1), alpha=0.2, beta=0.5),
    "Gelu": _attr(lambda x, kind: F.gelu(x, approximate=kind), approximate="none"),
    "Softmax": _attr(torch.softmax, axis=-1),
    "LogSoftmax": _attr(torch.log_softmax, axis=-1),
    "PRelu": _prelu,
    "Add": _all(torch.add),
    "Sub": _all(torch.sub),
    "Mul": _all(torch.mul),
    "Div": _all(torch.div),
    "Pow": _all(torch.pow),
    "Max": _all(torch.maximum),
    "Min": _all(torch.minimum),
    "Sum": _all(torch.add),
    "Mean": lambda a, *xs: sum(xs) / len(xs),
    "Clip": _clip,
    "Where": lambda a, *xs: torch.where(*xs),
    "MatMul": _all(torch.matmul),
    "Gemm": _gemm,
    "Einsum": lambda a, *xs: torch.einsum(a["equation"], *xs),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": _unary(lambda x: x.mean(list(range(2, x.dim())), True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(list(range(2, x.dim())), True)),
    "GlobalLpPool": _attr(
        lambda x, p: (x.abs() ** p).sum(list(range(2, x.dim())), True) ** (1 / p), p=2
    ),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": lambda a, x, w, b: F.group_norm(
        x, a["num_groups"], w, b, eps=a.get("epsilon", 1e-5)
    ),
    "LpNormalization": _lp_norm,
    "LRN": lambda a, x: F.local_response_norm(
        x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), k=a.get("bias", 1.0)
    ),
    "ReduceSum": _unless_none(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceMean": _unless_none(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMax": _unless_none(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMin": _unless_none(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceL1": _unless_none(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _unless_none(lambda x, axes, keep: (x * x).sum(axes, keep).sqrt()),
    "ReduceSumSquare": _unless_none(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "ReduceLogSum": _unless_none(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _unless_none(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceProd": _reduction(_product),
    "CumSum": _cumulative(torch.cumsum),
    "CumProd": _cumulative(torch.cumprod),
    "TopK": _top_k,
    "Transpose": lambda a, x: x.permute(a.get("perm") or list(range(x.dim()))[::-1]),
    "Reshape": _reshape,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": lambda a, x, repeats: x.repeat(_ints(repeats)),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "Trilu": _trilu,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "NegativeLogLikelihoodLoss": _nll,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
