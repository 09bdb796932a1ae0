"""Edits of an exported graph: initializers added, merged and replaced, nodes at its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graph_init.ir import Array


class Graph:
    """One graph that is being edited."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._counter = 0
        self._nodes: list[ir.Node] = []

    def floats(self) -> list[ir.Value]:
        """Initializers that may hold a parameter."""
        return [
            v
            for v in self._graph.initializers.values()
            if v.const_value is not None and v.const_value.dtype.is_floating_point()
        ]

    def lift_constants(self) -> None:
        """Turn Constant nodes that hold several floats into initializers."""
        for node in list(self._graph):
            if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
                continue
            attribute = node.attributes.get("value")
            output = node.outputs[0]
            if attribute is None or output.is_graph_output():
                continue
            tensor = attribute.as_tensor()
            if tensor.dtype.is_floating_point() and tensor.size > 1:
                lifted = self.add(self._unused(output.name or "constant"), tensor.numpy())
                output.replace_all_uses_with(lifted)
                self._graph.remove(node, safe=True)

    def add(self, name: str, array: Array) -> ir.Value:
        """A new initializer called ``name``; whatever has the name now gets another."""
        self._free(name)
        array = np.ascontiguousarray(array).reshape(array.shape)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def merge(self, name: str, values: Sequence[ir.Value]) -> ir.Value:
        """One initializer called ``name`` in place of ``values``, which are equal."""
        first, others = values[0], values[1:]
        for other in others:
            self.replace(other, first)
        if first.name != name:
            self._free(name)
            self._rename(first, name)
        return first

    def replace(self, value: ir.Value, other: ir.Value) -> None:
        """``other`` in place of the initializer ``value``."""
        if value.is_graph_output():
            (other,) = self._node("Identity", [other], {})
        value.replace_all_uses_with(other, replace_graph_outputs=True)
        del self._graph.initializers[value.name or ""]

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """A node at the start of the graph."""
        (output,) = self._node(kind, inputs, attributes)
        return output

    def constant(self, numbers: Sequence[int]) -> ir.Value:
        return self.add(self._unused("place"), np.array(numbers, np.int64))

    def _node(
        self, kind: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any]
    ) -> Sequence[ir.Value]:
        node = ir.node(kind, inputs=list(inputs), attributes=dict(attributes))
        node.name = self._unused(f"arrange_{kind.lower()}")
        node.outputs[0].name = node.name
        if self._nodes:
            self._graph.insert_after(self._nodes[-1], node)
        else:
            self._graph.insert_before(self._graph[0], node)
        self._nodes.append(node)
        return node.outputs

    def _names(self) -> dict[str, ir.Value]:
        found = {v.name or "": v for v in [*self._graph.inputs, *self._graph.initializers.values()]}
        for node in self._graph.all_nodes():
            found.update({v.name or "": v for v in node.outputs})
        return found

    def _free(self, name: str) -> None:
        taken = self._names().get(name)
        if taken is not None:
            self._rename(taken, self._unused(f"{name}_exported"))

    def _rename(self, value: ir.Value, name: str) -> None:
        if value.is_initializer():
            # The table of initializers goes by name.
            del self._graph.initializers[value.name or ""]
            value.name = name
            self._graph.register_initializer(value)
        else:
            value.name = name

    def _unused(self, name: str) -> str:
        names = self._names()
        fresh = name
        while fresh in names:
            self._counter += 1
            fresh = f"{name}_{self._counter}"
        return fresh
