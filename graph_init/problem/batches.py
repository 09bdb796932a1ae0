"""Describes the arrays of a batch, and checks the user's arrays against that."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import helper

from graph_init.engine import memory
from graph_init.errors import UsageError
from graph_init.ir import Array, Builder, Shape, Value
from graph_init.problem.loss import TARGET, Objective, Term

#: Bytes of an array that are checked at once.
_LOOKED_AT = 1 << 26

#: Through these an index stays an index.
_INDEX_VIEWS = frozenset("Reshape Cast Identity Transpose Slice Concat Expand".split())


def index_ranges(b: Builder, inputs: Sequence[Value]) -> dict[str, int]:
    """For each integer input that indexes a table: the number of rows of the smallest one.

    Indices of places that something is written to are not among them.
    """
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


def written_places(b: Builder, inputs: Sequence[Value]) -> dict[str, int]:
    """Lists of integers that say where something is added up: by name, the number of places."""
    source: dict[int, Value] = {id(v): v for v in inputs if not v.is_float and v.rank == 1}
    found: dict[str, int] = {}
    for node in b.nodes:
        first = node.inputs[0] if node.inputs else None
        if node.op in ("ScatterElements", "ScatterND"):
            origin = source.get(id(node.inputs[1]))
            if origin is not None and first is not None and first.shape:
                size = first.dims[node.attrs.get("axis", 0)]
                found[origin.name] = min(size, found.get(origin.name, size))
        # Where a place counts from the end, another is taken: the third input is the place itself.
        through = node.inputs[2] if node.op == "Where" else first
        if node.op in _INDEX_VIEWS | {"Where"} and id(through) in source:
            source.update((id(v), source[id(through)]) for v in node.outputs if v is not None)
    return found


@dataclass(frozen=True)
class Layout:
    """What a batch consists of, and how it is cut.

    ``inputs`` and ``objective`` have the shapes of one of ``count`` slices; those inputs of which
    each row has its own part are named in ``batched``. ``positive`` are inputs that are drawn
    positive, by name, with the reason, and ``written`` the numbers of :func:`written_places`.
    """

    inputs: Sequence[Value]
    objective: Objective
    batched: frozenset[str]
    count: int = 1
    positive: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)

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


def rename_target(arrays: Mapping[str, Array], terms: Sequence[Term]) -> dict[str, Array]:
    """``arrays`` with the one term's ``target:OUTPUT`` called ``target``."""
    long = f"{TARGET}:{terms[0].output}"
    if len(terms) > 1 or TARGET in arrays or long not in arrays:
        return dict(arrays)
    return {TARGET if k == long else k: v for k, v in arrays.items()}


def check_arrays(
    arrays: Mapping[str, Array],
    inputs: Sequence[Value],
    objective: Objective,
    size: int,
    *,
    whole: Container[str] = frozenset(),
) -> dict[str, Array]:
    """``arrays`` in the graph's types, one row count, with labels in range; else UsageError.

    Those in ``whole`` have no rows.
    """
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
        array = np.asarray(arrays[name])
        expected: Shape = value.dims
        if expected and not array.ndim:
            raise UsageError(f"--data: '{name}' is a single number; the model wants {expected}")
        if name in whole or not expected:
            result[name] = _converted(name, _as_whole(name, array, expected), value)
            continue
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
        result[name] = _converted(name, array, value)
    for term in objective.terms:
        _check_labels(term, result[term.target.name])
    if len({a.shape[0] for n, a in result.items() if n not in whole and a.ndim}) > 1:
        raise UsageError("--data: the arrays have different numbers of rows")
    return result


def _as_whole(name: str, array: Array, expected: Shape) -> Array:
    if array.shape == expected or (not expected and array.size == 1):
        return array.reshape(expected)
    wanted = expected or "a single number"
    raise UsageError(f"--data: '{name}' has shape {array.shape}, but the model wants {wanted}")


def _converted(name: str, array: Array, value: Value) -> Array:
    """``array`` in the type that the graph wants, which must hold what is in it."""
    wanted = helper.tensor_dtype_to_np_dtype(value.dtype)
    if array.dtype.kind not in _NUMBERS and array.dtype.name not in _NARROW:
        raise UsageError(
            f"--data: '{name}' has elements of type {array.dtype}; the model wants {wanted}"
        )
    result = array
    if array.dtype != wanted:
        memory.require(
            array.size * wanted.itemsize, None, [f"arrays of type {wanted}", "fewer rows"]
        )
        with np.errstate(all="ignore"):
            result = array.astype(wanted)
    if value.is_float:
        _check_finite(name, result)
    elif array.dtype.kind == "f" and any((result[p] != array[p]).any() for p in _parts(array)):
        raise UsageError(
            f"--data: '{name}' has fractions or NaN, but the model wants {wanted}; labels are "
            "class numbers"
        )
    return result


def _parts(array: Array) -> Iterator[slice | tuple[()]]:
    """Indices of rows that are looked at together: a mapped array need not fit into memory."""
    if not array.ndim:
        yield ()
        return
    rows = max(1, _LOOKED_AT * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)
        memory.release(array[start : start + rows])


#: Kinds of numpy's element types that are numbers, and names of those that numpy has from others.
_NUMBERS, _NARROW = "biuf", frozenset({"bfloat16"})


def _check_finite(name: str, array: Array) -> None:
    """UsageError that says in which row the first NaN or +∞ is; −∞ is what masks are made of."""
    count, first = 0, None
    for part in _parts(array):
        bad = np.isnan(array[part]) | np.isposinf(array[part])
        if first is None and bad.any():
            row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1))) if array.ndim else 0
            first = row + (part.start if isinstance(part, slice) else 0)
        count += int(bad.sum())
    if count:
        raise UsageError(
            f"--data: '{name}' holds {count} NaN or infinite numbers of {array.size} "
            f"(the first in row {first}); the model computes in float32"
        )


def _check_labels(term: Term, labels: Array) -> None:
    if term.classes is not None and (labels.min() < 0 or labels.max() >= term.classes):
        raise UsageError(
            f"--data: '{term.target.name}' has labels from {labels.min()} to {labels.max()}, but "
            f"the model has {term.classes} classes (0 to {term.classes - 1})"
        )
