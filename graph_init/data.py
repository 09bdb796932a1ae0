"""Batches: random ones from the graph's own signature, and real ones from ``.npz`` files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper

from graph_init.builder import Array, Builder, Shape, Value
from graph_init.errors import UsageError
from graph_init.objective import Objective, random_target

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
        cut = value is self.objective.target or value.name in self.batched
        return (value.dims[0] * self.count, *value.dims[1:]) if cut and value.rank else value.dims

    def slices(self, batch: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """The slices of a whole batch, in order; arrays that are not batched are in each."""
        cut = self.batched | {self.objective.target.name}
        for k in range(self.count):
            yield {
                n: a[k * len(a) // self.count : (k + 1) * len(a) // self.count]
                if n in cut and a.ndim
                else a
                for n, a in batch.items()
            }


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
        target = layout.objective.target
        feeds[target.name] = random_target(layout.objective, layout.shape(target), rng)
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


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an ``.npz`` file; pickles are refused."""
    file = Path(path)
    if not file.exists():
        raise UsageError(f"--data: there is no file '{file}'")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(f"--data: '{file}' is not a readable .npz file: {error}") from error


class FixedBatches:
    """Real data: ``arrays`` keyed by input name, plus ``target``; slices of ``size`` rows."""

    def __init__(self, arrays: Mapping[str, Array], size: int, seed: int) -> None:
        self._arrays = dict(arrays)
        self._size = size
        self._seed = seed
        self._rows = next(iter(arrays.values())).shape[0]

    def batch(self, number: int) -> dict[str, Array]:
        """Rows drawn without replacement; all of them in order when the batch is the whole file."""
        if self._rows == self._size:
            return dict(self._arrays)
        rng = np.random.default_rng([self._seed, 0 if number >= 0 else 1, abs(number)])
        rows = rng.choice(self._rows, self._size, replace=False)
        return {k: v[rows] for k, v in self._arrays.items()}


def check_arrays(
    arrays: Mapping[str, Array], inputs: Sequence[Value], objective: Objective, size: int
) -> dict[str, Array]:
    """``arrays`` in the graph's types, one row count, with labels in range; else UsageError."""
    wanted = {v.name: v for v in [*inputs, objective.target]}
    missing = [n for n in wanted if n not in arrays]
    if missing:
        raise UsageError(
            f"--data lacks the array '{missing[0]}'; it needs {', '.join(wanted)} and has "
            f"{', '.join(arrays) or 'nothing'}"
        )
    result: dict[str, Array] = {}
    for name, value in wanted.items():
        array = np.asarray(arrays[name]).astype(helper.tensor_dtype_to_np_dtype(value.dtype))
        expected: Shape = value.dims
        if value is objective.target and array.shape != expected and array[:1].size == 1:
            array = array.reshape(array.shape[0], *expected[1:])
        if array.shape[1:] != expected[1:] or array.shape[0] < size:
            raise UsageError(
                f"--data: '{name}' has shape {array.shape}, but the model wants {expected}"
            )
        result[name] = array
    if objective.classes is not None:
        labels = result[objective.target.name]
        if labels.min() < 0 or labels.max() >= objective.classes:
            raise UsageError(
                f"--data: 'target' has labels from {labels.min()} to {labels.max()}, but the model "
                f"has {objective.classes} classes (0 to {objective.classes - 1})"
            )
    if len({a.shape[0] for a in result.values()}) > 1:
        raise UsageError("--data: the arrays have different numbers of rows")
    return result
