"""How an initializer is made from tensors, and the nodes that make it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graph_init.frontends import Tensor
from graph_init.frontends.edits import Graph

Order = tuple[int, ...]


class Expression:
    """How an initializer is made from tensors."""

    def tensors(self) -> Iterator[Tensor]:
        raise NotImplementedError

    def emit(self, graph: Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        """Nodes that compute it; ``holders`` has the initializer of each tensor, by ``id``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Expression):
    """All of ``tensor``: reshaped to ``before``, transposed by ``order``, reshaped to ``after``."""

    tensor: Tensor
    before: tuple[int, ...]
    order: Order
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield self.tensor

    def emit(self, graph: Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        at = holders[id(self.tensor)]
        at = _reshaped(graph, at, self.tensor.value.shape, self.before)
        at = _transposed(graph, at, self.order)
        return _reshaped(graph, at, tuple(self.before[k] for k in self.order), self.after)


@dataclass(frozen=True)
class Run:
    """Rows ``start`` to ``stop`` of ``tensor``, whose shape without ones is ``shape``."""

    tensor: Tensor
    shape: tuple[int, ...]
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Rows(Expression):
    """Runs of rows, one behind the other on ``axis`` of ``shape``, then reshaped to ``after``."""

    runs: tuple[Run, ...]
    shape: tuple[int, ...]
    axis: int
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield from dict.fromkeys(run.tensor for run in self.runs)

    def emit(self, graph: Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        rest = (*self.shape[: self.axis], *self.shape[self.axis + 1 :])
        parts = []
        for run in self.runs:
            at = _reshaped(graph, holders[id(run.tensor)], run.tensor.value.shape, run.shape)
            if (run.start, run.stop) != (0, run.shape[run.axis]):
                bounds = [graph.constant([k]) for k in (run.start, run.stop, run.axis)]
                at = graph.op("Slice", at, *bounds)
            order = (run.axis, *(k for k in range(len(run.shape)) if k != run.axis))
            at = _transposed(graph, at, order)
            cut = (run.stop - run.start, *(run.shape[k] for k in order[1:]))
            parts.append(_reshaped(graph, at, cut, (run.stop - run.start, *rest)))
        at = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)
        order = (*range(1, self.axis + 1), 0, *range(self.axis + 1, len(self.shape)))
        at = _transposed(graph, at, order)
        return _reshaped(graph, at, self.shape, self.after)


@dataclass(frozen=True)
class Stack(Expression):
    """Parts of shape ``after[1:]`` on a new first axis."""

    parts: tuple[Expression, ...]
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield from dict.fromkeys(t for part in self.parts for t in part.tensors())

    def emit(self, graph: Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        rest = self.after[1:]
        parts = [
            _reshaped(graph, part.emit(graph, holders), rest, (1, *rest)) for part in self.parts
        ]
        return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)


def _reshaped(graph: Graph, at: ir.Value, now: Sequence[int], then: Sequence[int]) -> ir.Value:
    return at if tuple(now) == tuple(then) else graph.op("Reshape", at, graph.constant(then))


def _transposed(graph: Graph, at: ir.Value, order: Order) -> ir.Value:
    return at if order == tuple(range(len(order))) else graph.op("Transpose", at, perm=order)
