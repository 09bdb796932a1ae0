"""The ONNX graph that is being written, and the values of a jaxpr in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray
Shape = tuple[int, ...]

#: How the initializers are called that hold what the function computes from no parameter.
CONSTANT = "constant."

#: Elements above which a constant that repeats itself is stored once, and enlarged by a node.
_EXPANDED = 16


@dataclass(frozen=True)
class Value:
    """A value of the jaxpr: known (``data``), or the tensor ``name`` of the graph.

    The tensor may be smaller than the value: its shape is ``stored``, which broadcasts to
    ``shape``. An elementwise operator can take it as it is; `Graph.full` enlarges it.
    """

    shape: Shape
    dtype: Any
    stored: Shape
    name: str = ""
    data: Any = None

    @property
    def known(self) -> bool:
        return self.data is not None


def known(data: Any) -> Value:
    """A value that no parameter and no input takes part in."""
    return Value(tuple(data.shape), data.dtype, tuple(data.shape), data=data)


def onnx_type(dtype: Any) -> int:
    """The ONNX element type of a NumPy one, floats of 16 bits widened."""
    return int(helper.np_dtype_to_tensor_dtype(widened(dtype)))


def is_float(dtype: Any) -> bool:
    """Whether values are floats, bfloat16 among them."""
    return bool(np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16)


def is_key(dtype: Any) -> bool:
    """Whether values are keys of random numbers, which NumPy knows nothing of."""
    return not isinstance(dtype, np.dtype)


def widened(dtype: Any) -> Any:
    """float32 for the floats of 16 bits, which the graph computes in float32."""
    narrow = is_float(dtype) and np.dtype(dtype).itemsize < 4
    return np.dtype(np.float32) if narrow else np.dtype(dtype)


@dataclass
class Graph:
    """Nodes in order, with what they read.

    ``values`` and ``producers`` are those of each tensor by its name; ``axes`` are the ones that
    a reduction sums over.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    axes: dict[str, Shape] = field(default_factory=dict)
    _literals: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def input(self, name: str, shape: Shape, dtype: Any) -> Value:
        """A value that is there: an input, a parameter, or what a node computes."""
        self.values[name] = Value(shape, np.dtype(dtype), shape, name)
        return self.values[name]

    def add(
        self, op: str, inputs: Sequence[Value | Array], shape: Shape, dtype: Any, **attributes: Any
    ) -> Value:
        """The only output of a new node; ``shape`` is both the tensor's and the value's."""
        return self.add_many(op, inputs, [shape], dtype, **attributes)[0]

    def add_many(
        self,
        op: str,
        inputs: Sequence[Value | Array],
        shapes: Sequence[Shape],
        dtype: Any,
        **attributes: Any,
    ) -> list[Value]:
        place = len(self.nodes)
        names = [f"{op}_{place}.{k}" for k in range(len(shapes))]
        node = helper.make_node(
            op, [self.reference(v) for v in inputs], names, f"{op}_{place}", **attributes
        )
        self.nodes.append(node)
        self.producers.update(dict.fromkeys(names, node))
        return [self.input(n, tuple(s), dtype) for n, s in zip(names, shapes, strict=True)]

    def reference(self, value: Value | Array) -> str:
        """The name by which nodes read ``value``; known data becomes an initializer."""
        if isinstance(value, Value):
            if not value.known:
                return value.name
            whole = np.asarray(value.data)
            value = compact(whole) if whole.size > _EXPANDED else whole
            if value.shape != whole.shape:
                dims = np.array(whole.shape, np.int64)
                return self.add("Expand", [value, dims], whole.shape, whole.dtype).name
        array = np.array(value, widened(value.dtype), order="C")
        small = array.size <= _EXPANDED
        key = (array.shape, str(array.dtype), array.tobytes()) if small else (id(value),)
        name = self._literals.get(key)
        if name is None:
            name = self._literals[key] = f"{CONSTANT}{len(self.initializers)}"
            tensor = numpy_helper.from_array(array, name)
            self.initializers[name] = tensor
            if not small:
                del self._literals[key]  # the array may die, and its id come back
        return name

    def full(self, value: Value) -> Value:
        """``value`` with a tensor of its own shape."""
        if value.known or value.stored == value.shape:
            return value
        dims = np.array(value.shape, np.int64)
        return self.add("Expand", [value, dims], value.shape, value.dtype)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The tensor of ``value`` in another shape of as many elements."""
        value = self.full(value)
        if value.shape == tuple(shape):
            return value
        return self.add("Reshape", [value, np.array(shape, np.int64)], shape, value.dtype)

    def transpose(self, value: Value, order: Iterable[Any]) -> Value:
        value = self.full(value)
        order = [int(axis) for axis in order]
        if order == sorted(order):
            return value
        shape = tuple(value.shape[axis] for axis in order)
        return self.add("Transpose", [value], shape, value.dtype, perm=order)

    def cast(self, value: Value, dtype: Any) -> Value:
        if np.dtype(value.dtype) == np.dtype(dtype):
            return value
        made = self.add("Cast", [value], value.stored, dtype, to=onnx_type(dtype))
        return Value(value.shape, made.dtype, made.stored, made.name)

    def elementwise(self, op: str, inputs: Sequence[Value], shape: Shape, dtype: Any) -> Value:
        """A node that broadcasts; its result is only as large as what it reads makes it."""
        small = [_small(v) for v in inputs]
        stored = np.broadcast_shapes(*(v.stored for v in small))
        made = self.add(op, small, stored, dtype)
        return Value(tuple(shape), made.dtype, made.stored, made.name)

    def constant(self, name: str) -> float | None:
        """The number that ``name`` is, None if it is no single number."""
        tensor = self.initializers.get(name)
        if tensor is None or any(n != 1 for n in tensor.dims):
            return None
        return float(numpy_helper.to_array(tensor).reshape(-1)[0])

    def producer(self, value: Value, op: str) -> onnx.NodeProto | None:
        """The node that computes ``value``, if it is an ``op``."""
        node = self.producers.get(value.name)
        return node if node is not None and node.op_type == op else None


def _small(value: Value) -> Value:
    return known(compact(np.asarray(value.data))) if value.known else value


def compact(array: Array) -> Array:
    """``array`` with each axis along which it does not change cut to one element."""
    for axis, (size, step) in enumerate(zip(array.shape, array.strides, strict=True)):
        first = array.take([0], axis) if size > 1 else array
        if size > 1 and (step == 0 or bool(np.all(array == first))):
            array = first
    return array
