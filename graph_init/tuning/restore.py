"""The tuner that restores the signal, and tries.

Two states are compared with the start: every layer's output has a std of 1 on a random batch
(:data:`SATURATING` before an activation that saturates), as LSUV has it but with the directions of
the weights as they are, and the last layer's one of :data:`OUTPUT_STDS`. Each is trained for a few
updates of SGD with momentum on one batch, at several learning rates; the one that learns that batch
best is taken. A state in which more is cut off than in the start is not (`deviation/collapse.py`).
Where the trials cannot tell, the start is kept if its output has a sound std and, in a network
that can saturate, no other state has a clearly lower gradient deviation.
If none of these states is alive (numbers overflow, or the signal dies before it can be measured),
the same is done once more from weights of std 1/√fan-in.
The experiments that led to these choices are described in docs/tuning.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from graph_init.analysis import Parameter
from graph_init.deviation import collapse
from graph_init.deviation.evaluator import Evaluator
from graph_init.deviation.result import DeviationResult, finite
from graph_init.engine import memory
from graph_init.engine.session import Session, open_session
from graph_init.errors import NumericalError
from graph_init.init import lsuv
from graph_init.init.lsuv import UnitVariance
from graph_init.ir import Array
from graph_init.options import Restore
from graph_init.problem.streams import Source
from graph_init.problem.workload import Workload
from graph_init.training import runner
from graph_init.tuning.loop import HistoryEntry, OnProgress, OnStep, TuningResult

#: Standard deviations of the last layer's output that are tried.
OUTPUT_STDS = (0.3, 1.0)
#: Activations whose slope is largest at zero, and the std that is given to what they read: at
#: 1 a deep network of them makes chaos of its input (docs/research/alternatives.md).
_SATURATE = frozenset({"Tanh", "Sigmoid", "HardSigmoid", "Softsign", "Erf"})
SATURATING = 0.5
#: Learning rates of the trials, and those that are tried in turn until one is stable: the wider the
#: network, the smaller they have to be.
RATES = (0.3, 0.1, 0.03, 0.01)
LOWER_RATES = (0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
OPTIMIZER = "sgd"
#: A trial's loss is the mean of this many updates, the last ones.
_LAST = 3
#: At a stable rate the loss stays below this many times the first.
_STABLE = 2.0
#: States whose trials end below this share of the lowest first loss have all learnt the batch.
_LEARNT = 0.005
#: Another state than the start must end at this share of its loss.
_CLEARLY = 0.98
#: Trials cannot tell states apart whose losses differ by less: on a batch of a single row, which
#: every network can learn, or on random images, all alike once they have been averaged.
_ALIKE = 1.1
#: Saturated networks learn a batch, but little that holds for others: there the gradient deviation
#: decides between states that have all learnt it, and another than the start has to be below this
#: share of its.
_CALMER = 0.8
#: A state whose loss begins at more than this many times the start's is not taken. Where a layer's
#: output hardly varies about a large mean, a std of 1 makes the mean hundreds.
_EXPLODED = 100.0
#: Biases are not scaled, so that a second pass is needed where there are any; a third adds nothing.
_PASSES = 2
#: Kinds whose std no forward pass sets, and what theirs becomes: 1/√fan-in.
_BY_FAN_IN = frozenset({"recurrent"})

_START = "start"
#: Numbers of the batches to search on.
_RESTORATION_BATCH, _TRIAL_BATCH = 0, 1


class Restorer:
    """Tunes one workload, from any values."""

    def __init__(
        self,
        settings: Restore,
        run: Evaluator,
        workload: Workload,
        parameters: Sequence[Parameter],
        saturating: float = SATURATING,
    ) -> None:
        """``saturating``: std before an activation that saturates."""
        self._updates = settings.updates
        self._run, self._workload, self._parameters = run, workload, parameters
        self._stds = {p.name: saturating for p in parameters if p.gain_activation in _SATURATE}
        self._saturates = bool(self._stds) or any(p.kind in _BY_FAN_IN for p in parameters)

    def __call__(
        self,
        values: Mapping[str, Array],
        source: Source,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
    ) -> TuningResult:
        """Scales for ``values`` from the trials; without updates they stay 1.

        The history has an entry for each state: its gradient deviation, and the loss that its best
        trial ended with (None if no trial stayed finite). ``on_progress`` is told how many trials
        are done, and of how many. Ctrl-C keeps the best so far. Raises
        NumericalError if the start's numbers and those of all other states are not finite.
        """
        ones = np.ones(len(self._run.scaled))
        if not self._updates:
            return TuningResult(ones, 0, [], False)
        history: list[HistoryEntry] = []
        found: list[Candidate] = []
        interrupted = False
        try:
            with np.errstate(all="ignore"):
                for name, scales in self._states(values, source, found):
                    after = None if on_progress is None else _Progress(on_progress, len(found))
                    tried, measured = self.tried(values, scales, source, after)
                    history.append(_entry(len(found), name, measured, tried))
                    found.append(tried)
                    if on_step is not None:
                        on_step(history[-1])
        except KeyboardInterrupt:
            interrupted = True
        if not interrupted and not any(np.isfinite(t.last) for t in found):
            batch = source.select.batch(0)
            start = self._run.problem_of(self._run.step(batch, ones), batch, ones)
            raise NumericalError(
                "the numbers are not finite, neither with the weights at the start nor with the "
                "signal restored; "
                + (f"at the start {start.words}" if start else "every trial diverges")
                + f"; {(start and start.remedy) or 'try --scheme he'}"
            )
        best = self.choose([t for t in found if np.isfinite(t.last)])
        place = next((k for k, t in enumerate(found) if t is best), 0)
        return TuningResult(ones if best is None else best.scales, place, history, interrupted)

    def _states(
        self, values: Mapping[str, Array], source: Source, found: Sequence[Candidate]
    ) -> Iterator[tuple[str, Array]]:
        """The candidates; and others, if all that has been ``found`` of these is dead."""
        yield from self.candidates(values, source)
        if not any(t.alive for t in found):
            base = self._by_fan_in(values)
            for name, scales in self._restored_states(values, source, base):
                yield f"{name}, from 1/√fan-in", scales

    def _by_fan_in(self, values: Mapping[str, Array]) -> dict[str, float]:
        """Factors that give every scaled tensor a std of 1/√fan-in; 1 for zeros."""
        factors = {}
        for p in self._parameters:
            if p.name in self._run.scaled:
                size = _root_mean_square(values[p.name])
                if np.isfinite(size) and size:
                    factors[p.name] = float(np.float32(1 / (size * np.sqrt(p.fan_in or 1))))
        return factors

    def candidates(self, values: Mapping[str, Array], source: Source) -> list[tuple[str, Array]]:
        """The start, and the states with the signal restored that differ from it."""
        start = (_START, np.ones(len(self._run.scaled)))
        return [start, *self._restored_states(values, source)]

    def _restored_states(
        self, values: Mapping[str, Array], source: Source, base: Mapping[str, float] | None = None
    ) -> list[tuple[str, Array]]:
        names = self._run.scaled
        restored, heads = self.restored(values, source, base)
        states = []
        for std in OUTPUT_STDS if heads else (1.0,):
            factors = {n: f * (std if n in heads else 1.0) for n, f in restored.items()}
            scales = np.array([factors.get(n, 1.0) for n in names])
            if np.isfinite(scales).all() and (scales > 0).all():
                states.append((f"signal restored, output at {std:g}", scales))
        return states

    @cached_property
    def _restoration(self) -> tuple[Any, Session, frozenset[str]] | None:
        visitor = UnitVariance(self._parameters, tables=True, stds=self._stds)
        problem = self._workload.rebuild(visitor)
        factors = lsuv.reached(problem, visitor.factors)
        if not factors:
            return None
        program = problem.builder.program(list(factors.values()))
        session = open_session(program, self._workload.engine)
        names = tuple(factors)
        return (problem, names), session, frozenset(set(names) - visitor.inner)

    def restored(
        self, values: Mapping[str, Array], source: Source, base: Mapping[str, float] | None = None
    ) -> tuple[dict[str, float], frozenset[str]]:
        """Factors that restore the signal, found from the ``base`` factors; and the last layers."""
        factors = dict(base or {})
        for p in self._parameters:
            if p.name in self._run.scaled and p.kind in _BY_FAN_IN and p.fan_in:
                size = _root_mean_square(values[p.name])
                if size:
                    factors[p.name] = 1 / (size * np.sqrt(p.fan_in))
        if self._restoration is None:
            return factors, frozenset()
        (problem, names), session, heads = self._restoration
        batch = next(self._workload.layout.slices(source.search.batch(_RESTORATION_BATCH)))
        for _ in range(_PASSES):
            own = {
                p.name: values[p.name] * np.float32(factors.get(p.name, 1.0))
                for p in problem.parameters
            }
            found = session({**problem.fed, **own, **batch}).values()
            for n, f in zip(names, found, strict=True):
                factors[n] = factors.get(n, 1.0) * float(f)
        return factors, heads

    def tried(
        self,
        values: Mapping[str, Array],
        scales: Array,
        source: Source,
        after: Callable[[int], None] | None = None,
    ) -> tuple[Candidate, DeviationResult]:
        """The state's trial, and what is measured of it on a batch common to all."""
        found = self.trial(values, scales, source, after)
        measured = self._run.step(source.select.batch(0), scales)
        deviation = float(np.nan_to_num(measured.gradient_deviation, nan=np.inf))
        problem = self._run.problem
        sizes = [math.prod(p.shape) for p in problem.parameters]
        shares = (measured.vanished / sizes).tolist()
        signs = collapse.signs(problem.parameters, shares, self._run.output_std(measured))
        return replace(found, signs=signs, deviation=deviation), measured

    def choose(self, tried: Sequence[Candidate], saturates: bool | None = None) -> Candidate | None:
        """The state that is taken; ``saturates`` says of another network whether it can."""
        return _choose(tried, self._saturates if saturates is None else saturates)

    @cached_property
    def _trainer(self) -> runner.Trainer:
        problem = self._workload.problem
        count = sum(int(np.prod(p.shape)) for p in problem.parameters)

        def admit(alive: int) -> None:
            memory.require(
                memory.estimate(alive, 4 * count * _VECTORS),
                self._workload.options.memory_limit,
                [memory.SLICES, memory.FEWER_ROWS, "--tuner metainit", "--updates 0"],
            )

        engine = self._workload.engine
        return runner.Trainer(problem, OPTIMIZER, threads=None, engine=engine, admit=admit)

    def ready(self) -> None:
        """Open what the trials run in; MemoryLimitError if they do not fit."""
        if self._updates:
            self._trainer  # noqa: B018

    def trial(
        self,
        values: Mapping[str, Array],
        scales: Array,
        source: Source,
        after: Callable[[int], None] | None = None,
    ) -> Candidate:
        """Train from ``scales`` at every learning rate, and lower ones until one is stable.

        ``after`` is told the number of rates that are done.
        """
        batch = next(self._workload.layout.slices(source.search.batch(_TRIAL_BATCH)))
        factors = dict(zip(self._run.scaled, scales, strict=True))
        start = runner.pack(
            self._workload.problem,
            {n: values[n] * np.float32(factors.get(n, 1.0)) for n in self._run.names},
        )
        first, last = np.inf, np.inf
        for done, rate in enumerate((*RATES, *LOWER_RATES), 1):
            curve = self._trainer(start, itertools.repeat(batch), self._updates, rate)
            first = float(curve.losses[0])
            if not curve.diverged:
                last = min(last, float(np.mean(curve.losses[-_LAST:])))
            if after is not None:
                after(done)
            stable = not curve.diverged and curve.losses.max() < _STABLE * first
            if not np.isfinite(first) or (stable and rate <= RATES[-1]):
                break
        return Candidate(scales, first, last)


#: Vectors of all parameters that a trial keeps beside what an update makes: two of the parameters
#: and two of the optimiser's state, the start, and what it was packed from.
_VECTORS = 6


class _Progress:
    """Tells the trials that are done, and of how many, from those of one state."""

    def __init__(self, tell: Callable[[str, int, int], None], states: int) -> None:
        self._tell, self._before = tell, states * len(RATES)
        # Other states follow where all of these are dead.
        self._total = (max(1 + len(OUTPUT_STDS), states + 1)) * len(RATES)
        self(0)

    def __call__(self, done: int) -> None:
        self._tell("trying", self._before + min(done, len(RATES)), self._total)


@dataclass(frozen=True)
class Candidate:
    """A state's loss on the batch of the trials, first and after the best of them."""

    scales: Array
    first: float
    last: float
    signs: collapse.Signs = collapse.Signs(0.0, (), 1.0)
    deviation: float = float("inf")  # that of the gradient

    @property
    def alive(self) -> bool:
        """Whether it can learn at all: some trial stays finite, and the output is not constant."""
        output_std = self.signs.output_std
        return bool(
            np.isfinite(self.last) and not collapse.dead(output_std) and output_std != np.inf
        )

    def lost_beside(self, start: Candidate) -> bool:
        """Whether it has exploded, or more of it is cut off, whatever its trials ended with."""
        if not np.isfinite(start.deviation):
            return False
        more = self.signs.count > start.signs.count or not np.isfinite(self.deviation)
        return more or self.first > _EXPLODED * start.first


def _choose(tried: Sequence[Candidate], saturates: bool) -> Candidate | None:
    """The state that learns best; the first of them, the start, unless another clearly does."""
    if not tried:
        return None
    learnt = _LEARNT * min(t.first for t in tried)
    start, *restored = tried
    others = [t for t in restored if not t.lost_beside(start)]
    sound = collapse.sound(start.signs.output_std)
    if np.isnan(start.signs.output_std) and start.last <= learnt:
        return start  # every state can learn a single number
    calm = [t for t in others if t.last <= learnt]
    if saturates and calm and (start.last > learnt or sound):
        calmest = min(calm, key=lambda t: t.deviation)
        keep = start.last <= learnt and not (calmest.deviation < _CALMER * start.deviation)
        return start if keep else calmest
    bar = max(start.last, learnt)
    best = min(others, key=lambda t: max(t.last, learnt), default=start)
    return best if max(best.last, learnt) < (_CLEARLY if sound else _ALIKE) * bar else start


def _entry(number: int, state: str, measured: DeviationResult, tried: Candidate) -> HistoryEntry:
    return HistoryEntry(
        step=number,
        state=state,
        gradient_deviation=finite(measured.gradient_deviation),
        loss=finite(measured.loss),
        gradient_norm=finite(measured.gradient_norm),
        vanished_fraction=finite(measured.vanished_fraction),
        trial_loss=finite(tried.last),
    )


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
