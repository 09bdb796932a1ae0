"""Calls that are nothing, or less than they seem: ``x + 0``, a reshape to the same shape …"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graph_init.builder.shapes import expand_type, reduce_sum_type, reshape_type
from graph_init.builder.values import Value, broadcast

if TYPE_CHECKING:
    from graph_init.builder.build import Builder


def _is(value: Value | None, number: float) -> bool:
    return (
        value is not None
        and value.const is not None
        and 0 < value.const.size <= 4096
        and bool(np.all(value.const == number))
    )


def _neutral(number: float, sides: Sequence[int]) -> Callable[..., Value | None]:
    def rule(b: Builder, ins: list[Value | None], attrs: dict[str, Any]) -> Value | None:
        for side in sides:
            other = ins[1 - side]
            if _is(ins[side], number) and other is not None and other.shape is not None:
                mine = ins[side]
                if mine is not None and broadcast(mine.dims, other.dims) == other.dims:
                    return other
        return None

    return rule


def _simplify_reshape(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x, shape = ins[0], ins[1]
    if x.shape is None or shape.const is None:
        return None
    target = reshape_type(ins, attrs)[0][1]
    if target == x.shape:
        return ins[0]  # type: ignore[no-any-return]
    if x.node is not None and x.node.op == "Reshape":
        return b.reshape(x.node.inputs[0], target or ())
    wanted = {"allowzero": 1} if 0 in (target or ()) else {}
    if tuple(int(d) for d in shape.const) != target or attrs != wanted:
        return b.reshape(x, target or ())
    return None


def _simplify_transpose(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x = ins[0]
    if x.shape is None:
        return None
    perm = list(attrs.get("perm") or range(x.rank)[::-1])
    if perm == list(range(x.rank)):
        return x  # type: ignore[no-any-return]
    if x.node is not None and x.node.op == "Transpose" and x.node.attrs.get("perm"):
        inner = x.node.attrs["perm"]
        return b.transpose(x.node.inputs[0], [inner[p] for p in perm])
    return None


def _simplify_expand(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    if ins[0].shape is None or ins[1].const is None:
        return None
    return ins[0] if expand_type(ins, attrs)[0][1] == ins[0].shape else None


def _simplify_reduce(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x = ins[0]
    if x.shape is None or len(ins) < 2 or ins[1] is None or ins[1].const is None:
        return None
    if ins[1].const.size == 0:
        return x if attrs.get("noop_with_empty_axes") else None
    axes = {int(a) % max(x.rank, 1) for a in ins[1].const}
    if all(x.dims[a] == 1 for a in axes):
        shape = reduce_sum_type(ins, attrs)[0][1]
        return b.reshape(x, shape or ())
    return None


def _simplify_cast(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if ins[0].dtype == attrs["to"] else None


def _simplify_identity(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0]  # type: ignore[no-any-return]


def _simplify_concat(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if len(ins) == 1 else None


SIMPLIFY: dict[str, Callable[..., Value | None]] = {
    "Add": _neutral(0, (0, 1)),
    "Sub": _neutral(0, (1,)),
    "Mul": _neutral(1, (0, 1)),
    "Div": _neutral(1, (1,)),
    "Reshape": _simplify_reshape,
    "Transpose": _simplify_transpose,
    "Expand": _simplify_expand,
    "ReduceSum": _simplify_reduce,
    "Cast": _simplify_cast,
    "Identity": _simplify_identity,
    "Concat": _simplify_concat,
}
