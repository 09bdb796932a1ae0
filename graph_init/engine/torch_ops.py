"""Operators of a finished graph, by PyTorch: element by element, layout, sums.

:data:`OPERATORS` has all that a graph can consist of where derivatives are taken; those of matrix
products, windows and places are in the two modules beside. A function takes a node's inputs in
their order and its attributes as keywords. Where an operand says a shape, axes or bounds, it gets
the numbers as a (nested) list: the operator's ``host`` positions. What an operator does is said by
ONNX's own description of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from graph_init.engine import torch_linear, torch_places
from graph_init.ir import broadcast

#: The element types that PyTorch computes with; what has others is left to ONNX's reference.
TYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class Operator:
    """``function`` of the node's inputs; those at the positions ``host`` it gets as numbers.

    ``mask``: it is also told which outputs are wanted, a tuple of bools, and returns a tuple.
    """

    function: Callable[..., Any]
    host: tuple[int, ...] = ()
    mask: bool = False


# -- element by element ---------------------------------------------------------------------------


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_negative or detect_positive:
        return torch.isposinf(x) if detect_positive else torch.isneginf(x)
    return torch.zeros_like(x, dtype=torch.bool)


def _cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(TYPES[to])


def _sign(x: Tensor) -> Tensor:
    """That of NaN is NaN, which PyTorch's is not."""
    found = torch.sign(x)
    return torch.where(torch.isnan(x), x, found) if x.is_floating_point() else found


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


# -- layout ---------------------------------------------------------------------------------------


def _reshape(x: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    dims = list(shape) if allowzero else [n or x.shape[i] for i, n in enumerate(shape)]
    return x.reshape(dims)


def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(range(x.ndim)[::-1] if perm is None else perm))


def _expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.expand(broadcast(tuple(x.shape), tuple(shape)))


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _slice(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    for axis, start, end, step in zip(
        range(len(starts)) if axes is None else axes,
        starts,
        ends,
        steps or [1] * len(starts),
        strict=True,
    ):
        taken = range(*slice(start, end, step).indices(x.shape[axis]))
        turned = step < 0 and len(taken) > 0
        first, last = (taken[-1], taken[0]) if turned else (taken.start, taken.stop - 1)
        at: list[Any] = [slice(None)] * x.ndim
        at[axis] = slice(first, last + 1, abs(step)) if len(taken) else slice(0, 0)
        x = x[tuple(at)]
        if turned:
            x = x.flip(axis)
    return x


def _split(
    x: Tensor,
    sizes: Sequence[int] | None = None,
    *,
    wanted: Sequence[bool],
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    if sizes is None:
        each = math.ceil(x.shape[axis] / (num_outputs or len(wanted)))
        return torch.split(x, each, axis)
    return torch.split(x, list(sizes), axis)


def _pad(
    x: Tensor,
    pads: Sequence[int],
    value: Any = None,
    axes: Sequence[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    if mode != "constant":
        raise NotImplementedError(f"Pad with mode {mode}")
    chosen = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    widths = [0] * 2 * x.ndim  # of the last axis first
    for k, axis in enumerate(chosen):
        at = 2 * (x.ndim - 1 - axis)
        widths[at], widths[at + 1] = pads[k], pads[len(chosen) + k]
    while isinstance(value, list):
        value = value[0]
    return functional.pad(x, widths, value=0 if value is None else value)


def _triangle(x: Tensor, diagonal: int = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def _filled(shape: Sequence[int], *, value: TensorProto | None = None) -> Tensor:
    if value is None:
        return torch.zeros(tuple(shape))
    number = numpy_helper.to_array(value).reshape(-1)[0].item()
    return torch.full(tuple(shape), number, dtype=TYPES[value.data_type])


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


# -- over axes ------------------------------------------------------------------------------------


def _axes(x: Tensor, axes: Sequence[int] | None, noop: int) -> list[int] | None:
    """The axes to reduce; None if there is nothing to do."""
    if axes:
        return list(axes)
    return None if noop else list(range(x.ndim))


def _reduce_sum(
    x: Tensor,
    axes: Sequence[int] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    chosen = _axes(x, axes, noop_with_empty_axes)
    return x if chosen is None else torch.sum(x, chosen, keepdim=bool(keepdims), dtype=x.dtype)


def _extreme(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(
        x: Tensor,
        axes: Sequence[int] | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = _axes(x, axes, noop_with_empty_axes)
        return x if chosen is None else function(x, chosen, keepdim=bool(keepdims))

    return reduced


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def found(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if not select_last_index:
            return function(x, axis, keepdim=bool(keepdims))
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))

    return found


def _top(
    x: Tensor,
    count: Any,
    *,
    wanted: Sequence[bool],
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Tensor, Tensor]:
    """Of equal elements that of the lower index comes first, which PyTorch's topk leaves open."""
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    number = count[0] if isinstance(count, list) else count
    return values.narrow(axis, 0, number), places.narrow(axis, 0, number)


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *, axis=-1: function(x, axis)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *operands: reduce(function, operands)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Relu": torch.relu,
    "Gelu": _gelu,
    "Sign": _sign,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "IsInf": _is_inf,
    "Cast": _cast,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Where": torch.where,
    "Transpose": _transpose,
    "Concat": _concat,
    "Shape": _shape,
    "Size": lambda x: torch.tensor(x.numel(), dtype=torch.int64),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "MatMul": torch.matmul,
    "FusedMatMul": torch_linear.fused_matmul,
    "Einsum": torch_linear.einsum,
    "Conv": torch_linear.conv,
    "ConvTranspose": torch_linear.conv_transpose,
    "Gather": torch_places.gather,
    "GatherElements": torch_places.gather_elements,
    "GatherND": torch_places.gather_nd,
    "ScatterElements": torch_places.scatter_elements,
    "ScatterND": torch_places.scatter_nd,
}

#: Every operator that PyTorch runs.
OPERATORS: Mapping[str, Operator] = {
    **{op: Operator(function) for op, function in _FUNCTIONS.items()},
    "Reshape": Operator(_reshape, host=(1,)),
    "Expand": Operator(_expand, host=(1,)),
    "Slice": Operator(_slice, host=(1, 2, 3, 4)),
    "Split": Operator(_split, host=(1,), mask=True),
    "Pad": Operator(_pad, host=(1, 2, 3)),
    "Tile": Operator(lambda x, repeats: x.repeat(*repeats), host=(1,)),
    "Trilu": Operator(_triangle, host=(1,)),
    "ConstantOfShape": Operator(_filled, host=(0,)),
    "ReduceSum": Operator(_reduce_sum, host=(1,)),
    "ReduceMax": Operator(_extreme(torch.amax), host=(1,)),
    "ReduceMin": Operator(_extreme(torch.amin), host=(1,)),
    "TopK": Operator(_top, host=(1,), mask=True),
    "MaxPool": Operator(torch_linear.max_pool, mask=True),
    "ConvGrad": Operator(torch_linear.conv_grad, mask=True),
    "GatherGrad": Operator(torch_places.gather_grad, host=(0,)),
    "GatherElementsGrad": Operator(torch_places.gather_elements_grad, host=(1,)),
    "GatherNDGrad": Operator(torch_places.gather_nd_grad, host=(0,)),
}
