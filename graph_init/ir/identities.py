"""Simplifies calls that change nothing or little: ``x + 0``, a reshape to the same shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from graph_init.ir.shapes import expand_type, reduce_sum_type, reshape_type
from graph_init.ir.values import Node, Value, broadcast


class Maker(Protocol):
    """What the rules need of a builder; see :class:`graph_init.ir.builder.Builder`."""

    fuses: bool
    #: Values whose derivatives are declared.
    custom_vjps: dict[Value, Any]

    def add(self, a: Value, b: Value) -> Value: ...

    def reshape(self, a: Value, shape: Sequence[int]) -> Value: ...

    def transpose(self, a: Value, perm: Sequence[int]) -> Value: ...

    def product(
        self,
        a: Value,
        b: Value,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
    ) -> Value: ...


def _is(value: Value | None, number: float) -> bool:
    return (
        value is not None
        and value.const is not None
        and 0 < value.const.size <= 4096
        and bool(np.all(value.const == number))
    )


def _neutral(number: float, sides: Sequence[int]) -> Callable[..., Value | None]:
    def rule(b: Maker, ins: list[Value | None], attrs: dict[str, Any]) -> Value | None:
        for side in sides:
            other = ins[1 - side]
            if _is(ins[side], number) and other is not None and other.shape is not None:
                mine = ins[side]
                if mine is not None and broadcast(mine.dims, other.dims) == other.dims:
                    return other
        return None

    return rule


def _simplify_reshape(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
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


def _is_transposed(b: Maker, x: Value) -> bool:
    """Whether ``x`` comes of a transposition behind which one may look for what it is made of.

    Not where its derivative is declared, which what reads from behind it would not take.
    """
    return x.node is not None and x.node.op == "Transpose" and x not in b.custom_vjps


def _simplify_transpose(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x = ins[0]
    if x.shape is None:
        return None
    perm = list(attrs.get("perm") or range(x.rank)[::-1])
    if perm == list(range(x.rank)):
        return x  # type: ignore[no-any-return]
    if _is_transposed(b, x):
        inner = x.node.attrs["perm"]
        return b.transpose(x.node.inputs[0], [inner[p] for p in perm])
    return _transposed_product(b, x) if perm == [1, 0] else None


def _simplify_expand(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    if ins[0].shape is None or ins[1].const is None:
        return None
    return ins[0] if expand_type(ins, attrs)[0][1] == ins[0].shape else None


def _simplify_reduce(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
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


def _simplify_cast(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if ins[0].dtype == attrs["to"] else None


def _simplify_identity(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0]  # type: ignore[no-any-return]


def _simplify_concat(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if len(ins) == 1 else None


def _swaps_last(node: Node | None) -> bool:
    """Whether ``node`` transposes each of a stack of matrices."""
    if node is None or node.op != "Transpose":
        return False
    perm = list(node.attrs["perm"])
    n = len(perm)
    return perm == [*range(n - 2), n - 1, n - 2]


def _simplify_product(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    """Transposed operands are read as they lie, by FusedMatMul."""
    if not b.fuses or any(v.rank < 2 for v in ins):
        return None
    flags = [bool(attrs.get(k)) for k in ("transA", "transB")]
    inner = list(ins)
    for k, v in enumerate(ins):
        if _swaps_last(v.node):
            inner[k], flags[k] = v.node.inputs[0], not flags[k]
    if all(x is y for x, y in zip(inner, ins, strict=True)):
        return None
    return b.product(inner[0], inner[1], flags[0], flags[1], alpha=attrs.get("alpha", 1.0))


def _transposed_product(b: Maker, x: Value) -> Value | None:
    """(A·B)ᵀ = Bᵀ·Aᵀ."""
    node = x.node
    if not b.fuses or node is None or x.rank != 2 or node.op not in PRODUCTS:
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    if left.rank != 2 or right.rank != 2:
        return None
    flags = [not node.attrs.get(k) for k in ("transB", "transA")]
    return b.product(right, left, flags[0], flags[1], alpha=node.attrs.get("alpha", 1.0))


def _add(b: Maker, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    """A sum of two tensors that were rearranged alike is rearranged once."""
    found = _neutral(0, (0, 1))(b, ins, attrs)
    nodes = [v.node for v in ins]
    if found is not None or not b.fuses or not all(_is_transposed(b, v) for v in ins):
        return found
    perms = [list(n.attrs["perm"]) for n in nodes]
    if perms[0] != perms[1] or ins[0].shape != ins[1].shape:
        return None
    return b.transpose(b.add(*(n.inputs[0] for n in nodes)), perms[0])


#: Matrix products; FusedMatMul may transpose its operands and multiply by a number.
PRODUCTS = frozenset({"MatMul", "FusedMatMul"})

SIMPLIFY: dict[str, Callable[..., Value | None]] = {
    "Add": _add,
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
    "MatMul": _simplify_product,
    "FusedMatMul": _simplify_product,
}
