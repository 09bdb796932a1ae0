"""Finds the axis of an output on which the classes are: rules, the strongest evidence first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graph_init.ir import Shape


@dataclass(frozen=True)
class ClassAxis:
    """The ``index`` of the axis, and ``guess``: why it is that one, where that is only likely."""

    index: int
    guess: str = ""


@dataclass(frozen=True)
class Layout:
    """What is known of an output's axes.

    ``shape`` is the output's, rows first. ``layer`` is the axis that has the units, or channels, of
    the last layer (None: unknown), ``inputs`` are the shapes of the model's float inputs, and
    ``target`` is the shape of class numbers that the data has for the output.
    """

    shape: Shape
    layer: int | None = None
    inputs: Sequence[Shape] = ()
    target: Shape | None = None

    @property
    def last(self) -> int:
        return len(self.shape) - 1


def find(layout: Layout) -> ClassAxis:
    """The class axis by the first rule whose answer the targets allow; 0 for a scalar or vector."""
    if layout.last < 2:
        return ClassAxis(max(layout.last, 0))
    allowed = list(_left_out(layout))
    if len(allowed) == 1:
        return ClassAxis(allowed[0])
    for rule in _RULES:
        found = rule(layout)
        if found is not None and (not allowed or found.index in allowed):
            return found
    return ClassAxis(allowed[0])


def _left_out(o: Layout) -> Iterator[int]:
    """Axes without which the output has the shape of the targets, rows apart."""
    for axis in range(1, len(o.shape)):
        if o.target is not None and places(o.shape, axis) == o.target[1:]:
            yield axis


def places(shape: Shape, axis: int) -> Shape:
    """The sizes of the axes of ``shape`` other than that of the rows and ``axis``."""
    return shape[1:axis] + shape[axis + 1 :]


def _layer(o: Layout) -> ClassAxis | None:
    return ClassAxis(o.layer) if o.layer else None


def _only(o: Layout) -> ClassAxis | None:
    """A single place a row leaves no choice."""
    long = [a for a in range(1, len(o.shape)) if o.shape[a] > 1]
    return ClassAxis(long[0]) if len(o.shape) >= 4 and len(long) == 1 else None


def _sizes(o: Layout) -> ClassAxis | None:
    """Maps of classes have an input's height and width, or the same part or multiple of both."""
    for given in o.inputs:
        if len(given) != len(o.shape) or len(given) < 4:
            continue
        # An input may have its channels where the output does not.
        sides = [places(given, a) for a in (1, o.last)]
        fit = [a for a in (1, o.last) if any(_scaled(s, places(o.shape, a)) for s in sides)]
        if len(fit) == 1:
            words = f"classes are on axis {fit[0]}, as the other axes have the sizes of an input"
            return ClassAxis(fit[0], words)
    return None


def _scaled(given: Shape, found: Shape) -> bool:
    """Whether ``found`` is a multiple of ``given``, or a part, the same for every axis."""
    return all(a * found[0] == b * given[0] for a, b in zip(given, found, strict=True))


def _convention(o: Layout) -> ClassAxis:
    if len(o.shape) == 3:
        return ClassAxis(2, "classes are on axis 2, as sequences have them")
    return ClassAxis(1, "classes are on axis 1, as PyTorch has them")


_RULES: Sequence[Callable[[Layout], ClassAxis | None]] = (_layer, _only, _sizes, _convention)
