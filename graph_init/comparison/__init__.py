"""Short training runs from several initial states, to choose among them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graph_init.analysis import Parameter
from graph_init.comparison.plan import DEFAULT_SCHEMES, Plan
from graph_init.comparison.result import Comparison, Row, Run, State
from graph_init.deviation import evaluator as evaluation
from graph_init.errors import NumericalError, UsageError
from graph_init.init import initial_state, schemes
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.options import InitialWeights, Options
from graph_init.problem import batches, data_files, streams, workload
from graph_init.problem.forward_graph import initial_values
from graph_init.training import runner
from graph_init.tuning import registry
from graph_init.version import __version__

__all__ = ["DEFAULT_SCHEMES", "Comparison", "Plan", "Row", "Run", "State", "compare"]

#: Held-out batches have at most this many rows.
_SCORED_ROWS = 512
#: A run's final loss is the mean over this share of its updates, the last ones.
_FINAL = 0.1

#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Subject:
    """What all runs have in common."""

    loaded: LoadedModel
    parameters: Sequence[Parameter]
    options: Options
    plan: Plan
    report: Progress


def compare(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    options: Options,
    plan: Plan,
    *,
    test: data_files.Data | None = None,
    on_progress: Progress | None = None,
) -> Comparison:
    """Train from every state of ``plan``; ``options.data`` are the rows to train on.

    ``test`` are those to score on; without it a share of the rows is held out.
    """
    plan.check()
    if not plan.schemes:
        constant = schemes.constant_weights(parameters, initial_values(loaded))
        plan = replace(plan, schemes=[s for s in DEFAULT_SCHEMES if s != "keep" or not constant])
    if options.data is None or isinstance(options.data, workload.Given):
        raise UsageError("--data: a comparison needs rows to train on")
    subject = _Subject(
        loaded=loaded,
        parameters=parameters,
        options=options,
        plan=plan,
        report=on_progress or (lambda *_: None),
    )
    train, scored = _split(
        loaded, _rows(options.data), test, held_out=plan.held_out, seed=options.seed
    )
    # A scheme also says what tensors are that no state changes: the same in all states.
    filling = InitialWeights(next((s for s in plan.schemes if s != "keep"), "keep"))
    base = initial_state.fill(
        loaded,
        parameters,
        filling,
        seed=options.seed,
        prepare=lambda v: workload.build(loaded, parameters, v, replace(options, data=train)),
    )
    load, values = base.workload, base.values
    states, vectors = _states(subject, load, values)
    held_out = _held_out(subject, load, values, scored)
    runs = _train(subject, load, held_out, states, vectors=vectors)
    return Comparison(
        states=states,
        runs=runs,
        settings={
            "optimizers": list(plan.optimizers),
            "learning_rates": {o: list(plan.rates(o)) for o in plan.optimizers},
            "updates": plan.updates,
            "seeds": plan.seeds,
            "batch_size": load.problem.batch_size,
            "batch_norm": options.batch_norm,
            "loss_kind": load.problem.objective.kind,
            "loss_reason": load.problem.objective.reason,
            "tuner": plan.tuning.name,
            "tuning": plan.tuning.to_json(),
            "seed": options.seed,
            "method": options.method,
            "engine": load.engine.version,
        },
        provenance={
            "graph_init.version": __version__,
            "graph_init.seed": str(options.seed),
            "graph_init.source_sha256": loaded.digest(),
        },
        _loaded=loaded,
        _parameters=parameters,
        notes=(*load.problem.objective.notes, *(load.source.notes if plan.on_data else ())),
    )


def _rows(data: data_files.Data) -> dict[str, Array]:
    """All rows by name; the batches of an iterable joined."""
    found = data_files.read(data)
    return dict(found) if isinstance(found, Mapping) else _joined(found)


def _joined(items: Iterable[Any]) -> dict[str, Array]:
    parts = []
    for item in items:
        if not isinstance(item, Mapping):
            raise UsageError(
                "--data: a comparison needs each batch of an iterable as a mapping from names "
                "to arrays"
            )
        parts.append({str(k): np.asarray(v) for k, v in item.items()})
    if not parts:
        raise UsageError("--data holds no batch")
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _split(
    loaded: LoadedModel,
    arrays: dict[str, Array],
    test: data_files.Data | None,
    *,
    held_out: float,
    seed: int,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Rows to train on and rows to score on; what has no rows is in both."""
    if test is not None:
        return arrays, _rows(test)
    whole = workload.without_rows(loaded, arrays)
    rows = workload.rows_of(arrays, whole)
    count = round(held_out * rows)
    if count < 1 or count >= rows:
        raise UsageError(
            f"--data has {rows} rows, too few to train on some and to score on "
            f"{held_out:.0%} of them; give more rows or another --held-out"
        )
    order = np.random.default_rng([seed, 2]).permutation(rows)
    parts = np.sort(order[count:]), np.sort(order[:count])
    train, score = ({k: a if k in whole else a[p] for k, a in arrays.items()} for p in parts)
    return train, score


def _held_out(
    subject: _Subject, load: workload.Workload, values: dict[str, Array], arrays: dict[str, Array]
) -> runner.Scorer:
    """The evaluation on the held-out rows, in batches as large as the model takes them."""
    whole = workload.without_rows(subject.loaded, arrays)
    rows = workload.rows_of(arrays, whole)
    fixed = {v.name for v in load.problem.inputs} - load.problem.batched - whole
    size = load.problem.batch_size if fixed else min(rows, _SCORED_ROWS)
    if size > rows:
        raise UsageError(
            f"{rows} rows are held out to score on, fewer than the model's batch of {size}; give "
            "more rows or a larger --held-out"
        )
    options = replace(subject.options, data=arrays, batch_size=size)
    scored = workload.build(subject.loaded, subject.parameters, values, options)
    assert scored.rows is not None
    return runner.Scorer(scored.problem, scored.rows, whole=scored.whole, engine=scored.engine)


def _states(
    subject: _Subject, load: workload.Workload, base: Mapping[str, Array]
) -> tuple[list[State], list[Array]]:
    """Every state; and of those that have numbers, the parameters in one vector."""
    plan, first = subject.plan, subject.options.seed
    problem = load.problem
    run = evaluation.prepare(load, base)
    ones = np.ones(len(run.scaled))
    tuner = registry.prepare(plan.tuning, run, load, subject.parameters)
    ranges = batches.index_ranges(problem.builder, problem.inputs)
    wanted = [
        (scheme, tuned, seed)
        for scheme, tuned in plan.states()
        for seed in range(first, first + plan.seeds)
        if run.scaled or not tuned
    ]
    states: list[State] = []
    vectors: list[Array] = []
    for done, (scheme, tuned, seed) in enumerate(wanted):
        name = f"{scheme}, tuned" if tuned else scheme
        subject.report(f"preparing {name}", done, len(wanted))
        source = load.source if plan.on_data else streams.random(load.layout, ranges, seed)
        own = replace(load, source=source)
        state = initial_state.fill(
            subject.loaded,
            subject.parameters,
            InitialWeights(scheme),
            seed=seed,
            prepare=lambda _, own=own: own,  # type: ignore[misc]
        )
        values = {p.name: state.values[p.name] for p in problem.parameters}
        try:
            if tuned:
                values = _tuned(run, tuner, values, source)
            run.set_parameters(values)
            found = run.measure(run.source.report, streams.REPORTED, ones, False)
        except NumericalError as error:
            states.append(
                State(
                    name=name,
                    scheme=scheme,
                    tuned=tuned,
                    seed=seed,
                    measurement=None,
                    problem=str(error),
                )
            )
            continue
        states.append(State(name=name, scheme=scheme, tuned=tuned, seed=seed, measurement=found))
        vectors.append(runner.pack(problem, values))
    if not vectors:
        raise NumericalError(
            f"every initial state gives numbers that are not finite; {states[0].problem}"
        )
    return states, vectors


def _tuned(
    run: evaluation.Evaluator,
    tuner: registry.PreparedTuner,
    values: dict[str, Array],
    source: streams.Source,
) -> dict[str, Array]:
    """``values`` with the scales that the tuner finds."""
    run.set_parameters(values)
    result = tuner(values, source)
    if result.interrupted:
        raise KeyboardInterrupt
    scales = dict(zip(run.scaled, result.scales.astype(np.float32), strict=True))
    return {n: v * scales[n] if n in scales else v for n, v in values.items()}


def _train(
    subject: _Subject,
    load: workload.Workload,
    held_out: runner.Scorer,
    states: Sequence[State],
    vectors: Sequence[Array],
) -> list[Run]:
    """All runs, as many at a time as there are workers; the order of the result is fixed."""
    plan, problem = subject.plan, load.problem
    assert load.rows is not None
    rows = load.rows
    trainers = {o: runner.Trainer(problem, o, engine=load.engine) for o in plan.optimizers}
    measured = [s for s in states if s.measurement is not None]
    tasks = [
        (state, vector, optimizer, rate)
        for optimizer in plan.optimizers
        for state, vector in zip(measured, vectors, strict=True)
        for rate in plan.rates(optimizer)
    ]

    def train(state: State, vector: Array, optimizer: str, rate: float) -> Run:
        drawn = runner.epochs(rows, problem.batch_size, state.seed)
        order = ({**load.whole, **batch} for batch in _until(stopped, drawn))
        curve = trainers[optimizer](vector, order, plan.updates, rate)
        losses = [float(x) for x in curve.losses]
        score = held_out.worst if curve.diverged else held_out(curve.parameters)
        last = losses[-max(1, round(_FINAL * plan.updates)) :]
        final = float("inf") if curve.diverged else float(np.mean(last))
        return Run(
            state=state.name,
            seed=state.seed,
            optimizer=optimizer,
            learning_rate=rate,
            losses=losses,
            final_loss=final,
            held_out_loss=score.loss,
            accuracy=score.accuracy,
            diverged=curve.diverged,
        )

    stopped = threading.Event()
    runs: dict[int, Run] = {}
    pool = ThreadPoolExecutor(plan.workers or os.cpu_count() or 1)
    try:
        futures = {pool.submit(train, *task): k for k, task in enumerate(tasks)}
        for done, future in enumerate(as_completed(futures)):
            subject.report("training", done, len(tasks))
            runs[futures[future]] = future.result()
    finally:
        stopped.set()  # an interrupt does not wait for the runs that are under way
        pool.shutdown(wait=True, cancel_futures=True)
    return [runs[k] for k in range(len(tasks))]


def _until(
    stopped: threading.Event, order: Iterable[dict[str, Array]]
) -> Iterator[dict[str, Array]]:
    for batch in order:
        if stopped.is_set():
            raise CancelledError
        yield batch
