"""The forward graph and its gradient in primitives, from which every derivative is taken."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, numpy_helper

from graph_init.autodiff import reverse
from graph_init.autodiff.forms import FORMS
from graph_init.autodiff.gradient import build_gradient
from graph_init.engine.choice import Engine, choose
from graph_init.errors import UnsupportedModelError
from graph_init.ir import OPSET, Builder, Node, Value, sources
from graph_init.lowering import GRADIENT_RULES, RULES, Context, run

SCALE_INPUT = "graph_init.scales"
PACKED_INPUT = "graph_init.parameters"

#: What each name of the forward graph stands for.
Environment = dict[str, Value | None]


@dataclass(frozen=True)
class Primal:
    """A gradient graph.

    ``theta`` has every parameter as the graph uses it, ``gradients`` the derivatives of ``loss`` in
    those on which it depends, of the same shapes; ``extras`` are further outputs of the forward
    graph.
    """

    builder: Builder
    theta: dict[str, Value]
    gradients: dict[str, Value]
    loss: Value
    extras: list[Value]


def build(
    forward: onnx.ModelProto,
    loss: str,
    parameters: Sequence[str],
    scaled: Sequence[str] = (),
    extra_outputs: Sequence[str] = (),
    *,
    packed: bool = False,
    engine: Engine | None = None,
) -> Primal:
    """The gradient graph of a lowered ``forward`` model, on a new builder.

    ``parameters`` names the graph inputs that are trainable. Those in ``scaled`` enter as sₖ·dₖ,
    with s the float32 input :data:`SCALE_INPUT` of shape (len(scaled),) and d the named input.
    ``packed``: all parameters, in order, are parts of one input :data:`PACKED_INPUT` instead.
    ``engine``: what will run the graph; by default :func:`graph_init.engine.choice.choose`'s.
    Raises UnsupportedModelError if the loss depends on none of them.
    """
    wanted = set(parameters)
    types = {i.name: i.type.tensor_type.elem_type for i in forward.graph.input}
    chosen = choose() if engine is None else engine
    b = Builder(types[parameters[0]], fuses=True, forms=FORMS[chosen.kernels])
    environment: Environment = {}
    if packed:
        environment.update(_parts(b, forward, parameters))
    for info in forward.graph.input:
        if info.name in environment:
            continue
        tensor = info.type.tensor_type
        shape = tuple(d.dim_value for d in tensor.shape.dim)
        environment[info.name] = b.input(
            info.name, tensor.elem_type, shape, requires_grad=info.name in wanted
        )
    if scaled:
        scales = b.input(SCALE_INPUT, TensorProto.FLOAT, (len(scaled),))
        for k, n in enumerate(scaled):
            stored = environment[n]
            assert stored is not None
            s = b.reshape(b.op("Slice", scales, b.ints([k]), b.ints([k + 1])), [])
            scaled_value = b.mul(stored, b.cast(s, stored.dtype))
            scaled_value.requires_grad = True
            environment[n] = scaled_value
    theta = {n: v for n in parameters if (v := environment[n]) is not None}
    differentiate = own_gradients if chosen.own else engine_gradients
    environment, gradients = differentiate(b, forward, environment, loss, theta=theta)
    if not gradients:
        raise UnsupportedModelError(
            "the loss has no gradient in any trainable parameter (first of them: "
            f"'{parameters[0]}'); see `graph-init inspect`"
        )
    loss_value = environment[loss]
    assert loss_value is not None
    extras = [v for n in extra_outputs if (v := environment[n]) is not None]
    return Primal(builder=b, theta=theta, gradients=gradients, loss=loss_value, extras=extras)


def own_gradients(
    b: Builder,
    forward: onnx.ModelProto,
    environment: Environment,
    loss: str,
    theta: Mapping[str, Value],
) -> tuple[Environment, dict[str, Value]]:
    """By :mod:`graph_init.autodiff.reverse`."""
    _lower(b, forward, environment, sources(forward))
    value = environment[loss]
    assert value is not None
    found = reverse.gradients(b, value, theta.values())
    return environment, {n: found[v] for n, v in theta.items() if v in found}


def engine_gradients(
    b: Builder,
    forward: onnx.ModelProto,
    environment: Environment,
    loss: str,
    theta: Mapping[str, Value],
) -> tuple[Environment, dict[str, Value]]:
    """By the gradient builder of onnxruntime's training build."""
    model, aliases = build_gradient(forward, loss, list(theta))
    environment = {aliases[n]: v for n, v in environment.items()}
    _lower(b, model, environment, sources(forward))
    gradients = {}
    for n, value in theta.items():
        gradient = environment.get(f"{aliases[n]}_grad")
        if gradient is not None:
            same = gradient.shape == value.shape
            gradients[n] = gradient if same else b.reshape(gradient, value.dims)
    return environment, gradients


def _lower(
    b: Builder,
    model: onnx.ModelProto,
    environment: Environment,
    known: Mapping[str, tuple[str, str]],
) -> None:
    """Append the nodes of ``model``; ``known`` says which of the user's nodes they come from."""
    for initializer in model.graph.initializer:
        environment[initializer.name] = b.literal(numpy_helper.to_array(initializer))
    _name_sources(b, model, known)
    run(b, model.graph.node, environment, OPSET, context=Context((GRADIENT_RULES, RULES)))
    b.source_node = ""


def _name_sources(b: Builder, model: onnx.ModelProto, known: Mapping[str, tuple[str, str]]) -> None:
    """Call the nodes of ``model`` what those of the user's model are called that they come from.

    The gradient's are called what the node is called whose gradient they compute, and more. Those
    of the loss come from none.
    """
    for node in model.graph.node:
        own = ("", node.name or node.output[0])
        found = known.get(node.name) or known.get(node.name.rpartition("_Grad/")[0], own)
        operator, node.name = found
        b.operators[node.name] = operator


def _parts(b: Builder, forward: onnx.ModelProto, parameters: Sequence[str]) -> dict[str, Value]:
    """The parameters as parts of one vector."""
    types = {i.name: i.type.tensor_type for i in forward.graph.input}
    shapes = [tuple(d.dim_value for d in types[n].shape.dim) for n in parameters]
    sizes = [math.prod(s) for s in shapes]
    vector = b.input(PACKED_INPUT, b.precision, (sum(sizes),), requires_grad=True)
    parts = b.multi("Split", [vector, b.ints(sizes)], [True] * len(sizes), attrs={"axis": 0})
    named = zip(parameters, parts, shapes, strict=True)
    return {n: b.reshape(part, shape) for n, part, shape in named if part is not None}


def inwards(p: Primal) -> Primal:
    """``p`` with parameters, and their gradients, behind the views through which they are read.

    That is done where a parameter is read through one view alone. Then nothing that is done element
    by element is rearranged on its way.
    """
    b = p.builder
    readers: dict[int, list[Node]] = defaultdict(list)
    for node in b.needed([p.loss, *p.extras, *p.gradients.values()]):
        for value in node.inputs:
            if value is not None:
                readers[id(value)].append(node)
    theta, gradients = dict(p.theta), dict(p.gradients)
    for n in p.gradients:
        while len(found := readers[id(theta[n])]) == 1 and found[0].op in ("Reshape", "Transpose"):
            view, perm = found[0].outputs[0], found[0].attrs.get("perm")
            assert view is not None
            theta[n], g = view, gradients[n]
            gradients[n] = b.reshape(g, view.dims) if perm is None else b.transpose(g, perm)
    return replace(p, theta=theta, gradients=gradients)
