"""The gradient tensor by tensor, how it changes, and the curvature that it meets.

One graph gives g, one the Hessian times any direction (as the Taylor method in slices has them).
With these: gradient deviation, gᵀHg/gᵀg, and the largest eigenvalue of H in magnitude by power
iteration that begins with g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graph_init.autodiff import primal
from graph_init.deviation import elements
from graph_init.deviation.gradients import GRADIENT, Accumulator, Setting, Weights
from graph_init.deviation.sliced import CHANGE, DIRECTION, models
from graph_init.engine import memory
from graph_init.ir import Array
from graph_init.problem.workload import Workload

#: Products of power iteration after the one with g; and in networks of more work than this (in
#: multiplications of a forward pass) fewer.
_PRODUCTS, _FEW = 4, 1
_LARGE = 1_500_000_000


@dataclass(frozen=True)
class TensorGradient:
    """Of one trainable tensor: ‖g‖, ‖θ‖, the shares of g that have vanished or are zero, Σ|r|."""

    norm: float
    value_norm: float
    vanished: float
    zero: float
    deviation: float
    elements: int


@dataclass(frozen=True)
class Gradient:
    """What was found on one batch.

    Attributes:
        tensors: by name.
        loss: on the batch.
        norm: ‖g‖ over all trainable elements.
        gradient_deviation: mean |r|.
        curvature: gᵀHg/gᵀg.
        largest_eigenvalue: of H, in magnitude: a lower bound, by ``products`` products with H.
    """

    tensors: Mapping[str, TensorGradient]
    loss: float
    norm: float
    gradient_deviation: float
    curvature: float
    largest_eigenvalue: float
    products: int

    @property
    def largest_rate(self) -> float:
        """2/λ: plain gradient descent is unstable at a learning rate above it; NaN for λ ≤ 0."""
        top = max(self.curvature, abs(self.largest_eigenvalue))
        return 2 / top if top > 0 else math.nan


def gradient(workload: Workload, values: Mapping[str, Array]) -> Gradient:
    """At ``values``, on the first batch to report on, or its first slice.

    Raises UnsupportedModelError where something has no derivative, MemoryLimitError where it does
    not fit.
    """
    problem, options = workload.problem, workload.options
    names = [p.name for p in problem.parameters]
    theta = {n: values[n] for n in names}
    p = primal.build(
        problem.forward,
        problem.objective.loss.name,
        names,
        extra_outputs=problem.extras,
        engine=workload.engine,
    )
    graphs = models(p, ())
    setting = Setting(
        weights=Weights(theta, []),
        fed=problem.fed,
        cut=workload.layout.slices,
        slices=1,
        scale_gradient=False,
        engine=workload.engine,
        memory_limit=options.memory_limit,
    )
    peak = max(graphs.gradient.peak, graphs.change.peak)
    setting.require_memory(peak, 4, [memory.FEWER_ROWS])
    first = Accumulator(setting.session(graphs.gradient), GRADIENT, setting.shapes)
    change = Accumulator(setting.session(graphs.change), CHANGE, setting.shapes)
    batch = [next(workload.layout.slices(workload.source.report.batch(0)))]
    g, q = first.buffers(), change.buffers()
    few = workload.signature.work * problem.batch_size > _LARGE
    with np.errstate(all="ignore"):
        others = first(theta, batch, g)

        def times(direction: Mapping[str, Array]) -> None:
            change({**theta, **{DIRECTION + n: d for n, d in direction.items()}}, batch, q)

        times(g)
        sums = elements.statistics(theta, g, q)
        squares = float(sums.gradient_squares.sum())
        curvature = _inner(g, q) / squares if squares else 0.0
        top = _power(times, g, q, _FEW if few else _PRODUCTS)
    tensors = {
        n: TensorGradient(
            norm=math.sqrt(sums.gradient_squares[k]),
            value_norm=math.sqrt(sums.value_squares[k]),
            vanished=sums.vanished[k] / max(a.size, 1),
            zero=1 - np.count_nonzero(g[n]) / max(a.size, 1) if n in g else 1.0,
            deviation=sums.deviation[k],
            elements=a.size,
        )
        for k, (n, a) in enumerate(theta.items())
    }
    return Gradient(
        tensors=tensors,
        loss=float(others[0][p.loss.name]),
        norm=math.sqrt(squares),
        gradient_deviation=float(sums.deviation.sum()) / setting.elements,
        curvature=curvature,
        largest_eigenvalue=top,
        products=1 + (_FEW if few else _PRODUCTS),
    )


def _inner(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    return sum(elements.inner(a[n], b[n]) for n in a if n in b)


def _power(
    times: Callable[[Mapping[str, Array]], None],
    g: Mapping[str, Array],
    q: Mapping[str, Array],
    products: int,
) -> float:
    """λ of the largest magnitude, from H·g in ``q``; 0 where H·g is zero or not finite."""
    direction = {n: np.zeros_like(a) for n, a in g.items()}
    found = 0.0
    for _ in range(products):
        size = math.sqrt(_inner(q, q))
        if not size or not math.isfinite(size):
            return found
        for n, d in direction.items():
            if n in q:
                np.multiply(q[n], np.float32(1 / size), out=d)
        times(direction)
        found = _inner(direction, q)
    return found
