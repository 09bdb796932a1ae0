"""Batches: random ones from the graph's own signature, and rows or batches of real data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from onnx import helper

from graph_init.errors import UsageError
from graph_init.ir import Array, Builder, Shape, Value
from graph_init.problem.loss import TARGET, Objective, Term, random_target

#: Through these an index stays an index.
_INDEX_VIEWS = frozenset("Reshape Cast Identity Transpose Slice Concat Expand".split())


def index_ranges(b: Builder, inputs: Sequence[Value]) -> dict[str, int]:
    """For each integer input that indexes a table: the number of rows of the smallest one."""
    source: dict[int, Value] = {id(v): v for v in inputs if not v.is_float}
    found: dict[str, int] = {}
    for node in b.nodes:
        first = node.inputs[0] if node.inputs else None
        if node.op in ("Gather", "GatherElements", "GatherND") and len(node.inputs) > 1:
            index, table = node.inputs[1], first
            origin = source.get(id(index))
            if origin is not None and table is not None and table.shape:
                size = table.dims[node.attrs.get("axis", 0)]
                found[origin.name] = min(size, found.get(origin.name, size))
        elif node.op in _INDEX_VIEWS and first is not None and id(first) in source:
            for output in node.outputs:
                if output is not None and not output.is_float:
                    source[id(output)] = source[id(first)]
    return found


@dataclass(frozen=True)
class Layout:
    """What a batch consists of, and how it is cut.

    ``inputs`` and ``objective`` have the shapes of one of ``count`` slices; those inputs of which
    each row has its own part are named in ``batched``.
    """

    inputs: Sequence[Value]
    objective: Objective
    batched: frozenset[str]
    count: int = 1

    def shape(self, value: Value) -> Shape:
        """The shape of ``value`` for the whole batch."""
        cut = value in self.objective.targets or value.name in self.batched
        return (value.dims[0] * self.count, *value.dims[1:]) if cut and value.rank else value.dims

    def slices(self, batch: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """The slices of a whole batch, in order; arrays that are not batched are in each."""
        cut = self.batched | {t.name for t in self.objective.targets}
        for k in range(self.count):
            yield {
                n: a[k * len(a) // self.count : (k + 1) * len(a) // self.count]
                if n in cut and a.ndim
                else a
                for n, a in batch.items()
            }


class Source(Protocol):
    """Where batches come from: that with a given number is always the same."""

    def batch(self, number: int) -> Mapping[str, Array]:
        """Batch ``number`` (negative numbers: the held-out ones)."""
        ...


class RandomBatches:
    """Random inputs and labels: the batch with a given number is always the same.

    Floats are N(0,1); integers that index a table are uniform over its rows; positions count up;
    masks, and other integers and booleans, are ones. Labels are random.
    """

    def __init__(self, layout: Layout, ranges: Mapping[str, int], seed: int) -> None:
        self._layout = layout
        self._ranges = dict(ranges)
        self._seed = seed

    def batch(self, number: int) -> dict[str, Array]:
        """Batch ``number`` (negative numbers: the held-out ones)."""
        rng = np.random.default_rng([self._seed, 0 if number >= 0 else 1, abs(number)])
        layout = self._layout
        feeds = {v.name: self._draw(v, layout.shape(v), rng) for v in layout.inputs}
        for term in layout.objective.terms:
            feeds[term.target.name] = random_target(term, layout.shape(term.target), rng)
        return feeds

    def _draw(self, value: Value, shape: Shape, rng: np.random.Generator) -> Array:
        dtype = helper.tensor_dtype_to_np_dtype(value.dtype)
        name = value.name.lower()
        if value.is_float and "mask" not in name:
            return rng.standard_normal(shape, dtype=np.float32)
        if value.name in self._ranges and "position" not in name:
            return rng.integers(0, self._ranges[value.name], shape).astype(dtype)
        if "position" in name and value.rank:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        return np.ones(shape, dtype)


class FixedBatches:
    """Real data: ``arrays`` keyed by input name, plus targets; batches of ``size`` rows."""

    def __init__(self, arrays: Mapping[str, Array], size: int, seed: int) -> None:
        self.arrays = dict(arrays)
        self._size = size
        self._seed = seed
        self._rows = next(iter(arrays.values())).shape[0]

    def batch(self, number: int) -> dict[str, Array]:
        """Rows drawn without replacement; all of them in order when the batch is the whole file."""
        if self._rows == self._size:
            return dict(self.arrays)
        rng = np.random.default_rng([self._seed, 0 if number >= 0 else 1, abs(number)])
        rows = rng.choice(self._rows, self._size, replace=False)
        return {k: v[rows] for k, v in self.arrays.items()}


class StreamBatches:
    """Batches from an iterable, read as far as they are asked for, then again from its start.

    The first four are held out, unless there are no others. Batches of another size than the
    first's (the last of an epoch, often) are passed over.
    """

    _HELD_OUT = 4

    def __init__(
        self, batches: Iterable[Any], check: Callable[[Any], dict[str, Array] | None]
    ) -> None:
        """``check`` names a batch's arrays and refuses what does not fit; None passes it over."""
        self._batches, self._check = batches, check
        self._reading = self._read()
        head = list(islice(self._reading, self._HELD_OUT + 1))
        if not head:
            raise UsageError("--data holds no batch")
        self._held_out = head[: self._HELD_OUT]
        self._first = head[self._HELD_OUT :]
        self._at, self._current = 0, (self._first or head)[0]

    def batch(self, number: int) -> dict[str, Array]:
        """Training batches in order, so that ``number`` may stay, grow, or start again at 0."""
        if number < 0:
            return self._held_out[(-1 - number) % len(self._held_out)]
        if not self._first:
            return self._held_out[number % len(self._held_out)]
        if number == 0:
            return self._first[0]
        while self._at < number:
            self._current = self._next()
            self._at += 1
        return self._current

    def _next(self) -> dict[str, Array]:
        found = next(self._reading, None)
        if found is None:
            if iter(self._batches) is self._batches:
                raise UsageError(
                    f"--data ended after {self._at + 1 + self._HELD_OUT} batches; give an iterable "
                    "that can be read again (a list, a DataLoader), or fewer --updates or --steps"
                )
            self._reading = self._read()
            found = next(islice(self._reading, self._HELD_OUT, None))
        return found

    def _read(self) -> Iterator[dict[str, Array]]:
        return (found for item in self._batches if (found := self._check(item)) is not None)


def rename_target(arrays: Mapping[str, Array], terms: Sequence[Term]) -> dict[str, Array]:
    """``arrays`` with the one term's ``target:OUTPUT`` called ``target``."""
    long = f"{TARGET}:{terms[0].output}"
    if len(terms) > 1 or TARGET in arrays or long not in arrays:
        return dict(arrays)
    return {TARGET if k == long else k: v for k, v in arrays.items()}


def check_arrays(
    arrays: Mapping[str, Array], inputs: Sequence[Value], objective: Objective, size: int
) -> dict[str, Array]:
    """``arrays`` in the graph's types, one row count, with labels in range; else UsageError."""
    arrays = rename_target(arrays, objective.terms)
    wanted = {v.name: v for v in [*inputs, *objective.targets]}
    missing = [n for n in wanted if n not in arrays]
    if missing:
        raise UsageError(
            f"--data lacks the array '{missing[0]}'; it needs {', '.join(wanted)} and has "
            f"{', '.join(arrays) or 'nothing'}"
        )
    result: dict[str, Array] = {}
    for name, value in wanted.items():
        array = _converted(name, np.asarray(arrays[name]), value)
        expected: Shape = value.dims
        if not array.ndim:
            raise UsageError(f"--data: '{name}' is a single number; rows are counted by its axis 0")
        single = array[:1].size == math.prod(expected[1:]) == 1
        if value in objective.targets and single:
            array = array.reshape(array.shape[0], *expected[1:])
        if array.shape[1:] != expected[1:] or array.shape[0] < size:
            hint = ""
            if value in objective.targets and array.ndim == len(expected) - 1:
                hint = "; class numbers are for --loss cross-entropy"
            raise UsageError(
                f"--data: '{name}' has shape {array.shape}, but the model wants {expected}{hint}"
            )
        result[name] = array
    for term in objective.terms:
        _check_labels(term, result[term.target.name])
    if len({a.shape[0] for a in result.values()}) > 1:
        raise UsageError("--data: the arrays have different numbers of rows")
    return result


def _converted(name: str, array: Array, value: Value) -> Array:
    """``array`` in the type that the graph wants, which must hold what is in it."""
    wanted = helper.tensor_dtype_to_np_dtype(value.dtype)
    if array.dtype.kind not in _NUMBERS and array.dtype.name not in _NARROW:
        raise UsageError(
            f"--data: '{name}' has elements of type {array.dtype}; the model wants {wanted}"
        )
    with np.errstate(all="ignore"):
        result: Array = array.astype(wanted)
    if value.is_float:
        _check_finite(name, result)
    elif array.dtype.kind == "f" and (result != array).any():
        raise UsageError(
            f"--data: '{name}' has fractions or NaN, but the model wants {wanted}; labels are "
            "class numbers"
        )
    return result


#: Kinds of numpy's element types that are numbers, and names of those that numpy has from others.
_NUMBERS, _NARROW = "biuf", frozenset({"bfloat16"})


def _check_finite(name: str, array: Array) -> None:
    """UsageError that says in which row the first NaN or +∞ is; −∞ is what masks are made of."""
    bad = np.isnan(array) | np.isposinf(array)
    if bad.any():
        first = int(np.argmax(bad.reshape(len(array), -1).any(axis=1))) if array.ndim else 0
        raise UsageError(
            f"--data: '{name}' holds {int(bad.sum())} NaN or infinite numbers of {array.size} "
            f"(the first in row {first}); the model computes in float32"
        )


def _check_labels(term: Term, labels: Array) -> None:
    if term.classes is not None and (labels.min() < 0 or labels.max() >= term.classes):
        raise UsageError(
            f"--data: '{term.target.name}' has labels from {labels.min()} to {labels.max()}, but "
            f"the model has {term.classes} classes (0 to {term.classes - 1})"
        )
