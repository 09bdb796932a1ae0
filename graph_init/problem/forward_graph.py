"""From a loaded model to what is differentiated: the lowered forward graph with its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnx_ir

from graph_init.analysis import Parameter
from graph_init.errors import ModelFileError, UnsupportedModelError, UsageError
from graph_init.ir import FLOATS, Array, Builder, Shape, Value
from graph_init.lowering import RULES, Context, run
from graph_init.model.load import LoadedModel
from graph_init.problem import output_head
from graph_init.problem.loss import Objective, attach
from graph_init.problem.loss_choice import AUTO, Choice, Facts, Target
from graph_init.problem.passes import GraphPass, LoweredNode

#: Sizes of symbolic dimensions that --dim does not give.
DEFAULT_BATCH = 16
DEFAULT_SIZE = 32

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


def input_shape(
    name: str,
    dims: Sequence[int | str | None],
    sizes: Mapping[str, int],
    batch_size: int | None,
) -> Shape:
    """Static sizes: the first symbolic axis is the batch, others come from --dim or a default."""
    shape = []
    for axis, dim in enumerate(dims):
        if isinstance(dim, int):
            if axis == 0 and batch_size is not None and dim != batch_size and len(dims) > 1:
                raise UsageError(
                    f"--batch-size {batch_size}: input '{name}' has the fixed batch size {dim}; "
                    "leave the option out or export the model with a dynamic batch"
                )
            shape.append(dim)
        elif dim is not None and dim in sizes:
            shape.append(sizes[dim])
        elif axis == 0:
            shape.append(batch_size or DEFAULT_BATCH)
        else:
            shape.append(DEFAULT_SIZE)
    return tuple(shape)


def build(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    *,
    loss: str | Choice = AUTO,
    output_names: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    batch_norm: str = "eval",
    input_sizes: Mapping[str, Shape] | None = None,
    targets: Mapping[str, Target] = {},
    graph_pass: GraphPass | None = None,
) -> Problem:
    """Lower ``loaded`` with static shapes and attach the loss.

    ``values`` holds every initializer; ``input_sizes`` overrides shapes (real data has its own),
    and ``targets`` says what its labels are like.
    ``graph_pass`` goes over the model's nodes while they are lowered.
    """
    graph = loaded.ir.graph
    sizes = dict(dims or {})
    known = {str(d.value) for v in graph.inputs for d in (v.shape or ()) if not isinstance(d, int)}
    for name in sizes:
        if name not in known:
            raise UsageError(
                f"--dim {name}: the model has no such symbolic dimension; it has "
                + (", ".join(sorted(known - {"None"})) or "none")
            )
    for name in (*(v.name or "" for v in graph.inputs), *graph.initializers):
        if name.startswith(_OWN_NAMES):
            raise UnsupportedModelError(
                f"'{name}': names that begin with '{_OWN_NAMES}' are given by this program; call "
                "that input or initializer otherwise"
            )
    b = Builder()
    environment: dict[str, Value | None] = {"": None}
    inputs, batched = [], set()
    for value in graph.inputs:
        name = value.name or ""
        if name in graph.initializers:
            continue
        if value.dtype is None or value.shape is None:
            raise UnsupportedModelError(
                f"input '{name}' has no element type or shape; export the model with both"
            )
        declared = [d if isinstance(d, int) else d.value for d in value.shape]
        shape = (input_sizes or {}).get(name) or input_shape(name, declared, sizes, batch_size)
        dtype = int(value.dtype.value)
        entry = b.input(name, b.precision if dtype in FLOATS else dtype, shape)
        environment[name] = entry
        inputs.append(entry)
        if declared and not isinstance(declared[0], int):
            batched.add(name)
    trainable = {p.name: p for p in parameters if p.trainable}
    fed: dict[str, Array] = {}
    for name, initializer in graph.initializers.items():
        array = values[name]
        if array.dtype.kind in "OSU":
            if initializer.uses():
                raise UnsupportedModelError(
                    f"initializer '{name}' holds text, with which nothing can be computed; cut the "
                    "model behind its preprocessing"
                )
            continue
        if name in trainable:
            environment[name] = b.input(name, b.precision, array.shape, requires_grad=True)
        elif array.size > _EMBED_LIMIT and array.dtype.kind == "f":
            fed[name] = array
            environment[name] = b.input(name, b.precision, array.shape)
        else:
            environment[name] = b.literal(array)
    tied = {p.name: p.tied_to for p in trainable.values() if p.tied_to in trainable}
    for name, other in tied.items():
        assert other is not None
        source, mine = environment[other], environment[name]
        assert source is not None and mine is not None
        environment[name] = source if source.shape == mine.shape else b.transpose(source, [1, 0])
        del trainable[name]
    opset = loaded.ir.opset_imports.get("", 1)
    nodes = [onnx_ir.to_proto(node) for node in graph]
    context = Context((RULES,), batch_norm)
    lower = partial(run, b, environment=environment, opset=opset, context=context)
    for node in nodes:
        lower([node])
        if graph_pass is not None:
            graph_pass.after(LoweredNode(node, b, environment, lower))
    outputs = [
        (o.name or "", v) for o in graph.outputs if (v := environment.get(o.name or "")) is not None
    ]
    b.source_node = ""
    known_shapes = {n: v.dims for n, v in environment.items() if v is not None}
    heads = {
        o.name or "": output_head.find(graph, o, parameters, known_shapes) for o in graph.outputs
    }
    shapes = [v.dims for v in inputs if v.is_float]
    objective = attach(b, outputs, loss, output_names, Facts(heads, shapes, targets))
    moments = _moments(b, objective.terms[0].prediction)
    forward = b.model([objective.loss, *moments], unused_inputs=True)
    used = {id(v) for n in b.needed([objective.loss]) for v in n.inputs if v is not None}
    batch = next((v.dims[0] for v in inputs if v.shape), batch_size or DEFAULT_BATCH)
    return Problem(
        forward,
        b,
        objective,
        tuple(v for v in inputs if id(v) in used),
        tuple(trainable.values()),
        fed,
        batch,
        tuple(m.name for m in moments),
        frozenset(batched),
        {name: v for name, v in outputs if v.is_float and v.node is not None},
    )


def _moments(b: Builder, prediction: Value) -> tuple[Value, Value]:
    """The standard deviation of the prediction and its mean, over all its elements."""
    axes = list(range(prediction.rank))
    mean = b.mean(prediction, axes)
    centred = b.sub(prediction, mean)
    variance = b.mean(b.mul(centred, centred), axes, keepdims=False)
    return b.op("Sqrt", variance), b.reshape(mean, [])


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
