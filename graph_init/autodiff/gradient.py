"""The one place that touches onnxruntime-training's gradient builder.

Another builder can take its place by offering the same function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from graph_init.engine import failures
from graph_init.engine.runtime import SILENT, bindings, onnxruntime
from graph_init.ir import GRAPH_INIT, ZERO_DERIVATIVE, Site, sources, topological


def build_gradient(
    model: onnx.ModelProto, loss: str, parameters: Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Append to ``model`` the nodes that compute d loss / d parameter.

    ``parameters`` names graph inputs. All graph inputs have other names in the result, given
    second: theirs may be any, also those that the builder makes. The gradient of what is called
    ``p`` there is the value ``p + "_grad"``, which is missing where the loss does not depend on it.
    The result holds the forward nodes too, in topological order. Raises
    UnsupportedModelError, which names the node, where an operator has no gradient.
    """
    aliases = {value.name: f"input:{k}" for k, value in enumerate(model.graph.input)}
    model = _with_aliases(model, aliases)
    return _build(model, loss, [aliases[p] for p in parameters]), aliases


def _with_aliases(model: onnx.ModelProto, aliases: Mapping[str, str]) -> onnx.ModelProto:
    """A copy of ``model`` in which graph inputs are renamed."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for value in result.graph.input:
        value.name = aliases[value.name]
    for node in result.graph.node:
        for k, name in enumerate(node.input):
            if name in aliases:
                node.input[k] = aliases[name]
    return result


def _build(model: onnx.ModelProto, loss: str, parameters: Sequence[str]) -> onnx.ModelProto:
    engine = bindings()
    options = onnxruntime().SessionOptions()
    options.log_severity_level = SILENT
    smooth, constant = _set_aside(_without_repeats(model))
    moving = set(parameters) & _reaching(smooth.graph.node, loss)
    if not moving:
        return model
    try:
        builder = engine.GradientGraphBuilder(
            smooth.SerializeToString(), {loss}, moving, loss_node_arg_name=loss, options=options
        )
        builder.build()
        result = onnx.load_from_string(builder.get_model())
    except Exception as error:  # the engine raises RuntimeError and its own Fail alike
        raise failures.translated(
            error, "cannot be differentiated by the engine", _sites(model)
        ) from error
    if constant:
        nodes = _sorted([*constant, *result.graph.node])
        del result.graph.node[:]
        result.graph.node.extend(nodes)
        kept = {i.name for i in result.graph.initializer}
        result.graph.initializer.extend(i for i in model.graph.initializer if i.name not in kept)
    return result


def _sites(model: onnx.ModelProto) -> dict[str, Site]:
    """Where the nodes of a graph of ours come from, by name."""
    graph = model.graph
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    known = sources(model)
    return {
        n.name: Site(
            n.op_type,
            *known.get(n.name, ("", ""))[::-1],
            tuple(shapes.get(i) for i in n.input if i),
        )
        for n in graph.node
    }


def _reaching(nodes: Sequence[onnx.NodeProto], loss: str) -> set[str]:
    """The names of all values on which ``loss`` depends; ``nodes`` in topological order."""
    live = {loss}
    for node in reversed(nodes):
        if not live.isdisjoint(node.output):
            live.update(node.input)
    return live


def _without_repeats(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with copies of what the builder would make two gradients of under one name.

    That is a value that one node reads twice, and a constant that more than one Concat reads.
    """
    made = {o for n in model.graph.node for o in n.output}
    joined: set[str] = set()  # constants that a Concat has read
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        taken = set(joined) if node.op_type == "Concat" else set()
        changed = node
        for k, name in enumerate(node.input):
            if name and name in taken:
                if changed is node:
                    changed = onnx.NodeProto()
                    changed.CopyFrom(node)
                changed.input[k] = f"{name}:{node.output[0]}:{k}"
                nodes.append(onnx.helper.make_node("Identity", [name], [changed.input[k]]))
            taken.add(name)
        if node.op_type == "Concat":
            joined.update(i for i in node.input if i not in made)
        nodes.append(changed)
    if len(nodes) == len(model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _set_aside(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """``model`` without the nodes that have no derivative, and these.

    Their outputs become graph inputs, at which the gradient stops: the builder knows no gradient
    for most of them, and would take a frozen value for a moving one.
    """
    known = {v.name: v for v in model.graph.value_info}
    aside = [
        n
        for n in model.graph.node
        if n.domain in ("", GRAPH_INIT)
        and n.op_type in ZERO_DERIVATIVE
        and n.input
        and all(o in known for o in n.output if o)
    ]
    if not aside:
        return model, []
    gone = {id(n) for n in aside}
    outputs = {o for n in aside for o in n.output if o}
    smooth = onnx.ModelProto()
    smooth.CopyFrom(model)
    del smooth.graph.node[:]
    smooth.graph.node.extend(n for n in model.graph.node if id(n) not in gone)
    del smooth.graph.value_info[:]
    smooth.graph.value_info.extend(v for v in known.values() if v.name not in outputs)
    read = {i for n in smooth.graph.node for i in n.input}
    smooth.graph.input.extend(v for v in known.values() if v.name in outputs & read)
    return smooth, aside


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``nodes`` in topological order, each as early as the given order allows."""
    makes = [[o for o in n.output if o] for n in nodes]
    return [nodes[i] for i in topological([n.input for n in nodes], makes, rank=lambda i: i)]
