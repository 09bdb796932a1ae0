"""What a dry run knows of a value: its type, its sizes, small contents, and what these follow from.

Nothing is computed that is not needed for sizes. Every size remembers, as bits, which of the
model's unknowns it follows from: the declared sizes that are no numbers, and the inputs that steer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graph_init.ir import Array

#: Contents of more elements are not followed: what steers is small.
MAX_CONTENT = 4096


class Dim(int):
    """A size and, in ``marks``, the bits of the unknowns that it follows from."""

    marks: int

    def __new__(cls, value: int, marks: int = 0) -> Dim:
        made = super().__new__(cls, value)
        made.marks = marks
        return made

    def __add__(self, other: int) -> Dim:
        return Dim(int(self) + int(other), self.marks | marks_of(other))

    def __sub__(self, other: int) -> Dim:
        return Dim(int(self) - int(other), self.marks | marks_of(other))

    def __rsub__(self, other: int) -> Dim:
        return Dim(int(other) - int(self), self.marks | marks_of(other))

    def __mul__(self, other: int) -> Dim:
        return Dim(int(self) * int(other), self.marks | marks_of(other))

    def __floordiv__(self, other: int) -> Dim:
        return Dim(int(self) // int(other), self.marks | marks_of(other))

    def __mod__(self, other: int) -> Dim:
        return Dim(int(self) % int(other), self.marks | marks_of(other))

    def __radd__(self, other: int) -> Dim:
        return self + other

    def __rmul__(self, other: int) -> Dim:
        return self * other


Dims = tuple[int, ...]


def marks_of(*sizes: int) -> int:
    """The bits of all unknowns that any of ``sizes`` follows from."""
    found = 0
    for size in sizes:
        found |= getattr(size, "marks", 0)
    return found


def product(sizes: Iterable[int]) -> int:
    """Of sizes, with the unknowns of all of them."""
    found: int = Dim(1)
    for size in sizes:
        found = found * size
    return found


def slice_end(end: int) -> int | None:
    """Where a Slice ends: exporters write the smallest integer for "up to the first"."""
    return None if int(end) <= -(2**31) + 1 else int(end)


@dataclass(slots=True)
class Known:
    """One value. ``dtype`` is a ``TensorProto.DataType`` (0: unknown); ``dims`` None: unknown.

    ``content`` are its numbers where they are few and known, and ``marks`` of the same shape the
    bits of the unknowns that each of them follows from.
    """

    dtype: int
    dims: Dims | None
    content: Array | None = None
    marks: Array | None = None

    @property
    def followed(self) -> int:
        """The bits of all unknowns that sizes or contents follow from."""
        found = marks_of(*(self.dims or ()))
        if self.marks is not None and self.marks.size:
            found |= int(np.bitwise_or.reduce(self.marks, axis=None))
        return found

    def sizes(self) -> list[int]:
        """The content as sizes with their marks."""
        assert self.content is not None and self.marks is not None
        pairs = zip(self.content.ravel().tolist(), self.marks.ravel().tolist(), strict=True)
        return [Dim(int(n), m) for n, m in pairs]


def of_content(content: Array, marks: Array | int = 0, dims: Dims | None = None) -> Known:
    """A value with known numbers; ``dims`` where its shape follows from unknowns, too."""
    if not isinstance(marks, np.ndarray) or marks.shape != content.shape:
        total = int(np.bitwise_or.reduce(marks, axis=None)) if np.size(marks) else 0
        marks = np.full(content.shape, total, np.int64)
    own = tuple(Dim(n) for n in content.shape)
    dtype = int(ir.DataType.from_numpy(content.dtype))
    return Known(dtype, own if dims is None else dims, content, marks)


def of_sizes(sizes: Sequence[int]) -> Known:
    """A vector of int64 with these numbers."""
    numbers = np.array([int(s) for s in sizes], np.int64)
    return of_content(numbers, np.array([marks_of(s) for s in sizes], np.int64))


class Conflict(Exception):
    """A node to which its inputs' sizes do not fit.

    ``found`` should be ``wanted``, or with ``least`` at least that, or a multiple of ``part`` where
    that is above 1; ``marks`` are the unknowns that any of it follows from. ``words`` complete a
    sentence that begins with the node.
    """

    words: str
    found: int
    wanted: int
    least: bool
    marks: int
    part: int

    def __init__(
        self,
        words: str,
        found: int = 0,
        wanted: int = 0,
        least: bool = False,
        marks: int = 0,
        *,
        part: int = 1,
    ) -> None:
        super().__init__(words)
        self.words, self.found, self.wanted, self.least = words, found, wanted, least
        self.marks, self.part = marks or marks_of(found, wanted), int(part)

    @property
    def residual(self) -> int:
        return int(self.found) - int(self.wanted)


class Need(Exception):
    """The sizes behind a node follow from numbers that are not known: those of its input."""

    slot: int

    def __init__(self, slot: int) -> None:
        super().__init__(f"input {slot}")
        self.slot = slot


@dataclass(frozen=True, slots=True)
class Call:
    """A node and what is known of its inputs."""

    node: ir.Node
    ins: Sequence[Known | None]
    opset: int

    def attr(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def get(self, slot: int) -> Known | None:
        return self.ins[slot] if slot < len(self.ins) else None

    def dims(self, slot: int) -> Dims:
        """Sizes of an input; Unknown where there are none."""
        known = self.get(slot)
        if known is None or known.dims is None:
            raise UnknownShape
        return known.dims

    def dtype(self, slot: int = 0) -> int:
        known = self.get(slot)
        return 0 if known is None else known.dtype

    def numbers(self, slot: int) -> list[int]:
        """The contents of an input that sizes follow from."""
        known = self.get(slot)
        if known is None or known.content is None:
            raise Need(slot)
        return known.sizes()

    def ints(self, name: str, slot: int) -> list[int] | None:
        """A list that is an attribute in old opsets and an input in new ones; None if absent."""
        given = self.attr(name)
        if given is not None:
            return [int(n) for n in given]
        return self.numbers(slot) if self.get(slot) is not None else None


class UnknownShape(Exception):
    """An input's sizes are not known, so neither are those of the outputs."""
