"""Gradient deviation and its derivative in every scale, exactly, as one ONNX graph.

With g = ∇L, H = ∇²L and eᵢ = ±ε (the sign of gᵢ, constant under differentiation):

    r  = (Hg + e) / (g + e)             GD = mean |r|
    u  = sign(r) / (g + e),  v = u·r
    z  = Hu − v
    ∇GD = (1/N) [ ∂²/∂s∂t ∇L(θ + s·g + t·u + s·t·z) ] at s = t = 0
    ∂GD/∂log sₖ = Σ θᵢ (∇GD)ᵢ over tensor k

GD follows from (g − Hg)/(g + e) − 1 = −r. Its derivative: d|rᵢ| = uᵢ d(Hg)ᵢ − vᵢ dgᵢ (e constant),
so N·∇GD = ∇_θ(uᵀH(θ)g) + Hᵀ(Hu) − Hv, with u and g held fixed in the first term; by the symmetry of
third derivatives that is D³L[g, u] + H(Hu − v), the mixed tangent above. The method is MetaInit's
(Dauphin and Schoenholz, NeurIPS 2019), whose paper calls GD the gradient quotient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graph_init.autodiff import primal
from graph_init.autodiff.contraction import Products, contract, dot
from graph_init.autodiff.primal import SCALE_INPUT
from graph_init.autodiff.tangent import tangents
from graph_init.deviation.result import EPSILON, DeviationResult, Statistics, evaluation
from graph_init.engine import memory
from graph_init.engine.choice import Engine
from graph_init.engine.session import open_session
from graph_init.ir import Array, Builder, Program, Value


@dataclass(frozen=True)
class MetaGraph:
    """The finished graph: inputs are the batch, the parameters and the vector of scales."""

    program: Program
    parameters: tuple[str, ...]
    scaled: tuple[str, ...]
    with_scale_gradient: bool


def build(
    forward: onnx.ModelProto,
    loss: str,
    parameters: Sequence[str],
    scaled: Sequence[str],
    *,
    scale_gradient: bool,
    epsilon: float = EPSILON,
    extra_outputs: Sequence[str] = (),
    engine: Engine | None = None,
) -> MetaGraph:
    """The meta-step graph of a lowered ``forward`` model.

    ``parameters`` names the graph inputs that are trainable; ``scaled`` those among them that enter
    as sₖ·dₖ, in the order of the scale vector. Outputs: loss (scalar), the vectors of
    :data:`STATISTICS` over ``parameters``, and with ``scale_gradient`` ∂GD/∂log s over ``scaled``.
    """
    p = primal.inwards(
        primal.build(forward, loss, parameters, scaled, extra_outputs=extra_outputs, engine=engine)
    )
    b, theta, gradients = p.builder, p.theta, p.gradients
    names = list(gradients)
    nodes = b.needed([*gradients.values()])
    count = sum(theta[n].size for n in parameters)

    # T1: one tangent of the gradient, along a direction d whose value is g.
    direction = {n: b.barrier(gradients[n]) for n in names}
    first = tangents(b, nodes, {theta[n]: direction[n] for n in names})
    hessian_gradient = {n: first.get(gradients[n]) for n in names}

    sums, vanished, squares, values, us, vs = [], [], [], [], {}, {}
    for n in parameters:
        values.append(dot(b, theta[n], theta[n]))
        if n not in gradients:  # the loss does not depend on it: g = 0 and r = 1
            sums.append(b.scalar(float(theta[n].size), theta[n]))
            vanished.append(b.scalar(float(theta[n].size), theta[n]))
            squares.append(b.scalar(0.0, theta[n]))
            continue
        g, hg = gradients[n], hessian_gradient[n]
        eps = b.scalar(epsilon, g)
        upward = b.cast(b.op("GreaterOrEqual", g, b.scalar(0.0, g)), g.dtype)
        e = b.mul(b.sub(upward, b.scalar(0.5, g)), b.scale(eps, 2.0))
        inverse = b.reciprocal(b.add(g, e))
        r = b.mul(e if hg is None else b.add(hg, e), inverse)
        u = b.mul(b.op("Sign", r), inverse)
        us[n], vs[n] = u, b.mul(u, r)
        sums.append(_total(b, b.op("Abs", r)))
        small = b.cast(b.op("Less", b.op("Abs", g), eps), g.dtype)
        vanished.append(_total(b, small))
        squares.append(dot(b, g, g))
    outputs = [p.loss, *(_vector(b, v) for v in (sums, vanished, squares, values))]

    if scale_gradient and scaled:
        # Hu on the same nodes; the builder finds these again when the mixed tangent asks for them.
        second = tangents(b, nodes, {theta[n]: us[n] for n in names})
        zs = {}
        for n in names:
            hu = second.get(gradients[n])
            zs[n] = b.op("Neg", vs[n]) if hu is None else b.sub(hu, vs[n])
        seeds = {theta[n]: us[n] for n in names} | {direction[n]: zs[n] for n in names}
        # All nodes behind Hg, not just the new ones: the builder may have found some of them among
        # the forward nodes, which the gradient alone does not need.
        chain = b.needed([v for v in hessian_gradient.values() if v is not None])
        mixed = tangents(b, chain, seeds)
        products = Products(b.nodes)
        slopes = []
        for n in scaled:
            hg = hessian_gradient.get(n)
            bracket = mixed.get(hg) if hg is not None else None
            slopes.append(
                b.scalar(0.0, theta[n])
                if bracket is None
                else b.scale(contract(b, theta[n], bracket, products), 1.0 / count)
            )
        outputs.append(_vector(b, slopes))
    outputs.extend(p.extras)
    return MetaGraph(
        b.program(outputs),
        tuple(parameters),
        tuple(scaled),
        scale_gradient and bool(scaled),
    )


def _total(b: Builder, value: Value) -> Value:
    return b.sum(value, keepdims=False)


def _vector(b: Builder, scalars: Sequence[Value]) -> Value:
    return b.op("Concat", *(b.reshape(s, [1]) for s in scalars), axis=0)


class Taylor:
    """(batch, scales) → :class:`DeviationResult`, the whole batch in one run of one graph."""

    def __init__(
        self,
        graph: MetaGraph,
        values: Mapping[str, Array],
        fed: Mapping[str, Array],
        engine: Engine | None = None,
        memory_limit: int | None = None,
    ) -> None:
        """``values``: the parameters; ``fed``: the frozen tensors that are not in the graph."""
        remedies = [memory.SLICES, memory.FEWER_ROWS, "--method finite-difference"]
        memory.require(memory.estimate(graph.program.peak, 0), memory_limit, remedies)
        self._graph = graph
        self._elements = sum(values[n].size for n in graph.parameters)
        self._session = open_session(graph.program, engine)
        self._session.fix({**values, **fed})

    def set_parameters(self, values: Mapping[str, Array]) -> None:
        """Evaluate other parameters from now on."""
        self._session.fix({n: values[n] for n in self._graph.parameters})

    def __call__(self, batch: Mapping[str, Array], scales: Array) -> DeviationResult:
        """``scales`` has one float a scaled tensor."""
        found = self._session({**batch, SCALE_INPUT: np.asarray(scales, np.float32)})
        loss, *vectors = (found[n] for n in self._session.outputs)
        statistics, rest = Statistics(*vectors[:4]), vectors[4:]
        slopes: Array = np.zeros(0)
        if self._graph.with_scale_gradient:
            slopes, *rest = rest
        spread = rest[0]
        return evaluation(float(loss), statistics, self._elements, slopes, extras=[float(spread)])
