"""Finds the first node, weight or data with numbers that are not finite, by one forward pass.

The forward graph is built again with the counts of NaN and of infinities in every node's output as
its outputs. An infinity that a node is given it may hand on (masks are made of them); a node is to
blame if it makes one, or makes NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from graph_init.engine.session import open_session
from graph_init.ir import FLOATS, Array, Builder, Value
from graph_init.problem.passes import GraphPass, LoweredNode
from graph_init.problem.workload import Workload


@dataclass(frozen=True)
class Finding:
    """What is not finite, and what would help; None where that is a matter of scale."""

    words: str
    remedy: str | None = None


@dataclass(frozen=True)
class _Counts:
    """Elements of a tensor, and how many of them are NaN, +∞ and −∞."""

    elements: int
    nan: int
    above: int
    below: int

    @property
    def infinite(self) -> int:
        return self.above + self.below

    def __str__(self) -> str:
        kinds = ((self.nan, "NaN"), (self.infinite, "infinite"))
        found = " and ".join(f"{n} {kind}" for n, kind in kinds if n)
        return f"{found} of {self.elements} elements"


def _count(array: Array) -> _Counts:
    if array.dtype.kind != "f":
        return _Counts(array.size, 0, 0, 0)
    below = int(np.isneginf(array).sum())
    infinite = int(np.isinf(array).sum())
    return _Counts(array.size, int(np.isnan(array).sum()), infinite - below, below)


class _Watch(GraphPass):
    """Notes the nodes, and what every one of them reads and makes.

    It needs nothing and leaves the graph as it is. ``nodes`` are those of the model, in order, and
    ``values`` what each name stands for, of those that are floats.
    """

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.nodes: list[onnx.NodeProto] = []

    def after(self, lowered: LoweredNode) -> None:
        self.nodes.append(lowered.node)
        for name in [*lowered.node.input, *lowered.node.output]:
            value = lowered.values.get(name)
            if value is not None and value.dtype in FLOATS:
                self.values[name] = value


def forward(workload: Workload, values: Mapping[str, Array], batch: Mapping[str, Array]) -> Finding:
    """Why the loss is not finite: the first data, parameter or node.

    ``values`` holds the trainable parameters, ``batch`` a whole batch.
    """
    for name, array in batch.items():
        if (counts := _count(array)).nan or counts.above:  # masks hold −∞
            return Finding(f"'{name}' of the batch holds {counts}", "remove them from the data")
    for p in workload.problem.parameters:
        if (counts := _count(values[p.name])).nan or counts.infinite:
            remedy = (
                "fill it with --scheme he" if p.scalable else "give it finite values in the model"
            )
            return Finding(f"parameter '{p.name}' holds {counts}", remedy)
    watch = _Watch()
    problem = workload.rebuild(watch)
    b = problem.builder
    needed = {id(o) for node in b.needed([problem.objective.loss]) for o in node.outputs}
    watched = {n: v for n, v in watch.values.items() if id(v) in needed}
    different = {id(v): v for v in watched.values()}
    place = {key: k for k, key in enumerate(different)}
    outputs = [b.barrier(_counted(b, v)) for v in different.values()]
    predictions = [b.barrier(t.prediction) for t in problem.objective.terms]
    session = open_session(b.program([*outputs, *predictions]), workload.engine)
    fixed = {n: _count(v.const) for n, v in watch.values.items() if v.const is not None}
    fixed |= {n: _count(array) for n, array in problem.fed.items()}
    for name, counts in fixed.items():
        if counts.nan:
            return Finding(f"tensor '{name}' holds {counts}", "give it finite values in the model")
    largest = 0.0
    for part in workload.layout.slices(batch):
        found = list(session({**problem.fed, **values, **part}).values())
        ends = found[-len(predictions) :]
        largest = max(largest, *(float(np.abs(a).max(initial=0)) for a in ends))
        seen = fixed | {n: _count(array) for n, array in part.items()}
        for name, value in watched.items():
            seen[name] = _Counts(value.size, *(int(c) for c in found[place[id(value)]]))
        for node, name, counts, made in _walk(watch.nodes, seen):
            if made:
                return Finding(
                    f"node '{node.name}' ({node.op_type}) is the first whose output is not finite: "
                    f"'{name}' holds {counts}"
                )
    return Finding(
        f"every node's output is finite, but the loss overflows: predictions reach {largest:.2g}"
    )


def _counted(b: Builder, value: Value) -> Value:
    """The numbers of NaN, +∞ and −∞ in ``value``, shape (3,)."""
    tests = (
        b.op("IsNaN", value),
        b.op("IsInf", value, detect_negative=0),
        b.op("IsInf", value, detect_positive=0),
    )
    sums = [b.sum(b.cast(t, TensorProto.FLOAT), keepdims=False) for t in tests]
    return b.op("Concat", *(b.reshape(s, [1]) for s in sums), axis=0)


def _walk(
    nodes: Sequence[onnx.NodeProto], seen: Mapping[str, _Counts]
) -> Iterator[tuple[onnx.NodeProto, str, _Counts, bool]]:
    """Every output with something in it that is not finite, and whether its node has made that."""
    for node in nodes:
        given = [seen[n] for n in node.input if n in seen]
        for name in node.output:
            counts = seen.get(name)
            if counts is not None and (counts.nan or counts.infinite):
                new_nan = counts.nan and not any(g.nan for g in given)
                new_infinity = counts.infinite and not any(g.infinite for g in given)
                yield node, name, counts, bool(new_nan or new_infinity)


def backward(workload: Workload, bad: Sequence[str]) -> str:
    """Of the parameters in ``bad``, that which the backward pass reaches first, and their number.

    It is the last one that the forward pass reads.
    """
    watch = _Watch()
    workload.rebuild(watch)
    first: dict[str, int] = {}
    for place, node in enumerate(watch.nodes):
        for name in node.input:
            first.setdefault(name, place)
    name = max(bad, key=lambda n: first.get(n, -1))
    others = len(bad) - 1
    more = f" (the first one that the backward pass reaches) and of {others} more" if others else ""
    return f"'{name}'{more}"
