"""A free batch size, found by comparing translations for several.

JAX traces for fixed shapes. A model that treats the rows of its batch alike gives the same nodes
whatever their number; only some integers differ, which say shapes and bounds. Where those are
linear in the batch size for three sizes, they are computed from the input's shape instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from graph_init.errors import UnsupportedModelError
from graph_init_jax.lowering import Value

Array = np.ndarray

#: Batch sizes that are compared: primes, which other sizes are seldom multiples of.
SIZES = (7, 11, 13)

#: What the free axis is called, and the tensor that holds its length.
AXIS, LENGTH = "batch", "batch.size"


@dataclass(frozen=True)
class Translated:
    """What a function became: nodes in order, the constants they read, inputs and outputs."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    inputs: list[Value]
    outputs: list[Value]


def freed(
    translate: Callable[[Mapping[str, Any]], Translated], inputs: Mapping[str, Any]
) -> Translated | None:
    """The translation for any batch size; None if the model does not have one."""
    length = next((v.shape[0] for v in inputs.values() if v.shape), None)
    if length is None:
        return None
    tried = []
    for size in SIZES:
        specs = {n: _resized(v, length, size) for n, v in inputs.items()}
        try:
            tried.append(translate(specs))
        except UnsupportedModelError:
            return None  # the model needs the example's own size
    return _merged(tried)


def _resized(value: Any, length: int, size: int) -> Any:
    """What stands for ``value`` in a batch of another size."""
    if value.shape[:1] != (length,):
        return value
    shape = (size, *value.shape[1:])
    return jax.ShapeDtypeStruct(shape, value.dtype)  # type: ignore[no-untyped-call]


def _merged(tried: Sequence[Translated]) -> Translated | None:
    """The first translation with what differs from the others computed; None if it cannot be."""
    first = tried[0]
    if len({tuple(_kind(node) for node in t.nodes) for t in tried}) > 1:
        return None
    integers, nodes = _Integers(), []
    for versions in zip(*(t.nodes for t in tried), strict=True):
        node = onnx.NodeProto.FromString(versions[0].SerializeToString())
        for slot, names in enumerate(zip(*(v.input for v in versions), strict=True)):
            held = [t.constants.get(n) for t, n in zip(tried, names, strict=True)]
            if None in held:
                if len(set(names)) > 1:
                    return None
                continue
            arrays = [numpy_helper.to_array(t) for t in held if t is not None]
            if all(_same(arrays[0], array) for array in arrays):
                continue
            name = integers.name(arrays, node.op_type == "Reshape")
            if name is None:
                return None
            node.input[slot] = name
        nodes.append(node)
    if integers.nodes:
        counted = next(v.name for v in first.inputs if v.shape[:1] == SIZES[:1])
        size = helper.make_node("Shape", [counted], [LENGTH], LENGTH, start=0, end=1)
        nodes = [size, *integers.nodes, *nodes]
    read = {name for node in nodes for name in node.input}
    constants = {**first.constants, **integers.constants}
    kept = {name: tensor for name, tensor in constants.items() if name in read}
    inputs = _with_axis([t.inputs for t in tried])
    return Translated(nodes, kept, inputs, _with_axis([t.outputs for t in tried]))


def _kind(node: onnx.NodeProto) -> tuple[Any, ...]:
    """What has to be equal in all translations: a node without the constants that it reads."""
    attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.name, len(node.input), tuple(node.output), attributes


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


class _Integers:
    """Constants that are linear in the batch size, and the nodes that compute them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def name(self, arrays: Sequence[Array], is_reshape: bool) -> str | None:
        """The tensor that is ``arrays[k]`` for a batch of ``SIZES[k]``, None if not linear."""
        shapes = {(a.shape, a.dtype) for a in arrays}
        if shapes != {(arrays[0].shape, np.dtype(np.int64))} or arrays[0].ndim != 1:
            return None
        slope = (arrays[1] - arrays[0]) // (SIZES[1] - SIZES[0])
        offset = arrays[0] - slope * SIZES[0]
        if any(
            not np.array_equal(slope * size + offset, array)
            for size, array in zip(SIZES, arrays, strict=True)
        ):
            return None
        moving = np.flatnonzero(slope)
        if is_reshape and len(moving) == 1:
            return self._constant(np.where(slope != 0, -1, arrays[0]))
        scaled = self._node("Mul", LENGTH, self._constant(slope))
        return self._node("Add", scaled, self._constant(offset))

    def _constant(self, array: Array) -> str:
        name = f"constant.batch.{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array.astype(np.int64), name)
        return name

    def _node(self, op: str, *inputs: str) -> str:
        name = f"{LENGTH}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name))
        return name


def _with_axis(versions: Sequence[Sequence[Value]]) -> list[Value]:
    """The values with `AXIS` for a length that is the batch's, None for others that differ."""
    result = []
    for values in zip(*versions, strict=True):
        shape: list[Any] = []
        for lengths in zip(*(v.shape for v in values), strict=True):
            differing = AXIS if lengths == SIZES else None
            shape.append(lengths[0] if len(set(lengths)) == 1 else differing)
        first = values[0]
        result.append(Value(tuple(shape), first.dtype, tuple(shape), first.name))
    return result
