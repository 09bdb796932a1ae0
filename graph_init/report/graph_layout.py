"""Lanes for a graph that is drawn beside its rows, as histories of versions are.

A row's result goes on in the row's own lane to the first row that reads it; to later readers it
takes one further lane, which ends at the last of them. The drawing is cut into one piece a row, so
that it can be scrolled, printed on pages and read beside text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: In pixels: between lanes, and the height of a row.
STEP, HEIGHT = 14, 28


@dataclass(frozen=True)
class Piece:
    """What is drawn beside a row: the x of its mark, and the lines through it as an SVG path."""

    x: int
    lines: str


@dataclass(frozen=True)
class _Line:
    """A result on its way to the rows that read it; ``main``: in the lane of its own row."""

    readers: tuple[int, ...]
    main: bool


def draw(inputs: Sequence[Sequence[int]], heights: Sequence[int]) -> tuple[list[Piece], int]:
    """A piece for each row, and their common width; ``inputs`` are the rows that each reads.

    The mark of a row is half a :data:`HEIGHT` below its top.
    """
    readers: list[list[int]] = [[] for _ in inputs]
    for row, sources in enumerate(inputs):
        for source in sources:
            readers[source].append(row)
    lanes: dict[int, _Line] = {}
    pieces, width = [], 0
    middle = HEIGHT // 2
    for row, height in enumerate(heights):
        arriving = [lane for lane, line in lanes.items() if row in line.readers]
        ending = [lane for lane in arriving if lanes[lane].readers[-1] == row]
        own = [lane for lane in ending if lanes[lane].main]
        at = min(own) if own else _free(lanes, 0)
        lines = [_bend(lane, 0, at, middle) for lane in arriving]
        for lane in ending:
            del lanes[lane]
        lines += [f"M{_x(lane)} 0V{height}" for lane in lanes]
        first, *later = readers[row] or (None,)
        width = max(width, at, *lanes, 0)
        if first is not None:
            lanes[at] = _Line((first,), main=True)
            lines.append(_bend(at, middle, at, height))
        if later:
            lane = _free(lanes, at + 1)
            lanes[lane] = _Line(tuple(later), main=False)
            lines.append(_bend(at, middle, lane, height))
            width = max(width, lane)
        pieces.append(Piece(_x(at), " ".join(lines)))
    return pieces, _x(width) + STEP // 2 + 2


def _free(lanes: dict[int, _Line], start: int) -> int:
    return next(lane for lane in range(start, start + len(lanes) + 1) if lane not in lanes)


def _x(lane: int) -> int:
    return STEP // 2 + 2 + STEP * lane


def _bend(lane: int, y: int, to: int, end: int) -> str:
    if lane == to:
        return f"M{_x(lane)} {y}V{end}"
    middle = (y + end) // 2
    return f"M{_x(lane)} {y}C{_x(lane)} {middle} {_x(to)} {middle} {_x(to)} {end}"
