"""Where the rows of a batch are in a value, and the table of rules that follow them through nodes.

A rule is a proof that a node does to each row what it would do to that row alone. An operator
without one holds the size of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx import TensorProto

from graph_init.sizes.known import Call, Dims, Known


@dataclass(frozen=True)
class Rows:
    """Along ``axis`` there are outer × rows × inner entries, in this order."""

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def alone(self) -> bool:
        """Whether the axis counts the rows and nothing else."""
        return self.outer == self.inner == 1

    def at(self, axis: int) -> Rows:
        """The same along another axis."""
        return Rows(axis, self.outer, self.inner)


@dataclass(frozen=True)
class Count:
    """An entry of a shape: so many times the number of rows."""

    factor: int = 1


#: An entry of a shape that is written new; None: the one that is there.
Entry = int | Count | None


@dataclass(frozen=True)
class Patch:
    """A new vector in place of the input ``slot`` of a node.

    With ``through`` (Expand or Tile) the input stays, and goes through that operator, which reads
    the vector. ``narrow``: it holds int32, as bounds of slices may.
    """

    slot: int
    vector: tuple[Entry, ...]
    through: str = ""
    narrow: bool = False


class Held(Exception):
    """The node holds the size of the batch; the words complete a sentence that begins with it."""


@dataclass
class Step:
    """A node, where the rows of its inputs are, and what is known at the file's own sizes.

    ``count`` are the rows that the file fixes. Rules add to ``patches``.
    """

    call: Call
    rows: Sequence[Rows | None]
    made: Sequence[Known]
    count: int
    patches: list[Patch] = field(default_factory=list)

    @property
    def node(self) -> ir.Node:
        return self.call.node

    def at(self, slot: int) -> Rows | None:
        """Where the rows of an input are; None if it is the same for all."""
        return self.rows[slot] if slot < len(self.rows) else None

    def only(self, slot: int) -> Rows:
        """The rows of an input that alone may have any."""
        for k, found in enumerate(self.rows):
            if k != slot and found is not None:
                raise Held(f"has another input {k} for each row")
        found = self.at(slot)
        assert found is not None
        return found

    def dims(self, slot: int) -> Dims:
        return self.call.dims(slot)

    def given(self, slot: int) -> bool:
        return self.call.get(slot) is not None

    def spread(self, slot: int, rows: Rows) -> None:
        """Let an input that is the same for all rows have as many as another one has."""
        dims = self.dims(slot)
        if dims[rows.axis] != 1:
            raise Held(f"reads a tensor that has {int(dims[rows.axis])} rows of its own")
        vector = [1] * len(dims)
        factor = Count(rows.outer * rows.inner)
        self.patches.append(
            Patch(slot, (*vector[: rows.axis], factor, *vector[rows.axis + 1 :]), "Expand")
        )

    def entry(self, slot: int, place: int, new: Entry) -> None:
        """Change one entry of a vector that the node reads; the others stay as they are."""
        value = self.node.inputs[slot]
        count = len(self.call.numbers(slot))
        fixed = value is not None and value.is_initializer()
        old: list[Entry] = list(map(int, self.call.numbers(slot))) if fixed else [None] * count
        narrow = self.call.dtype(slot) == TensorProto.INT32
        self.patches.append(Patch(slot, (*old[:place], new, *old[place + 1 :]), narrow=narrow))


Rule = Callable[[Step], Rows | None | Sequence[Rows | None]]
RULES: dict[str, Rule] = {}
#: Inputs that may be made of the number of rows: shapes, and where slices begin and end.
SHAPE_SLOTS: dict[str, frozenset[int]] = {
    "Reshape": frozenset({1}),
    "Expand": frozenset({1}),
    "ConstantOfShape": frozenset({0}),
    "Tile": frozenset({1}),
    "Slice": frozenset({1, 2}),
    "Resize": frozenset({3}),
}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def together(step: Step, slots: Sequence[int], skipped: int = 0) -> Rows | None:
    """Rows of inputs whose axes are joined from the last one on, as numpy does it.

    The last ``skipped`` axes of each are another matter. The result's axis counts from the end.
    """
    found: Rows | None = None
    for slot in slots:
        own = step.at(slot)
        if own is None:
            continue
        placed = own.at(own.axis - len(step.dims(slot)))
        if placed.axis >= -skipped:
            raise Held("joins rows that lie along different axes")
        if found is not None and placed != found:
            raise Held("joins rows that lie along different axes")
        found = placed
    if found is None:
        return None
    for slot in slots:
        dims = step.dims(slot)
        if step.at(slot) is None and len(dims) >= -found.axis and dims[found.axis] != 1:
            _repeat(step, slot, found)
    return found


def _repeat(step: Step, slot: int, rows: Rows) -> None:
    """A table that joins an axis of rows with other entries, once for each row."""
    size = int(step.dims(slot)[rows.axis])
    if step.count > 1 or rows.outer > 1 or size != rows.inner:
        raise Held(f"joins the rows with a tensor of {size} entries along their axis")
    vector: list[Entry] = [1] * len(step.dims(slot))
    vector[rows.axis] = Count()
    step.patches.append(Patch(slot, tuple(vector), "Tile"))


def flat(dims: Dims, rows: Rows) -> int:
    """The elements before one of the rows, as the whole lies in memory."""
    return math.prod(map(int, dims[: rows.axis])) * rows.outer


def axis_of(step: Step, default: int, slot: int = 0) -> int:
    """The node's ``axis``, counted from the first."""
    return int(step.call.attr("axis", default)) % max(len(step.dims(slot)), 1)
