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
from graph_init.deviation import session, taylor
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.model.load import LoadedModel
from graph_init.parameters import Parameter

METHODS = ("taylor",)

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


@dataclass
class Evaluator:
    """A model made ready to be evaluated."""

    problem: problems.Problem
    values: dict[str, Array]
    source: batches.RandomBatches | batches.FixedBatches
    step: session.MetaStep
    scaled: list[str]

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.problem.parameters]

    def measure(self, numbers: Sequence[int], scales: Array, slopes: bool) -> Measurement:
        """The mean over the batches with these numbers."""
        found = [self.step(self.source.batch(n), scales) for n in numbers]
        for evaluation in found:
            session.require_finite(evaluation, self.names)

        def mean(get: Callable[[session.Evaluation], Any]) -> Any:
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
            "taylor",
            taylor.EPSILON,
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


def prepare(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: dict[str, Array],
    options: Options,
) -> Evaluator:
    if options.method not in METHODS:
        raise UsageError(
            f"--method {options.method}: only {', '.join(METHODS)} is available in this version"
        )
    if options.batch_norm not in ("eval", "train"):
        raise UsageError(f"--batch-norm is eval or train, not '{options.batch_norm}'")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {options.batch_size}")
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
    source: batches.RandomBatches | batches.FixedBatches
    if arrays is None:
        ranges = batches.index_ranges(problem.builder, problem.inputs)
        source = batches.RandomBatches(problem.inputs, ranges, problem.objective, options.seed)
    else:
        assert size is not None
        checked = batches.check_arrays(arrays, problem.inputs, problem.objective, size)
        source = batches.FixedBatches(checked, size, options.seed)
    names = [p.name for p in problem.parameters]
    scaled = [p.name for p in problem.parameters if p.scalable]
    graph = taylor.build(
        problem.forward,
        problem.objective.loss.name,
        names,
        scaled,
        scale_gradient=options.slopes,
        extra_outputs=problem.extras,
    )
    step = session.MetaStep(graph, {**values, **problem.fed}, [values[n].size for n in names])
    return Evaluator(problem, values, source, step, scaled)


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
