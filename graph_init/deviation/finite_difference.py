"""Gradient deviation and its derivative in every scale from first-order gradients alone.

With G₀ = g(θ), θ₁ = θ − h·G₀ and G₁ = g(θ₁), the change of the gradient is q = (G₀ − G₁)/h in place
of Hg, and r, u and v follow from it as in :mod:`graph_init.deviation.taylor`. Its derivative, with
H₀ and H₁ the Hessians at θ and θ₁ and h held fixed, follows from dq = (H₀ − H₁ + h·H₁H₀)/h · dθ:

    N·∇GD = (H₀u − H₁u)/h + H₀(H₁u − v)

Each product with a Hessian is again a difference of gradients, Hd ≈ (g(θ + δd) − g(θ))/δ. So a
value costs two gradients and its derivative three more, and besides the parameters there are three
tensors of their size: G₀, G₁ and the last gradient. Needed of the model is one derivative of every
operator, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graph_init.autodiff import primal
from graph_init.deviation import elements
from graph_init.deviation.gradients import (
    GRADIENT,
    Accumulator,
    Setting,
    gradient_program,
    merge_spreads,
)
from graph_init.deviation.result import DeviationResult, evaluation
from graph_init.engine import memory
from graph_init.ir import Array

#: Steps are this share of ‖θ‖ long, unless they are given: shorter ones drown in float32 rounding,
#: longer ones see the curvature change (docs/taylor-and-finite-differences.md).
RELATIVE_STEP = 1e-4
_TINY = 1e-30


class FiniteDifference:
    """(batch, scales) → :class:`DeviationResult`."""

    def __init__(self, p: primal.Primal, setting: Setting, step: float | None = None) -> None:
        """``step``: h; by default h·‖g‖ is :data:`RELATIVE_STEP` of ‖θ‖."""
        program = gradient_program(p)
        setting.require_memory(
            program.peak,
            4 if setting.scale_gradient else 3,
            [memory.SLICES, memory.FEWER_ROWS, "smaller sizes with --dim"],
        )
        weights = setting.weights
        self._gradient = Accumulator(setting.session(program), GRADIENT, setting.shapes)
        self._weights, self._cut, self._step = weights, setting.cut, step
        self._loss, self._extras = p.loss.name, tuple(v.name for v in p.extras)
        self._elements = setting.elements
        # The weights where the next gradient is taken, and the three gradients that are kept.
        self._at = {n: np.empty_like(weights.values[n]) for n in self._gradient.names}
        self._g0, self._g1 = self._gradient.buffers(), self._gradient.buffers()
        self._last = self._gradient.buffers() if setting.scale_gradient else None
        self._factors: dict[str, np.float32] = {}

    def set_parameters(self, values: Mapping[str, Array]) -> None:
        """Evaluate other parameters from now on."""
        self._weights.set_parameters(values)

    def __call__(self, batch: Mapping[str, Array], scales: Array) -> DeviationResult:
        """``scales`` has one float a scaled tensor."""
        slices = list(self._cut(batch))
        chosen = np.asarray(scales, np.float32)
        self._factors = dict(zip(self._weights.scaled, chosen, strict=True))
        names = self._gradient.names
        for n in names:
            self._reset(n)
        others = self._run(slices, self._g0)
        length = _norm(self._at)
        h = self._step or RELATIVE_STEP * length / max(_norm(self._g0), _TINY)
        for n in names:
            elements.add(self._at[n], self._g0[n], -h)
        self._run(slices, self._g1)
        for n in names:  # for the statistics, which want θ and the change
            self._reset(n)
            elements.change(self._g1[n], self._g0[n], h)
        theta = {**self._weights.values, **self._at}
        statistics = elements.statistics(theta, self._g0, self._g1)
        slopes: Array = np.zeros(0)
        if self._last is not None:
            slopes = self._slopes(slices, self._last, h, length)
        return evaluation(
            float(np.mean([o[self._loss] for o in others])),
            statistics,
            self._elements,
            slopes,
            extras=merge_spreads([[float(o[n]) for n in self._extras] for o in others]),
        )

    def _slopes(
        self, slices: Sequence[Mapping[str, Array]], last: dict[str, Array], h: float, length: float
    ) -> Array:
        """∂GD/∂log s. ``self._g1`` holds q on entry, from which G₁ = G₀ − h·q comes again."""
        g0, q = self._g0, self._g1
        names = self._gradient.names
        total = dict.fromkeys(names, 0.0)
        size = np.sqrt(sum(elements.u_square(g0[n], q[n]) for n in names))
        d = RELATIVE_STEP * length / max(size, _TINY)
        for n in names:
            self._reset(n)
            elements.add_u(self._at[n], g0[n], q[n], d)
        self._run(slices, last)
        for n in names:  # ⟨θ, H₀u⟩ / h
            self._reset(n)
            total[n] += elements.difference_inner(self._at[n], last[n], g0[n], 1 / (d * h))
        for n in names:
            elements.add(self._at[n], g0[n], -h)
            elements.add_u(self._at[n], g0[n], q[n], d)
        self._run(slices, last)
        square = 0.0
        for n in names:  # last ← H₁u, then z = H₁u − v
            self._reset(n)
            elements.second_change(last[n], g0[n], q[n], h, d=d)
            total[n] -= elements.inner(self._at[n], last[n]) / h
            elements.fill_z(last[n], g0[n], q[n])
            square += elements.inner(last[n], last[n])
        d = RELATIVE_STEP * length / max(float(np.sqrt(square)), _TINY)
        for n in names:
            elements.add(self._at[n], last[n], d)
        self._run(slices, last)
        for n in names:
            self._reset(n)
            total[n] += elements.difference_inner(self._at[n], last[n], g0[n], 1 / d)
        return np.array([total.get(n, 0.0) for n in self._weights.scaled]) / self._elements

    def _reset(self, n: str) -> None:
        """θ of one tensor."""
        value = self._weights.values[n]
        np.multiply(value, self._factors.get(n, np.float32(1)), out=self._at[n])
        memory.release(value)

    def _run(
        self, slices: Sequence[Mapping[str, Array]], into: dict[str, Array]
    ) -> list[dict[str, Array]]:
        return self._gradient({**self._weights.values, **self._at}, slices, into)


def _norm(arrays: Mapping[str, Array]) -> float:
    return float(np.sqrt(sum(elements.inner(a, a) for a in arrays.values())))
