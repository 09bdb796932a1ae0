"""Nodes as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import helper, numpy_helper

from graph_init.ir.values import (
    GRAPH_INIT,
    IR_VERSION,
    MICROSOFT,
    OPSET,
    STOP_GRADIENT,
    Node,
    Value,
)


def to_model(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]
) -> onnx.ModelProto:
    """The model of ``nodes``, which are in topological order; constants become initializers."""
    read = {id(v): v for n in nodes for v in n.inputs if v is not None}
    read.update({id(v): v for v in outputs})
    graph = helper.make_graph(
        [_node_proto(n) for n in nodes],
        "graph-init",
        [_value_info(v) for v in inputs],
        outputs=[_value_info(v) for v in outputs],
        initializer=[
            numpy_helper.from_array(v.const, v.name) for v in read.values() if v.const is not None
        ],
        value_info=[
            _value_info(o)
            for n in nodes
            for o in n.outputs
            if o is not None and o.shape is not None
        ],
    )
    opsets = {"": OPSET, MICROSOFT: 1}
    if any(n.domain == GRAPH_INIT for n in nodes):
        opsets[GRAPH_INIT] = 1
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=IR_VERSION,
    )


def erase_stop_gradients(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """``nodes``, in topological order, for an engine that does not differentiate them.

    What reads the result of a StopGradient reads its operand. One whose result is among
    ``outputs`` becomes an Identity, so that the output keeps its name.
    """
    named = {id(v) for v in outputs}
    operand: dict[int, Value] = {}
    kept = []
    for node in nodes:
        inputs = tuple(v if v is None else operand.get(id(v), v) for v in node.inputs)
        if node.op == STOP_GRADIENT and node.domain == GRAPH_INIT:
            (source,), (result,) = inputs, node.outputs
            assert source is not None and result is not None
            operand[id(result)] = source
            if id(result) in named:
                kept.append(replace(node, op="Identity", domain="", inputs=(source,)))
        elif inputs != node.inputs:
            kept.append(replace(node, inputs=inputs))
        else:
            kept.append(node)
    return kept


def node_name(node: Node) -> str:
    """What ``node`` is called in a model: after its first output, since no two share that."""
    return f"n:{next(o.name for o in node.outputs if o is not None)}"


def _node_proto(node: Node) -> onnx.NodeProto:
    outputs = [o.name if o is not None else "" for o in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    proto = helper.make_node(
        node.op,
        [v.name if v is not None else "" for v in node.inputs],
        outputs,
        name=node_name(node),
        domain=node.domain,
    )
    proto.attribute.extend(
        helper.make_attribute(k, v) for k, v in node.attrs.items() if v is not None
    )
    return proto


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.dtype, value.shape)
