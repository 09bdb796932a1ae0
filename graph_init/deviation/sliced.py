"""Gradient deviation and its derivative (Taylor) with the batch done in slices.

The loss is a mean over the batch, so g, Hg and Hu are means over slices of it, and so is the last
bracket of :mod:`graph_init.deviation.taylor`, once g, u and z are known for the whole batch. Three
graphs do it: the gradient, the Hessian times a direction, and the mixed tangent along given
directions. What they need grows with the slice, not with the batch, and the result is the whole
batch's up to rounding. The price: what the single graph computes once is computed again, 44
products of a layer instead of 23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.autodiff import primal
from graph_init.autodiff.contraction import Products, contract
from graph_init.autodiff.tangent import tangents
from graph_init.deviation import elements
from graph_init.deviation.gradients import (
    GRADIENT,
    Accumulator,
    Setting,
    gradient_program,
    merge_spreads,
    named,
)
from graph_init.deviation.result import DeviationResult, evaluation
from graph_init.engine import memory
from graph_init.ir import Array, Program, Value

#: What stands before the parameter's name in the names of inputs and outputs.
DIRECTION, _U, _Z = "g:", "u:", "z:"
CHANGE = "change:"
_SLOPES = "log_scale_gradient"


@dataclass(frozen=True)
class Models:
    """The graphs of one slice, in the order in which they run.

    ``gradient``: (slice, θ) → loss, extras and g; ``change``: (slice, θ, g) → Hg, or Hu if u is
    given for g; ``mixed``: (slice, θ, g, u, z) → Σ θᵢ·(mixed tangent)ᵢ over each scaled tensor.
    """

    gradient: Program
    change: Program
    mixed: Program | None


def models(p: primal.Primal, scaled: Sequence[str]) -> Models:
    """The three graphs; only two if ``scaled`` is empty."""
    b = p.builder
    gradient = gradient_program(p)
    g = _directions(p, DIRECTION)
    nodes = b.needed([*p.gradients.values()])
    found = tangents(b, nodes, {p.theta[n]: d for n, d in g.items()})
    first = {n: found[v] for n, v in p.gradients.items() if v in found}
    change = b.program(named(b, first, CHANGE))
    if not scaled:
        return Models(gradient, change, None)
    u, z = _directions(p, _U), _directions(p, _Z)
    seeds = {p.theta[n]: u[n] for n in g} | {g[n]: z[n] for n in g}
    mixed = tangents(b, b.needed([*first.values()]), seeds)
    products = Products(b.nodes)
    slopes = []
    for n in scaled:
        bracket = mixed.get(first[n]) if n in first else None
        slopes.append(
            b.scalar(0.0, p.theta[n])
            if bracket is None
            else contract(b, p.theta[n], bracket, products)
        )
    vector = b.op("Concat", *(b.reshape(s, [1]) for s in slopes), axis=0)
    vector.name = _SLOPES
    return Models(gradient, change, b.program([vector]))


def _directions(p: primal.Primal, prefix: str) -> dict[str, Value]:
    return {n: p.builder.input(prefix + n, p.theta[n].dtype, p.theta[n].dims) for n in p.gradients}


class SlicedTaylor:
    """(batch, scales) → :class:`DeviationResult`, the batch in slices."""

    def __init__(self, p: primal.Primal, setting: Setting) -> None:
        graphs = models(p, setting.weights.scaled if setting.scale_gradient else ())
        programs = [g for g in (graphs.gradient, graphs.change, graphs.mixed) if g is not None]
        setting.require_memory(
            max(g.peak for g in programs),
            5 if setting.scale_gradient else 3,
            [memory.SMALLER_SLICES, "--method finite-difference"],
        )
        self._weights, self._cut = setting.weights, setting.cut
        self._extras = tuple(v.name for v in p.extras)
        self._loss = p.loss.name
        self._elements = setting.elements
        opened = [setting.session(g, shrinks=True) for g in programs]
        self._gradient = Accumulator(opened[0], GRADIENT, setting.shapes)
        self._change = Accumulator(opened[1], CHANGE, setting.shapes)
        self._mixed = opened[2] if graphs.mixed is not None else None
        self._g, self._q = self._gradient.buffers(), self._change.buffers()
        self._hu = self._change.buffers() if self._mixed else {}
        self._u = self._gradient.buffers() if self._mixed else {}

    def set_parameters(self, values: Mapping[str, Array]) -> None:
        """Evaluate other parameters from now on."""
        self._weights.set_parameters(values)

    def __call__(self, batch: Mapping[str, Array], scales: Array) -> DeviationResult:
        """``scales`` has one float a scaled tensor."""
        theta = self._weights.at(scales)
        slices = list(self._cut(batch))
        others = self._gradient(theta, slices, self._g)
        g = self._g
        self._change({**theta, **_prefixed(DIRECTION, g)}, slices, self._q)
        statistics = elements.statistics(theta, g, self._q)
        slopes: Array = np.zeros(0)
        if self._mixed is not None:
            slopes = self._slopes(theta, slices)
        return evaluation(
            float(np.mean([o[self._loss] for o in others])),
            statistics,
            self._elements,
            slopes,
            extras=merge_spreads([[float(o[n]) for n in self._extras] for o in others]),
        )

    def _slopes(self, theta: Mapping[str, Array], slices: Sequence[Mapping[str, Array]]) -> Array:
        """∂GD/∂log s from g and Hg."""
        assert self._mixed is not None
        for n, g in self._g.items():
            elements.fill_u(self._u[n], g, self._q.get(n))
        self._change({**theta, **_prefixed(DIRECTION, self._u)}, slices, self._hu)
        z = {n: self._hu.get(n) for n in self._g}
        feeds = {**theta, **_prefixed(DIRECTION, self._g), **_prefixed(_U, self._u)}
        for n, g in self._g.items():
            feeds[_Z + n] = elements.fill_z(z[n], g, self._q.get(n))
        found = [self._mixed({**feeds, **part})[_SLOPES].astype(np.float64) for part in slices]
        mean: Array = np.mean(found, axis=0)
        return mean / self._elements


def _prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {prefix + n: a for n, a in arrays.items()}
