"""From a loaded model and options to numbers: gradient deviation and what is shown beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graph_init import data as batches
from graph_init import problem as problems
from graph_init.builder import Array
from graph_init.deviation import primal, taylor
from graph_init.deviation.finite_difference import FiniteDifference
from graph_init.deviation.gradients import Setting, Weights
from graph_init.deviation.result import EPSILON, Evaluation, require_finite
from graph_init.deviation.session import require_device
from graph_init.deviation.sliced import SlicedTaylor
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.model.load import LoadedModel
from graph_init.parameters import Parameter

METHODS = ("taylor", "finite-difference")

Data = str | os.PathLike[str] | Mapping[str, Array]


@dataclass(frozen=True)
class Measurement:
    """Gradient deviation of a model; ``parameters`` has one dictionary a trainable tensor."""

    gradient_deviation: float
    loss: float
    gradient_norm: float
    vanished_fraction: float
    elements: int
    method: str
    epsilon: float
    parameters: list[dict[str, Any]]
    output_std: float
    loss_kind: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


#: (batch, scales) → one evaluation.
Step = Callable[[Mapping[str, Array], Array], Evaluation]


@dataclass
class Evaluator:
    """A model made ready to be evaluated."""

    problem: problems.Problem
    values: dict[str, Array]
    source: batches.RandomBatches | batches.FixedBatches
    step: Step
    scaled: list[str]
    method: str = "taylor"

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.problem.parameters]

    def measure(self, numbers: Sequence[int], scales: Array, slopes: bool) -> Measurement:
        """The mean over the batches with these numbers."""
        found = [self.step(self.source.batch(n), scales) for n in numbers]
        for evaluation in found:
            require_finite(evaluation, self.names)

        def mean(get: Callable[[Evaluation], Any]) -> Any:
            return sum(get(e) for e in found) / len(found)

        sums = mean(lambda e: e.deviation_sums.astype(np.float64))
        squares = mean(lambda e: e.value_squares.astype(np.float64))
        log_slopes = mean(lambda e: e.log_scale_gradient) if slopes else None
        rows = []
        for k, p in enumerate(self.problem.parameters):
            elements = int(np.prod(p.shape))
            row: dict[str, Any] = {
                "name": p.name,
                "kind": p.kind,
                "shape": list(p.shape),
                "elements": elements,
                "scalable": p.scalable,
                "norm": float(np.sqrt(squares[k])),
                "gradient_deviation": float(sums[k] / elements),
            }
            if log_slopes is not None and p.name in self.scaled:
                row["log_scale_gradient"] = float(log_slopes[self.scaled.index(p.name)])
            rows.append(row)
        return Measurement(
            float(mean(lambda e: e.gradient_deviation)),
            float(mean(lambda e: e.loss)),
            float(mean(lambda e: e.gradient_norm)),
            float(mean(lambda e: e.vanished_fraction)),
            sum(r["elements"] for r in rows),
            self.method,
            EPSILON,
            rows,
            float(mean(lambda e: e.extras[0])),
            self.problem.objective.kind,
        )


@dataclass(frozen=True)
class Options:
    data: Data | None
    batch_size: int | None
    seed: int
    loss: str
    output_name: str | None
    dims: Mapping[str, int]
    batch_norm: str
    method: str
    whole_file: bool
    slopes: bool
    micro_batch: int | None = None
    device: str = "cpu"
    difference_step: float | None = None
    memory_limit: int | None = None


def prepare(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: dict[str, Array],
    options: Options,
) -> Evaluator:
    _check(options)
    if not any(p.trainable for p in parameters):
        raise UnsupportedModelError(
            "the model has no trainable parameter; see `graph-init inspect`, and --trainable"
        )
    arrays: dict[str, Array] | None = None
    input_sizes = None
    size = options.batch_size
    if options.data is not None:
        arrays = (
            dict(options.data)
            if isinstance(options.data, Mapping)
            else batches.read_npz(options.data)
        )
        rows = {k: v.shape[0] for k, v in arrays.items() if v.ndim}
        if not rows or min(rows.values()) == 0:
            raise UsageError("--data holds no rows")
        if options.whole_file:
            size = min(rows.values())
        size = min(size or problems.DEFAULT_BATCH, *rows.values())
    count = _slice_count(loaded, options, size or problems.DEFAULT_BATCH)
    if count > 1:
        size = options.micro_batch
    if arrays is not None:
        assert size is not None
        input_sizes = {
            name: (size, *arrays[name].shape[1:])
            for name in (v.name for v in loaded.ir.graph.inputs)
            if name is not None and name in arrays
        }
        _check_static(loaded, input_sizes)
    problem = problems.build(
        loaded,
        parameters,
        values,
        loss=options.loss,
        output_name=options.output_name,
        dims=options.dims,
        batch_size=size,
        batch_norm=options.batch_norm,
        input_sizes=input_sizes,
    )
    layout = batches.Layout(problem.inputs, problem.objective, problem.batched, count)
    source: batches.RandomBatches | batches.FixedBatches
    if arrays is None:
        ranges = batches.index_ranges(problem.builder, problem.inputs)
        source = batches.RandomBatches(layout, ranges, options.seed)
    else:
        assert size is not None
        checked = batches.check_arrays(arrays, problem.inputs, problem.objective, size * count)
        source = batches.FixedBatches(checked, size * count, options.seed)
    scaled = [p.name for p in problem.parameters if p.scalable]
    step = _step(problem, values, scaled, layout, options)
    return Evaluator(problem, values, source, step, scaled, options.method)


def _check(options: Options) -> None:
    if options.method not in METHODS:
        raise UsageError(f"--method is one of {', '.join(METHODS)}, not '{options.method}'")
    if options.batch_norm not in ("eval", "train"):
        raise UsageError(f"--batch-norm is eval or train, not '{options.batch_norm}'")
    for option, number in (
        ("--batch-size", options.batch_size),
        ("--micro-batch", options.micro_batch),
    ):
        if number is not None and number < 1:
            raise UsageError(f"{option} must be at least 1, not {number}")
    if options.difference_step is not None:
        if options.method != "finite-difference":
            raise UsageError("--difference-step belongs to --method finite-difference")
        if not options.difference_step > 0:
            raise UsageError(f"--difference-step must be positive, not {options.difference_step}")
    require_device(options.device)


def _slice_count(loaded: LoadedModel, options: Options, rows: int) -> int:
    """Into how many slices --micro-batch cuts a batch of ``rows``."""
    micro = options.micro_batch
    if micro is None or micro >= rows:
        return 1
    if rows % micro:
        divisors = [str(d) for d in range(1, rows) if rows % d == 0]
        raise UsageError(
            f"--micro-batch {micro} does not divide the batch of {rows}; choose one of "
            + ", ".join(divisors)
        )
    if options.batch_norm == "train":
        raise UsageError(
            "--micro-batch: with --batch-norm train the statistics are the whole batch's, which "
            "slices do not see; leave one of the options out"
        )
    for value in loaded.ir.graph.inputs:
        dims = value.shape
        if value.name not in loaded.ir.graph.initializers and dims and isinstance(dims[0], int):
            raise UsageError(
                f"--micro-batch: input '{value.name}' has the fixed batch size {dims[0]}; export "
                "the model with a dynamic batch"
            )
    return rows // micro


def _step(
    problem: problems.Problem,
    values: Mapping[str, Array],
    scaled: list[str],
    layout: batches.Layout,
    options: Options,
) -> Step:
    """What evaluates this problem by the chosen method."""
    names = [p.name for p in problem.parameters]
    own = {n: values[n] for n in names}
    loss = problem.objective.loss.name
    differences = options.method == "finite-difference"
    if not differences and layout.count == 1:
        graph = taylor.build(
            problem.forward, loss, names, scaled,
            scale_gradient=options.slopes, extra_outputs=problem.extras,
        )  # fmt: skip
        return taylor.Taylor(graph, own, problem.fed, options.device, options.memory_limit)
    p = primal.build(problem.forward, loss, names, extra_outputs=problem.extras)
    setting = Setting(
        Weights(own, scaled), problem.fed, layout.slices, layout.count,
        options.slopes, options.device, options.memory_limit,
    )  # fmt: skip
    if differences:
        return FiniteDifference(p, setting, options.difference_step)
    return SlicedTaylor(p, setting)


def _check_static(loaded: LoadedModel, sizes: Mapping[str, tuple[int, ...]]) -> None:
    for value in loaded.ir.graph.inputs:
        shape = sizes.get(value.name or "")
        if shape is None or value.shape is None:
            continue
        declared = [d if isinstance(d, int) else None for d in value.shape]
        if len(declared) != len(shape) or any(
            d is not None and d != s for d, s in zip(declared, shape, strict=False)
        ):
            raise UsageError(
                f"--data: '{value.name}' has shape {shape}, but the model declares "
                f"{[d if isinstance(d, int) else str(d.value) for d in value.shape]}"
            )
