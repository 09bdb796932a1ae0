"""From a loaded model to what is differentiated: the lowered forward graph with its loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir

from graph_init.analysis import Parameter
from graph_init.errors import ModelFileError, UnsupportedModelError
from graph_init.ir import FLOATS, Array, Builder, Value, variance
from graph_init.lowering import RULES, Context, run
from graph_init.lowering.registry import Environment, Lower
from graph_init.model.load import LoadedModel
from graph_init.problem import output_head
from graph_init.problem.loss import Objective, attach
from graph_init.problem.loss_choice import AUTO, Choice, Facts, Target
from graph_init.problem.passes import GraphPass, LoweredNode
from graph_init.sizes import Signature, inputs_of

#: Frozen tensors above this many elements are fed instead of stored in the graph.
_EMBED_LIMIT = 1 << 16


#: Inputs of derived graphs, beside the model's own, begin so.
_OWN_NAMES = "graph_init."


@dataclass(frozen=True)
class Problem:
    """A lowered forward graph with a loss.

    ``forward`` takes the batch (``inputs`` and the objective's target), the trainable tensors and
    ``fed`` (large frozen ones) and returns the loss and, named in ``extras``, the prediction's
    standard deviation and mean. ``batched`` names the inputs of which each row has its own part.
    ``outputs`` are the model's own float outputs, on the builder.
    """

    forward: onnx.ModelProto
    builder: Builder
    objective: Objective
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    fed: Mapping[str, Array]
    batch_size: int
    extras: tuple[str, ...]
    batched: frozenset[str]
    outputs: Mapping[str, Value]


@dataclass(frozen=True)
class GraphSettings:
    """What a forward graph is built for: its inputs, and its loss.

    ``loss`` and ``output_names`` are as in :func:`graph_init.problem.loss.attach`, and ``targets``
    says what the labels of the data are like. ``batch_norm`` is the mode of the model's
    BatchNormalization, eval or train.
    """

    signature: Signature
    loss: str | Choice = AUTO
    output_names: Sequence[str] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)
    batch_norm: str = "eval"


def build(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    settings: GraphSettings,
    *,
    graph_pass: GraphPass | None = None,
) -> Problem:
    """Lower ``loaded`` with static shapes and attach the loss.

    ``values`` holds every initializer. ``graph_pass`` goes over the model's nodes while they are
    lowered. Raises UsageError for settings that do not fit the model, and UnsupportedModelError
    for a model that cannot be lowered or has no output to put a loss on.
    """
    graph = loaded.ir.graph
    _check_names(graph)
    b = Builder()
    inputs, steering = _add_inputs(b, loaded.ir, settings.signature)
    trainable = {p.name: p for p in parameters if p.trainable}
    weights, fed = _add_initializers(b, graph, values, trainable)
    for name in _tie(b, weights, trainable):
        del trainable[name]
    environment: dict[str, Value | None] = {"": None, **inputs, **steering, **weights}
    opset = loaded.ir.opset_imports.get("", 1)
    context = Context((RULES,), settings.batch_norm, _after(b, environment, graph_pass))
    nodes = [onnx_ir.to_proto(node) for node in graph]
    run(b, nodes, environment, opset=opset, context=context)
    b.source_node = ""
    outputs = [
        (o.name or "", v) for o in graph.outputs if (v := environment.get(o.name or "")) is not None
    ]
    shapes = {n: v.shape for n, v in environment.items() if v is not None and v.shape}
    heads = {o.name or "": output_head.find(graph, o, parameters, shapes) for o in graph.outputs}
    facts = Facts(heads, [v.dims for v in inputs.values() if v.is_float], settings.targets)
    objective = attach(b, outputs, settings.loss, settings.output_names, facts=facts)
    moments = _moments(b, objective.terms[0].prediction)
    used = {id(v) for n in b.needed([objective.loss]) for v in n.inputs if v is not None}
    leading = (v.dims[0] for v in inputs.values() if v.shape)
    return Problem(
        forward=b.model([objective.loss, *moments], unused_inputs=True),
        builder=b,
        objective=objective,
        inputs=tuple(v for v in inputs.values() if id(v) in used),
        parameters=tuple(trainable.values()),
        fed=fed,
        batch_size=settings.signature.rows or next(leading, 1),
        extras=tuple(m.name for m in moments),
        batched=settings.signature.batched,
        outputs={name: v for name, v in outputs if v.is_float and v.node is not None},
    )


def _after(
    b: Builder, outermost: Mapping[str, Value | None], graph_pass: GraphPass | None
) -> Callable[[onnx.NodeProto, Environment, Lower], None] | None:
    """Takes ``graph_pass`` over a graph whose names stand for ``outermost``."""
    if graph_pass is None:
        return None

    def after(node: onnx.NodeProto, environment: Environment, lower: Lower) -> None:
        if graph_pass.inside or environment is outermost:
            graph_pass.after(LoweredNode(node, b, environment, lower))

    return after


def _check_names(graph: onnx_ir.Graph) -> None:
    for name in (*(v.name or "" for v in graph.inputs), *graph.initializers):
        if name.startswith(_OWN_NAMES):
            raise UnsupportedModelError(
                f"'{name}': names that begin with '{_OWN_NAMES}' are reserved for the inputs that "
                "graph-init adds; rename that input or initializer"
            )


def _add_inputs(
    b: Builder, model: onnx_ir.Model, signature: Signature
) -> tuple[dict[str, Value], dict[str, Value]]:
    """The model's inputs with static shapes, and as constants those that steer."""
    added, steering = {}, {}
    for value in inputs_of(model):
        name, dtype = value.name or "", value.dtype
        assert dtype is not None  # else there is no signature
        if name in signature.values:
            steering[name] = b.literal(signature.values[name].value)
        else:
            kind = b.precision if int(dtype.value) in FLOATS else int(dtype.value)
            added[name] = b.input(name, kind, signature.shape(name))
    return added, steering


def _add_initializers(
    b: Builder,
    graph: onnx_ir.Graph,
    values: Mapping[str, Array],
    trainable: Collection[str],
) -> tuple[dict[str, Value], dict[str, Array]]:
    """The initializers as inputs or constants, and the arrays of those that are fed."""
    added: dict[str, Value] = {}
    fed: dict[str, Array] = {}
    for name, initializer in graph.initializers.items():
        array = values[name]
        if array.dtype.kind in "OSU":
            if initializer.uses():
                raise UnsupportedModelError(
                    f"initializer '{name}' holds text, which graph-init cannot compute with; "
                    "export the model without its preprocessing of text"
                )
        elif name in trainable:
            added[name] = b.input(name, b.precision, array.shape, requires_grad=True)
        elif array.size > _EMBED_LIMIT and array.dtype.kind == "f":
            fed[name] = array
            added[name] = b.input(name, b.precision, array.shape)
        else:
            added[name] = b.literal(array)
    return added, fed


def _tie(b: Builder, weights: dict[str, Value], trainable: Mapping[str, Parameter]) -> list[str]:
    """Let each tied parameter stand for the one that it is tied to; the names of the tied ones.

    One of another shape is the transpose.
    """
    tied = {p.name: p.tied_to for p in trainable.values() if p.tied_to in trainable}
    for name, other in tied.items():
        assert other is not None
        source, mine = weights[other], weights[name]
        weights[name] = source if source.shape == mine.shape else b.transpose(source, [1, 0])
    return list(tied)


def _moments(b: Builder, prediction: Value) -> tuple[Value, Value]:
    """The standard deviation of the prediction and its mean, over all its elements."""
    axes = list(range(prediction.rank))
    square = variance(b, prediction, axes, keepdims=False)
    return b.op("Sqrt", square), b.reshape(b.mean(prediction, axes), [])


def initial_values(loaded: LoadedModel) -> dict[str, Array]:
    """Every initializer as an array: floats in float32, C order."""
    values = {}
    for name, value in loaded.ir.graph.initializers.items():
        if value.const_value is None:
            raise ModelFileError(f"initializer '{name}' has no data")
        array = value.const_value.numpy()
        kind = int(value.const_value.dtype.value)
        with np.errstate(over="ignore"):  # found, and named, when the loss is not finite
            values[name] = np.ascontiguousarray(array, np.float32) if kind in FLOATS else array
    return values
