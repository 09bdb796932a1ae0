"""Three streams of batches: to search on, to select on, and to report on.

What tunes reads ``search``, what chooses among states reads ``select``, and the figures that are
shown are of ``report``: a figure on batches that a state was chosen by would flatter it. The
streams have no row in common. Where the data are too few for that, ``notes`` of the source say what
was done instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from onnx import helper

from graph_init.errors import UsageError
from graph_init.ir import Array, Shape, Value
from graph_init.problem.batches import Layout
from graph_init.problem.loss import random_target

#: What the streams' random numbers begin with, beside the seed; and the split of a file.
_SEARCH, _REPORT, _SELECT, _SPLIT = range(4)

#: One in this many rows of a file is to select on, and as many are to report on, but always a batch
#: of each; the others are to search on.
_SHARE = 5
#: Rows of a file of which batches are made; of a longer one so many are drawn.
_MOST_ROWS = 1 << 24

#: What is reported is a mean over so many batches.
REPORTED = 2
#: Batches of an iterable that are to report on, and as many to select on; and those that are read
#: to see how many there are.
_PUT_ASIDE = REPORTED
_HEAD = 2 * _PUT_ASIDE + 1
#: Of an iterable at most so many bytes are kept to search on, but always two batches.
_KEPT_BYTES = 256 << 20
#: What is added to the absolute value of a random number that has to be positive.
_LEAST = np.float32(0.01)


class Stream(Protocol):
    """Batches by number, from 0: the batch with a given number is always the same."""

    def batch(self, number: int) -> Mapping[str, Array]: ...


@dataclass(frozen=True)
class Source:
    """Where batches come from, by what they are for; ``notes``: rows that streams share."""

    search: Stream
    select: Stream
    report: Stream
    notes: tuple[str, ...] = ()


def random(layout: Layout, ranges: Mapping[str, int], seed: int) -> Source:
    """Random inputs and labels.

    Floats are N(0,1), and |N(0,1)| + 0.01 where the model takes a logarithm or a root of the input,
    or divides by it (``layout.positive``); integers that index a table are uniform over its rows
    (``ranges``); positions count up, and so do places that something is written to, again from 0
    behind the last, so that none is left out (``layout.written``); masks, and other integers and
    booleans, are ones. Labels are random.
    """
    return Source(
        _Random(layout, ranges, (seed, _SEARCH), 0),
        _Random(layout, ranges, (seed, _SELECT), 0),
        _Random(layout, ranges, (seed, _REPORT), 1),
    )


def of_rows(
    arrays: Mapping[str, Array], size: int, seed: int, whole: Mapping[str, Array] = {}
) -> Source:
    """Batches of ``size`` rows of a file, whose rows are split once, by the seed.

    What is in ``whole`` is in every batch as it is.

    A fifth of the rows (a batch at least) is to select on, another to report on. With fewer rows
    than three batches those to report on are apart, and with fewer than two nothing is.
    """
    order = _shuffled(len(next(iter(arrays.values()))), max(_MOST_ROWS, 3 * size), seed)
    rows = len(order)
    aside = max(size, rows // _SHARE)
    parts = {_SEARCH: order[2 * aside :], _SELECT: order[aside : 2 * aside]}
    report = order[:aside]
    if rows < 3 * size:
        report = order[: size if rows >= 2 * size else rows]
        parts = dict.fromkeys(parts, order[size:] if rows >= 2 * size else order)
    table = _Table(arrays, whole)
    search, select = (_Rows(table, p, size, (seed, key)) for key, p in parts.items())
    counted = f"--data has {rows} row{'s' if rows > 1 else ''}"
    return Source(
        search,
        select,
        _Rows(table, report, size, (seed, _REPORT)),
        _shared(counted, f"batches of {size}", rows // size, _remedy(rows // 3)),
    )


def _shuffled(rows: int, most: int, seed: int) -> Array:
    """The numbers of all rows; of more than ``most``, whose numbers alone fill memory, of some."""
    rng = np.random.default_rng([seed, _SPLIT])
    if rows <= most:
        return rng.permutation(rows)
    return rng.permutation(np.unique(rng.integers(0, rows, most)))


def of_batches(batches: Iterable[Any], check: Callable[[Any], dict[str, Array] | None]) -> Source:
    """The batches of an iterable, which is read once, and no further than it is asked for.

    The first two are to report on and the next two to select on, one each of fewer than five; the
    others are to search on, from the first again when there are no more. ``check`` names a batch's
    arrays and refuses what does not fit; None passes it over, as the shorter last one of an epoch.
    """
    reading = (found for item in batches if (found := check(item)) is not None)
    head = list(islice(reading, _HEAD))
    if not head:
        raise UsageError("--data holds no batch")
    aside = _PUT_ASIDE if len(head) == _HEAD else 1
    report, select, others = head[:aside], head[aside : 2 * aside], head[2 * aside :]
    if len(head) < 3:
        report, others = head[:1], head[-1:]
        select = others
    return Source(
        _Listed(others, reading),
        _Listed(select),
        _Listed(report),
        _shared(f"--data has {len(head)} batches", "batches", len(head), "more batches"),
    )


def _remedy(size: int) -> str:
    """What would keep streams apart; of batches of ``size`` rows there would be three."""
    if size < 1:
        return "more rows"
    return f"a --batch-size of {size}{' or less' if size > 1 else ''}, or more rows"


def _shared(given: str, what: str, count: int, remedy: str) -> tuple[str, ...]:
    """What is said where there are data for ``count`` batches."""
    if count >= 3:
        return ()
    if count == 2:
        words = (
            "the scales are found and chosen on the same rows, and only the reported figures are "
            "measured on others"
        )
    else:
        words = "the reported figures are measured on rows that the tuner has used"
    return (f"{given}, fewer than three {what}: {words}; {remedy} would avoid that",)


class _Random:
    """Random inputs and labels."""

    def __init__(
        self, layout: Layout, ranges: Mapping[str, int], key: tuple[int, int], first: int
    ) -> None:
        self._layout, self._ranges = layout, dict(ranges)
        self._key, self._first = key, first

    def batch(self, number: int) -> dict[str, Array]:
        rng = np.random.default_rng([*self._key, self._first + number])
        layout = self._layout
        feeds = {v.name: self._draw(v, layout.shape(v), rng) for v in layout.inputs}
        for term in layout.objective.terms:
            feeds[term.target.name] = random_target(term, layout.shape(term.target), rng)
        return feeds

    def _draw(self, value: Value, shape: Shape, rng: np.random.Generator) -> Array:
        dtype = helper.tensor_dtype_to_np_dtype(value.dtype)
        name = value.name.lower()
        if value.is_float and "mask" not in name:
            drawn = rng.standard_normal(shape, dtype=np.float32)
            return np.abs(drawn) + _LEAST if value.name in self._layout.positive else drawn
        if value.name in self._layout.written:
            return (np.arange(shape[0]) % self._layout.written[value.name]).astype(dtype)
        if value.name in self._ranges and "position" not in name:
            return rng.integers(0, self._ranges[value.name], shape).astype(dtype)
        if "position" in name and value.rank:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        return np.ones(shape, dtype)


@dataclass(frozen=True)
class _Table:
    """Arrays with rows, and what every batch has beside them."""

    arrays: Mapping[str, Array]
    whole: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values())))

    def taken(self, rows: Array) -> dict[str, Array]:
        return {**{k: v[rows] for k, v in self.arrays.items()}, **self.whole}


class _Rows:
    """Rows of one part, drawn without replacement; all of them in order if they are one batch."""

    def __init__(self, table: _Table, rows: Array, size: int, key: tuple[int, int]) -> None:
        self._table, self._size, self._key = table, size, key
        self._rows = np.sort(rows)

    def batch(self, number: int) -> dict[str, Array]:
        rows = self._rows
        if len(rows) > self._size:
            rows = np.random.default_rng([*self._key, number]).choice(rows, self._size, False)
        elif len(rows) == self._table.rows:
            return {**self._table.arrays, **self._table.whole}
        return self._table.taken(rows)


class _Listed:
    """Batches one after the other, kept as they are read; after the last from the first again.

    They are not read a second time: an iterable that shuffles would then give rows that were put
    aside.
    """

    def __init__(
        self, head: list[dict[str, Array]], rest: Iterator[dict[str, Array]] | None = None
    ) -> None:
        self._batches, self._rest = list(head), rest or iter(())
        self._most = max(2, _KEPT_BYTES // max(1, sum(a.nbytes for a in head[0].values())))

    def batch(self, number: int) -> dict[str, Array]:
        wanted = min(number + 1, self._most) - len(self._batches)
        if wanted > 0:
            self._batches.extend(islice(self._rest, wanted))
        return self._batches[number % len(self._batches)]
