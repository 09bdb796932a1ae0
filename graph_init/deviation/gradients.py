"""Gradients over a batch in slices, and the weights they are taken at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.autodiff.primal import Primal
from graph_init.engine import memory
from graph_init.engine.choice import Engine
from graph_init.engine.session import Session, open_session
from graph_init.ir import Array, Builder, Program, Value

#: What stands before the parameter's name in the names of outputs.
GRADIENT = "gradient:"

#: The slices of a batch, in order, each of the size for which the graphs were built.
Cut = Callable[[Mapping[str, Array]], Iterator[Mapping[str, Array]]]


def gradient_program(p: Primal) -> Program:
    """(slice, θ) → loss, the extras, and the gradient of every parameter that has one."""
    outputs = [p.loss, *p.extras, *named(p.builder, p.gradients, GRADIENT)]
    return p.builder.program(outputs)


def named(b: Builder, values: Mapping[str, Value], prefix: str) -> list[Value]:
    """The values as outputs with names of their own."""
    outputs = []
    for n, value in values.items():
        named = b.barrier(value)
        named.name = prefix + n
        outputs.append(named)
    return outputs


class Accumulator:
    """Runs a graph over the slices of a batch; its tensor outputs become means over them."""

    def __init__(
        self, session: Session, prefix: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """``shapes``: those of all parameters, of which the graph may give fewer."""
        self._session = session
        self._prefix = prefix
        self._shapes = shapes
        self.names: list[str] = [n for n in shapes if prefix + n in session.outputs]
        self._scratch: dict[str, Array] = {}

    def buffers(self) -> dict[str, Array]:
        """Uninitialised arrays for the result: they take memory when they are written to."""
        return {n: np.empty(self._shapes[n], np.float32) for n in self.names}

    def __call__(
        self,
        feeds: Mapping[str, Array],
        slices: Sequence[Mapping[str, Array]],
        into: Mapping[str, Array],
    ) -> list[dict[str, Array]]:
        """Fill ``into``; the other outputs are returned, one dictionary a slice."""
        others = []
        for k, part in enumerate(slices):
            if k and not self._scratch:
                self._scratch = self.buffers()
            target = self._scratch if k else into
            bound = {self._prefix + n: target[n] for n in self.names}
            found = self._session({**feeds, **part}, bound)
            others.append({n: v for n, v in found.items() if n not in bound})
            if k:
                for n in self.names:
                    into[n][...] += target[n]
        if len(slices) > 1:
            for n in self.names:
                into[n][...] *= np.float32(1 / len(slices))
        return others


class Weights:
    """The parameters times their scales, in arrays that are used again."""

    def __init__(self, values: Mapping[str, Array], scaled: Sequence[str]) -> None:
        self.values: Mapping[str, Array] = values
        self.scaled: list[str] = list(scaled)
        self._buffers: dict[str, Array] = {}

    def set_parameters(self, values: Mapping[str, Array]) -> None:
        """Take other parameters from now on."""
        self.values = {n: values[n] for n in self.values}

    def at(self, scales: Array) -> dict[str, Array]:
        """θ; valid until the next call."""
        theta = dict(self.values)
        for n, s in zip(self.scaled, np.asarray(scales, np.float32), strict=True):
            if s != 1:
                buffer = self._buffers.setdefault(n, np.empty_like(self.values[n]))
                theta[n] = np.multiply(self.values[n], s, out=buffer)
                memory.release(self.values[n])
        return theta


@dataclass(frozen=True)
class Setting:
    """What is evaluated, and how: the weights, the frozen tensors that are fed, the slices."""

    weights: Weights
    fed: Mapping[str, Array]
    cut: Cut
    slices: int
    scale_gradient: bool
    engine: Engine | None = None
    memory_limit: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {n: a.shape for n, a in self.weights.values.items()}

    @property
    def elements(self) -> int:
        """The number N of trainable elements."""
        return sum(a.size for a in self.weights.values.values())

    def require_memory(self, alive: int, copies: int, remedies: list[str]) -> None:
        """For ``copies`` of all weights, and one more if there are slices to add up."""
        buffers = 4 * self.elements * (copies + (self.slices > 1))
        memory.require(memory.estimate(alive, buffers), self.memory_limit, remedies)

    def session(self, program: Program, *, shrinks: bool = False) -> Session:
        session = open_session(program, self.engine, shrinks=shrinks)
        session.fix(self.fed)
        return session


def merge_spreads(parts: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Standard deviation of the whole from (standard deviation, mean) of parts of one size."""
    spreads, means = np.asarray(parts, np.float64).T
    return (float(np.sqrt((spreads**2 + means**2).mean() - means.mean() ** 2)),)
