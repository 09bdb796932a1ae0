"""One use of an initializer, and the fan-in and fan-out of the layers and tables among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from graph_init.analysis import kinds
from graph_init.analysis.graph import label


@dataclass(frozen=True)
class Use:
    """One use of an initializer by the node that decides what it is.

    ``statistic``: which running statistic it holds, ``mean`` or ``variance``, if it is one.
    """

    kind: str
    node: ir.Node
    words: str
    path: tuple[str, ...] = ()
    fan_in: int | None = None
    fan_out: int | None = None
    transposed: bool = False
    statistic: str | None = None


def attribute(node: ir.Node, name: str, default: int) -> int:
    """The integer attribute ``name`` of ``node``, or ``default`` where it is not given."""
    found = node.attributes.get(name)
    return default if found is None or found.value is None else int(found.value)


def table_use(
    kind: str, node: ir.Node, shape: tuple[int, ...] | None, path: tuple[str, ...]
) -> Use:
    """A looked-up table: each output element reads one entry, so the fan-in is 1."""
    width = math.prod(shape[1:]) if shape else None
    words = f"{kind} table of {node.op_type} '{label(node)}'"
    if shape:
        words += f" ({shape[0]} rows of {width})"
    return Use(kind, node, words, path, fan_in=1, fan_out=width)


def fans(
    node: ir.Node, slot: int, shape: tuple[int, ...]
) -> tuple[int | None, int | None, bool] | None:
    """(fan-in, fan-out, stored as (in, out)) of a linear layer's operand, as the node sees it."""
    op = node.op_type
    if op in ("Conv", "FusedConv", "DeformConv", "ConvTranspose"):
        if len(shape) < 2:
            return None
        field, group = math.prod(shape[2:]), attribute(node, "group", 1)
        if op == "ConvTranspose":
            return shape[0] // group * field, shape[1] * field, True
        return shape[1] * field, shape[0] // group * field, False
    if op in ("LSTM", "GRU", "RNN"):
        return (shape[2], shape[1], False) if len(shape) == 3 else None
    if op == "Einsum":
        return einsum_fans(node, slot, shape)
    if len(shape) < 2:
        return (shape[0], 1, True) if shape else None
    flag = {"Gemm": ("transA", "transB"), "FusedMatMul": ("transA", "transB")}.get(op)
    flipped = bool(flag and attribute(node, flag[min(slot, 1)], 0))
    first_is_input = flipped if slot == 0 else not flipped
    rows, columns = shape[-2:]
    return (rows, columns, True) if first_is_input else (columns, rows, False)


def einsum_fans(
    node: ir.Node, slot: int, shape: tuple[int, ...]
) -> tuple[int | None, int | None, bool] | None:
    """The same as :func:`fans` for an operand of Einsum, from its equation."""
    equation = node.attributes["equation"].as_string().replace(" ", "").replace("...", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if not right:  # the implicit form keeps the letters that occur once, in alphabetical order
        joined = left.replace(",", "")
        right = "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    mine = terms[slot]
    if len(mine) != len(shape):
        return None
    others = "".join(term for place, term in enumerate(terms) if place != slot)
    summed = [axis for axis, letter in enumerate(mine) if letter not in right]
    free = [axis for axis, letter in enumerate(mine) if letter in right and letter not in others]
    stored = bool(summed and free and summed[0] < free[0])
    return math.prod(shape[a] for a in summed), math.prod(shape[a] for a in free), stored


def linear_use(
    node: ir.Node,
    slot: int,
    shape: tuple[int, ...] | None,
    path: tuple[str, ...],
    use: Callable[[str, str], Use],
) -> Use:
    """A weight of a convolution, matrix product or recurrent layer."""
    kind = kinds.SLOTS.get((node.op_type, slot), "matrix")
    if node.op_type in kinds.MATRIX_PRODUCTS:
        kind = "bias" if (node.op_type, slot) == ("Gemm", 2) else "matrix"
    noun = {"convolution kernel": "kernel", "recurrent": "recurrent weight"}.get(kind, kind)
    words = f"{noun} of {node.op_type} '{label(node)}'"
    numbers = fans(node, slot, shape) if shape is not None else None
    if numbers is None:
        return use(kind, words)
    fan_in, fan_out, stored = numbers
    if kind == "convolution kernel" and shape is not None:
        group = attribute(node, "group", 1)
        channels = shape[1] * group if node.op_type == "ConvTranspose" else shape[0]
        words += f" ({channels} output channels, fan-in {fan_in})"
    else:
        words += f" (fan-in {fan_in}, fan-out {fan_out})"
    return Use(
        kind, node, words=words, path=path, fan_in=fan_in, fan_out=fan_out, transposed=stored
    )
