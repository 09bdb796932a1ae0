"""From a workload to numbers: gradient deviation and what is shown beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from graph_init.autodiff import primal
from graph_init.deviation import collapse, nonfinite, taylor
from graph_init.deviation.finite_difference import FiniteDifference
from graph_init.deviation.gradients import Setting, Weights
from graph_init.deviation.result import (
    EPSILON,
    DeviationResult,
    ParameterMeasurement,
    failure,
    finite,
)
from graph_init.deviation.sliced import SlicedTaylor
from graph_init.engine import memory
from graph_init.engine.choice import Engine
from graph_init.errors import NumericalError
from graph_init.ir import Array
from graph_init.options import Options
from graph_init.problem import forward_graph
from graph_init.problem.batches import Layout
from graph_init.problem.streams import Source, Stream
from graph_init.problem.workload import Workload

_REMEDY = (
    "start from a scheme, for example --scheme he, or let `graph-init initialize` restore the "
    "signal (--tuner restore)"
)


@dataclass(frozen=True)
class Measurement:
    """Gradient deviation of a model. No number has a unit but the loss's.

    Attributes:
        gradient_deviation: mean |r| over all trainable elements; 0 where a step leaves the gradient
            as it is, 1 where the gradient has vanished.
        loss: on the batch.
        gradient_norm: ‖g‖ over all trainable elements.
        vanished_fraction: share of the elements with |g| < ε.
        elements: N, the number of trainable elements.
        method: ``taylor`` or ``finite-difference``.
        epsilon: ε, 1e-5.
        parameters: what was measured of each trainable tensor.
        output_std: standard deviation of the output that the loss reads; NaN (null in JSON) where
            that is a single number, which has none.
        loss_kind: which loss it was.
        notes: what was taken in place of a batch that does not fit into memory, in sentences.
        loss_reason: why it was that one, a sentence; it says so if it was a guess.
        dims: by input and axis, the size and why it is that one.
        engine: what computed it: the build of onnxruntime, or torch; and its version.
    """

    gradient_deviation: float
    loss: float
    gradient_norm: float
    vanished_fraction: float
    elements: int
    method: str
    epsilon: float
    parameters: list[ParameterMeasurement]
    output_std: float
    loss_kind: str
    loss_reason: str
    #: Why the numbers are not finite, where that is allowed.
    problem: str | None = None
    notes: list[str] = field(default_factory=list)
    dims: dict[str, Any] = field(default_factory=dict)
    engine: str = ""

    @property
    def warnings(self) -> list[str]:
        """What makes the state look collapsed, in sentences."""
        if self.problem is not None:
            return [self.problem]
        return self.signs.sentences

    @property
    def signs(self) -> collapse.Signs:
        """What looks collapsed, for those who decide by it."""
        vanished = [p.vanished_fraction for p in self.parameters]
        return collapse.signs(self.parameters, vanished, self.output_std)

    def to_json(self) -> dict[str, Any]:
        """Its fields; a number that JSON cannot represent (infinite or NaN) is null."""
        content = {k: finite(v) for k, v in vars(self).items() if k != "problem"}
        rows = [row.to_json() for row in self.parameters]
        return {**content, "parameters": rows, "warnings": self.warnings}


class Step(Protocol):
    """(batch, scales) → one evaluation."""

    def __call__(self, batch: Mapping[str, Array], scales: Array) -> DeviationResult: ...

    def set_parameters(self, values: Mapping[str, Array]) -> None: ...


@dataclass
class Evaluator:
    """A model made ready to be evaluated."""

    problem: forward_graph.Problem
    source: Source
    step: Step
    scaled: list[str]
    workload: Workload
    values: Mapping[str, Array]
    method: str = "taylor"

    def set_parameters(self, values: Mapping[str, Array]) -> None:
        """Evaluate other parameters from now on."""
        self.step.set_parameters(values)
        self.values = values

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.problem.parameters]

    def norms(self, values: Mapping[str, Array]) -> Array:
        """‖θ‖ of every scaled tensor at ``values``."""
        norms = np.array([np.linalg.norm(values[n].astype(np.float64)) for n in self.scaled])
        for n in self.scaled:
            memory.release(values[n])
        return norms

    def output_std(self, found: DeviationResult) -> float:
        """That of the output that the loss reads; NaN if the batch gives a single number."""
        prediction = self.problem.objective.terms[0].prediction
        return found.output_std if prediction.size * self.workload.layout.count > 1 else math.nan

    def problem_of(
        self, found: DeviationResult, batch: Mapping[str, Array], scales: Array
    ) -> nonfinite.Finding | None:
        """Why what was ``found`` on ``batch`` is not finite: the first data, node or parameter."""
        failed = failure(found)
        if failed is None:
            return None
        words, places = failed
        if len(places):
            first = nonfinite.backward(self.workload, [self.names[k] for k in places])
            return nonfinite.Finding(words.format(first))
        factors = dict(zip(self.scaled, np.asarray(scales, np.float32), strict=True))
        with np.errstate(all="ignore"):
            own = {n: self.values[n] * factors.get(n, np.float32(1)) for n in self.names}
        finding = nonfinite.forward(self.workload, own, batch)
        return replace(finding, words=words.format(finding.words))

    def measure(
        self,
        stream: Stream,
        count: int,
        scales: Array,
        scale_gradient: bool,
        *,
        strict: bool = True,
    ) -> Measurement:
        """The mean over the first ``count`` batches of ``stream``.

        Raises NumericalError, unless it is not ``strict``, if the numbers are not finite.
        """
        found, problem = [], None
        for number in range(count):
            batch = stream.batch(number)
            found.append(self.step(batch, scales))
            problem = problem or self.problem_of(found[-1], batch, scales)
        if problem is not None and strict:
            raise NumericalError(f"{problem.words}; {problem.remedy or _REMEDY}")

        def mean(get: Callable[[DeviationResult], Any]) -> Any:
            return sum(get(e) for e in found) / len(found)

        sums = mean(lambda e: e.deviation_sums.astype(np.float64))
        vanished = mean(lambda e: e.vanished.astype(np.float64))
        squares = mean(lambda e: e.value_squares.astype(np.float64))
        log_slopes = mean(lambda e: e.log_scale_gradient) if scale_gradient else None
        if strict and log_slopes is not None and not np.isfinite(log_slopes).all():
            first = self.scaled[int(np.argmin(np.isfinite(log_slopes)))]
            raise NumericalError(
                f"the derivative of gradient deviation in the scale of '{first}' is not finite"
            )
        slopes = {} if log_slopes is None else dict(zip(self.scaled, log_slopes, strict=True))
        rows = []
        for k, p in enumerate(self.problem.parameters):
            elements = int(np.prod(p.shape))
            rows.append(
                ParameterMeasurement(
                    name=p.name,
                    kind=p.kind,
                    shape=tuple(p.shape),
                    elements=elements,
                    scalable=p.scalable,
                    norm=float(np.sqrt(squares[k])),
                    gradient_deviation=float(sums[k] / elements),
                    vanished_fraction=float(vanished[k] / elements),
                    log_scale_gradient=float(slopes[p.name]) if p.name in slopes else None,
                )
            )
        return Measurement(
            gradient_deviation=float(mean(lambda e: e.gradient_deviation)),
            loss=float(mean(lambda e: e.loss)),
            gradient_norm=float(mean(lambda e: e.gradient_norm)),
            vanished_fraction=float(mean(lambda e: e.vanished_fraction)),
            elements=sum(r.elements for r in rows),
            method=self.method,
            epsilon=EPSILON,
            parameters=rows,
            output_std=float(mean(self.output_std)),
            loss_kind=self.problem.objective.kind,
            loss_reason=self.problem.objective.reason,
            problem=None if problem is None else problem.words,
            notes=self.workload.notes(),
            dims=self.workload.signature.to_json(),
            engine=self.workload.engine.version,
        )


def prepare(workload: Workload, values: Mapping[str, Array]) -> Evaluator:
    """What evaluates ``workload`` at ``values``, which holds every trainable parameter."""
    problem = workload.problem
    scaled = [p.name for p in problem.parameters if p.scalable]
    with memory.uncollected():
        step = _step(
            problem,
            values,
            scaled,
            workload.layout,
            options=workload.options,
            engine=workload.engine,
        )
    memory.trim()
    return Evaluator(
        problem=problem,
        source=workload.source,
        step=step,
        scaled=scaled,
        workload=workload,
        values=values,
        method=workload.options.method,
    )


def _step(
    problem: forward_graph.Problem,
    values: Mapping[str, Array],
    scaled: list[str],
    layout: Layout,
    options: Options,
    engine: Engine,
) -> Step:
    """What evaluates this problem by the chosen method."""
    names = [p.name for p in problem.parameters]
    own = {n: values[n] for n in names}
    loss = problem.objective.loss.name
    differences = options.method == "finite-difference"
    if not differences and layout.count == 1:
        graph = taylor.build(
            problem.forward,
            loss,
            names,
            scaled,
            scale_gradient=options.scale_gradient,
            extra_outputs=problem.extras,
            engine=engine,
        )
        return taylor.Taylor(
            graph=graph,
            values=own,
            fed=problem.fed,
            engine=engine,
            memory_limit=options.memory_limit,
        )
    p = primal.build(problem.forward, loss, names, extra_outputs=problem.extras, engine=engine)
    setting = Setting(
        weights=Weights(own, scaled),
        fed=problem.fed,
        cut=layout.slices,
        slices=layout.count,
        scale_gradient=options.scale_gradient,
        engine=engine,
        memory_limit=options.memory_limit,
    )
    if differences:
        return FiniteDifference(p, setting, options.difference_step)
    return SlicedTaylor(p, setting)
