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

import onnx

from graph_init.autodiff.gradient import build_gradient
from graph_init.autodiff.tangent import tangents
from graph_init.builder import Builder, Value
from graph_init.errors import UnsupportedModelError
from graph_init.lowering import GRADIENT_RULES, RULES, Context, run

#: ε of the published algorithm.
EPSILON = 1e-5

SCALE_INPUT = "graph_init.scales"
#: The outputs of the graph, in order; all but the loss have one element a parameter.
STATISTICS = ("deviation_sum", "vanished", "gradient_square", "value_square")


@dataclass(frozen=True)
class MetaGraph:
    """The finished graph: inputs are the batch, the parameters and the vector of scales."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
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
) -> MetaGraph:
    """The meta-step graph of a lowered ``forward`` model.

    ``parameters`` names the graph inputs that are trainable; ``scaled`` those among them that enter
    as sₖ·dₖ, in the order of the scale vector. Outputs: loss (scalar), the vectors of
    :data:`STATISTICS` over ``parameters``, and with ``scale_gradient`` ∂GD/∂log s over ``scaled``.
    """
    b, theta, gradients, loss_value, extras = gradient_graph(
        forward, loss, parameters, scaled, extra_outputs
    )
    names = [n for n in parameters if n in gradients]
    missing = sorted(set(parameters) - set(names))
    if not names:
        raise UnsupportedModelError(
            "the loss has no gradient in any trainable parameter (first of them: "
            f"'{missing[0]}'); see `graph-init inspect`"
        )
    primal = b.needed([*gradients.values()])
    count = sum(theta[n].size for n in parameters)

    # T1: one tangent of the gradient, along a direction d whose value is g.
    direction = {n: b.barrier(gradients[n]) for n in names}
    first = tangents(b, primal, {theta[n]: direction[n] for n in names})
    hessian_gradient = {n: first.get(gradients[n]) for n in names}

    sums, vanished, squares, values, us, vs = [], [], [], [], {}, {}
    for n in parameters:
        values.append(_total(b, b.mul(theta[n], theta[n])))
        if n not in gradients:  # the loss does not depend on it: g = 0 and r = 1
            sums.append(b.scalar(float(theta[n].size), theta[n]))
            vanished.append(b.scalar(float(theta[n].size), theta[n]))
            squares.append(b.scalar(0.0, theta[n]))
            continue
        g, hg = gradients[n], hessian_gradient[n]
        eps = b.scalar(epsilon, g)
        e = b.where(b.op("GreaterOrEqual", g, b.scalar(0.0, g)), eps, b.op("Neg", eps))
        inverse = b.reciprocal(b.add(g, e))
        r = b.mul(e if hg is None else b.add(hg, e), inverse)
        u = b.mul(b.op("Sign", r), inverse)
        us[n], vs[n] = u, b.mul(u, r)
        sums.append(_total(b, b.op("Abs", r)))
        small = b.cast(b.op("Less", b.op("Abs", g), eps), g.dtype)
        vanished.append(_total(b, small))
        squares.append(_total(b, b.mul(g, g)))
    outputs = [loss_value, *(_vector(b, v) for v in (sums, vanished, squares, values))]

    if scale_gradient and scaled:
        # Hu on the same nodes; the builder finds these again when the mixed tangent asks for them.
        second = tangents(b, primal, {theta[n]: us[n] for n in names})
        zs = {}
        for n in names:
            hu = second.get(gradients[n])
            zs[n] = b.op("Neg", vs[n]) if hu is None else b.sub(hu, vs[n])
        seeds = {theta[n]: us[n] for n in names} | {direction[n]: zs[n] for n in names}
        # All nodes behind Hg, not just the new ones: the builder may have found some of them among
        # the forward nodes, which the gradient alone does not need.
        chain = b.needed([v for v in hessian_gradient.values() if v is not None])
        mixed = tangents(b, chain, seeds)
        slopes = []
        for n in scaled:
            hg = hessian_gradient.get(n)
            bracket = mixed.get(hg) if hg is not None else None
            slopes.append(
                b.scalar(0.0, theta[n])
                if bracket is None
                else b.scale(_total(b, b.mul(theta[n], bracket)), 1.0 / count)
            )
        outputs.append(_vector(b, slopes))
    outputs.extend(extras)
    model = b.model(outputs)
    return MetaGraph(
        model,
        tuple(i.name for i in model.graph.input),
        tuple(parameters),
        tuple(scaled),
        scale_gradient and bool(scaled),
    )


def _total(b: Builder, value: Value) -> Value:
    return b.sum(value, keepdims=False)


def _vector(b: Builder, scalars: Sequence[Value]) -> Value:
    return b.op("Concat", *(b.reshape(s, [1]) for s in scalars), axis=0)


def gradient_graph(
    forward: onnx.ModelProto,
    loss: str,
    parameters: Sequence[str],
    scaled: Sequence[str],
    extra_outputs: Sequence[str],
) -> tuple[Builder, Mapping[str, Value], dict[str, Value], Value, list[Value]]:
    """The gradient graph of ``forward`` on a new builder, in primitives."""
    from onnx import TensorProto, numpy_helper

    model = build_gradient(forward, loss, parameters)
    wanted = set(parameters)
    types = {i.name: i.type.tensor_type.elem_type for i in forward.graph.input}
    b = Builder(types[parameters[0]])
    environment: dict[str, Value | None] = {}
    for info in forward.graph.input:
        tensor = info.type.tensor_type
        shape = tuple(d.dim_value for d in tensor.shape.dim)
        environment[info.name] = b.input(
            info.name, tensor.elem_type, shape, active=info.name in wanted
        )
    for initializer in model.graph.initializer:
        environment[initializer.name] = b.literal(numpy_helper.to_array(initializer))
    if scaled:
        scales = b.input(SCALE_INPUT, TensorProto.FLOAT, (len(scaled),))
        for k, n in enumerate(scaled):
            stored = environment[n]
            assert stored is not None
            s = b.reshape(b.op("Slice", scales, b.ints([k]), b.ints([k + 1])), [])
            theta = b.mul(stored, b.cast(s, stored.dtype))
            theta.active = True
            environment[n] = theta
    theta_of = {}
    for n in parameters:
        value = environment[n]
        assert value is not None
        theta_of[n] = value
    run(b, model.graph.node, environment, 21, context=Context((GRADIENT_RULES, RULES)))
    gradients = {}
    for n in parameters:
        gradient = environment.get(f"{n}_grad")
        if gradient is not None:
            theta = theta_of[n]
            gradients[n] = (
                gradient if gradient.shape == theta.shape else b.reshape(gradient, theta.dims)
            )
    loss_value = environment[loss]
    assert loss_value is not None
    extras = [v for n in extra_outputs if (v := environment[n]) is not None]
    return b, theta_of, gradients, loss_value, extras
