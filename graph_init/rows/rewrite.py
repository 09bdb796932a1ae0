"""Changes a model's own graph so that its batch has any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graph_init.model.bodies import names_inside
from graph_init.rows.follow import Followed
from graph_init.rows.layout import Count, Entry, Patch, Rows


def rewritten(proto: onnx.ModelProto, starts: Mapping[str, Rows], followed: Followed) -> str:
    """Change ``proto`` in place; the name of its batch is returned.

    ``starts``: where the inputs have rows.
    """
    graph = proto.graph
    batch = _unused("batch", _dimensions(graph))
    writer = _Writer(graph, starts)
    nodes = list(graph.node)
    for node in nodes:
        key = next((o for o in node.output if o), "")
        for patch in followed.patches.get(key, ()):
            node.input[patch.slot] = writer.patched(node.input[patch.slot], patch, key)
        writer.made.append(node)
    head = writer.head
    del graph.node[:]
    graph.node.extend([*head, *writer.made])
    for value in _declared(graph):
        place = followed.places.get(value.name)
        if place is not None and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            if len(dims) > place.axis:
                dims[place.axis].Clear()
                if place.alone:
                    dims[place.axis].dim_param = batch
    _drop_unused(graph)
    return batch


def _declared(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """All values whose shapes are written down, in bodies, too."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _declared(attribute.g)


def _dimensions(graph: onnx.GraphProto) -> set[str]:
    return {d.dim_param for v in _declared(graph) for d in v.type.tensor_type.shape.dim}


def _unused(name: str, taken: set[str]) -> str:
    found = name
    for k in range(1, len(taken) + 2):
        if found not in taken:
            break
        found = f"{name}_{k}"
    return found


class _Writer:
    """Makes the vectors that nodes read instead of constants."""

    def __init__(self, graph: onnx.GraphProto, starts: Mapping[str, Rows]) -> None:
        self._graph = graph
        (self._input, rows), *_ = starts.items()
        self._axis = rows.axis
        self._taken = {n for node in graph.node for n in (*node.output, *node.input)}
        self._taken |= {t.name for t in graph.initializer} | {v.name for v in graph.input}
        self._taken |= {n for node in graph.node for n in names_inside(node)}
        self._counts: dict[int, str] = {}
        self._vectors: dict[tuple[bool, tuple[int, ...]], str] = {}
        #: Nodes that go before all others, and the graph's own with what they need before them.
        self.head: list[onnx.NodeProto] = []
        self.made: list[onnx.NodeProto] = []

    def patched(self, value: str, patch: Patch, node: str) -> str:
        """The name of what is read in place of ``value`` by the node that makes ``node``."""
        vector = self._vector(value, patch.vector, node, patch.narrow)
        if not patch.through:
            return vector
        return self._node(self.made, patch.through, [value, vector], f"{value}_rows")

    def _vector(self, value: str, entries: Sequence[Entry], node: str, narrow: bool) -> str:
        parts: list[str] = []
        for entry, start, end in _runs(entries):
            if isinstance(entry, Count):
                parts.append(self._count(entry.factor))
            elif entry is None:
                cut = [self._constant((start,)), self._constant((end,))]
                parts.append(self._node(self.made, "Slice", [value, *cut], f"{node}_kept"))
            else:
                numbers = tuple(e for e in entries[start:end] if isinstance(e, int))
                parts.append(self._constant(numbers, narrow))
        if len(parts) == 1:
            return parts[0]
        return self._node(self.made, "Concat", parts, f"{node}_shape", axis=0)

    def _constant(self, numbers: tuple[int, ...], narrow: bool = False) -> str:
        key = (narrow, numbers)
        if key not in self._vectors:
            name = self._name("batch_" + "_".join(str(n).replace("-", "m") for n in numbers))
            array = np.array(numbers, np.int32 if narrow else np.int64)
            self._vectors[key] = name
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return self._vectors[key]

    def _count(self, factor: int) -> str:
        """So many times the number of rows, as a vector of one."""
        if not self._counts:
            shape = self._node(self.head, "Shape", [self._input], "batch_input_shape")
            place = self._constant((self._axis,))
            self._counts[1] = self._node(self.head, "Gather", [shape, place], "batch_rows", axis=0)
        if factor not in self._counts:
            ins = [self._counts[1], self._constant((factor,))]
            self._counts[factor] = self._node(self.head, "Mul", ins, f"batch_rows_{factor}")
        return self._counts[factor]

    def _node(
        self, into: list[onnx.NodeProto], op: str, ins: list[str], out: str, **attributes: int
    ) -> str:
        name = self._name(out)
        made = helper.make_node(op, ins, [name], name)
        made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        into.append(made)
        return name

    def _name(self, wanted: str) -> str:
        name = _unused(wanted, self._taken)
        self._taken.add(name)
        return name


def _runs(entries: Sequence[Entry]) -> Iterator[tuple[Entry, int, int]]:
    """Neighbours of one kind: the first of them, and where they begin and end."""
    start = 0
    for k in range(1, len(entries) + 1):
        ends = k == len(entries) or type(entries[k]) is not type(entries[start])
        if ends or isinstance(entries[start], Count):
            yield entries[start], start, k
            start = k


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove Constant nodes and initializers of integers that nothing reads any more."""
    read = {n for node in graph.node for n in (*node.input, *names_inside(node))}
    read |= {v.name for v in graph.output} | {v.name for v in graph.input}
    for position in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[position]
        if tensor.data_type == onnx.TensorProto.INT64 and tensor.name not in read:
            del graph.initializer[position]
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.op_type == "Constant" and not read.intersection(node.output):
            del graph.node[position]
