"""What tf2onnx leaves to be done."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graph_init.errors import UnsupportedModelError

#: The operators' version; ONNX Runtime 1.19 reads it.
OPSET = 18


def finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto``, changed: with Erfc, and refused where an operator of TensorFlow's is left over.

    tf2onnx keeps what it does not know as it is. Erfc is in every GELU.
    """
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type == "Erfc":
            nodes += _complement(proto.graph, node)
        elif not onnx.defs.has(node.op_type, node.domain):
            raise UnsupportedModelError(
                f"'{node.name}' cannot be exported: tf2onnx does not know TensorFlow's "
                f"'{node.op_type}'"
            )
        else:
            nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def _complement(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """1 - erf(x)."""
    one, error = f"{node.name}/one", f"{node.name}/erf"
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
    return [
        helper.make_node("Erf", list(node.input), [error], error),
        helper.make_node("Sub", [one, error], list(node.output), node.name),
    ]
