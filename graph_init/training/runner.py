"""Runs of training from given parameters, and their evaluation on held-out data.

A run is dominated by overhead if the graph is small: so all parameters are one vector, an update is
a few nodes over it, and the state goes from one run of the graph to the next through two sets of
buffers that are bound once. Each run is on one thread; several go on at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.autodiff import primal
from graph_init.engine.choice import Engine, choose
from graph_init.engine.session import open_session
from graph_init.ir import Array, Value
from graph_init.problem.forward_graph import Problem
from graph_init.training.optimizers import CORRECTIONS, OPTIMIZERS, RATE, bias_corrections

_STATE = "state:"
_NEW = "new:"
_LOSS = "loss"


def pack(problem: Problem, values: Mapping[str, Array]) -> Array:
    """All trainable parameters as one float32 vector, in the problem's order."""
    return np.concatenate([values[p.name].astype(np.float32).ravel() for p in problem.parameters])


def unpack(problem: Problem, vector: Array) -> dict[str, Array]:
    """Views of the vector by the parameters' names."""
    parts, at = {}, 0
    for p in problem.parameters:
        size = int(np.prod(p.shape))
        parts[p.name] = vector[at : at + size].reshape(p.shape)
        at += size
    return parts


@dataclass(frozen=True)
class Curve:
    """Losses by update, each before it, and the parameters after the last; shorter if diverged."""

    losses: Array
    parameters: Array
    diverged: bool


class Trainer:
    """Trains a problem with one kind of optimiser; may be called from several threads."""

    def __init__(
        self,
        problem: Problem,
        optimizer: str,
        threads: int | None = 1,
        *,
        engine: Engine | None = None,
        admit: Callable[[int], None] | None = None,
    ) -> None:
        """``threads`` of one run; None takes all cores. ``engine``: by default, the CPU's.

        ``admit`` is told the bytes alive at an update's largest moment, beside the state, and may
        refuse them.
        """
        self._optimizer = OPTIMIZERS[optimizer]
        names = [p.name for p in problem.parameters]
        loss = problem.objective.loss.name
        chosen = choose() if engine is None else engine
        p = primal.build(problem.forward, loss, names, packed=True, engine=chosen)
        b = p.builder
        vector = next(v for v in b.inputs if v.name == primal.PACKED_INPUT)
        flat = [
            b.reshape(p.gradients[n], [-1]) if n in p.gradients else _zeros(p, p.theta[n])
            for n in names
        ]
        gradient = b.op("Concat", *flat, axis=0) if len(flat) > 1 else flat[0]
        count = self._optimizer.states
        state = tuple(b.input(f"{_STATE}{k}", vector.dtype, vector.dims) for k in range(count))
        updated = self._optimizer.update(b, vector, gradient, state)
        outputs = [b.barrier(v) for v in (p.loss, *updated)]
        for output, name in zip(outputs, [_LOSS, *_names(_NEW, count)], strict=True):
            output.name = name
        program = b.program(outputs)
        if admit is not None:
            admit(program.peak)
        self._session = open_session(program, chosen, threads=threads)
        self._session.fix(problem.fed)
        self._corrected = CORRECTIONS in self._session.inputs

    def __call__(
        self, start: Array, batches: Iterator[Mapping[str, Array]], updates: int, rate: float
    ) -> Curve:
        """``updates`` updates from the vector ``start``, one batch each; stops if not finite."""
        count = self._optimizer.states
        here = [start.astype(np.float32), *(np.zeros_like(start) for _ in range(count))]
        there = [np.empty_like(here[0]) for _ in here]
        loss = np.zeros((), np.float32)
        given = [primal.PACKED_INPUT, *(f"{_STATE}{k}" for k in range(count))]
        taken = _names(_NEW, count)
        passes = [
            self._session.bind(
                dict(zip(given, old, strict=True)),
                {_LOSS: loss, **dict(zip(taken, new, strict=True))},
            )
            for old, new in ((here, there), (there, here))
        ]
        losses = np.full(updates, np.nan, np.float32)
        rate_array = np.asarray(rate, np.float32)
        done = 0
        for k in range(updates):
            feeds = {**next(batches), RATE: rate_array}
            if self._corrected:
                feeds[CORRECTIONS] = bias_corrections(k + 1)
            passes[k % 2](feeds)
            losses[k] = loss
            if not np.isfinite(loss):
                return Curve(losses[: k + 1], (here, there)[k % 2][0], True)
            done = k + 1
        end = (here, there)[done % 2][0]
        return Curve(losses, end, not bool(np.isfinite(end).all()))


def _zeros(p: primal.Primal, like: Value) -> Value:
    b = p.builder
    return b.op("Expand", b.scalar(0.0, like), b.ints([like.size]))


def _names(prefix: str, states: int) -> list[str]:
    return [f"{prefix}{k}" for k in range(states + 1)]


@dataclass(frozen=True)
class Score:
    """Loss and, for labels that can be right or wrong, their share that is predicted."""

    loss: float
    accuracy: float | None


class Scorer:
    """The forward pass on held-out data, in batches of the problem's size."""

    def __init__(
        self,
        problem: Problem,
        arrays: Mapping[str, Array],
        threads: int = 1,
        *,
        whole: Mapping[str, Array] = {},
        engine: Engine | None = None,
    ) -> None:
        """``arrays`` hold a multiple of the problem's batch size of rows.

        Each batch has ``whole`` beside its rows.
        """
        self._problem = problem
        b = problem.builder
        self._terms = problem.objective.terms
        predictions = [b.barrier(t.prediction) for t in self._terms]
        for k, value in enumerate(predictions):
            value.name = f"prediction:{k}"
        loss = b.barrier(problem.objective.loss)
        loss.name = _LOSS
        self._session = open_session(b.program([loss, *predictions]), engine, threads=threads)
        self._session.fix({**problem.fed, **whole})
        self._batches = list(in_batches(arrays, problem.batch_size))

    @property
    def worst(self) -> Score:
        """That of parameters that are not finite."""
        return Score(float("inf"), 0.0 if any(t.kind in _HITS for t in self._terms) else None)

    def __call__(self, vector: Array) -> Score:
        """The score of the parameters in ``vector``."""
        parameters = unpack(self._problem, vector)
        losses, right, labels = [], 0, 0
        for batch in self._batches:
            found = self._session({**parameters, **batch})
            losses.append(float(found[_LOSS]))
            for k, term in enumerate(self._terms):
                hits = _HITS.get(term.kind)
                if hits is not None:
                    target = batch[term.target.name]
                    right += int(hits(found[f"prediction:{k}"], target).sum())
                    labels += target.size
        return Score(float(np.mean(losses)), right / labels if labels else None)


#: Kind of loss → which labels a prediction (logits) gets right.
_HITS: Mapping[str, Callable[[Array, Array], Array]] = {
    "cross-entropy": lambda logits, target: logits.argmax(-1) == target,
    "binary-cross-entropy": lambda logits, target: (logits > 0) == (target > 0.5),
}


def in_batches(arrays: Mapping[str, Array], size: int) -> Iterator[dict[str, Array]]:
    """Consecutive batches of ``size`` rows; what is left over is left out."""
    rows = len(next(iter(arrays.values())))
    for at in range(0, rows - size + 1, size):
        yield {n: a[at : at + size] for n, a in arrays.items()}


def epochs(arrays: Mapping[str, Array], size: int, seed: int) -> Iterator[dict[str, Array]]:
    """Batches without end: every epoch in an order of its own, the last rows left out."""
    rows = len(next(iter(arrays.values())))
    number = 0
    while True:
        order = np.random.default_rng([seed, number]).permutation(rows)
        for chosen in _chunks(order, size):
            yield {n: a[chosen] for n, a in arrays.items()}
        number += 1


def _chunks(order: Sequence[int] | Array, size: int) -> Iterator[Array]:
    for at in range(0, len(order) - size + 1, size):
        yield np.asarray(order[at : at + size])
