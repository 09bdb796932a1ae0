"""Which initializer of an exported graph holds which tensor of the framework's model.

Exporters rename tensors, transpose them, cut tables, stack the gates of recurrent layers in
another order and give tied weights twice. :func:`bind` undoes that: afterwards every parameter
that the graph reads is one initializer with the parameter's own name, shape and values, and what
the exporter had made of it is computed from that by nodes. So a parameter has one factor, whatever
reads it, and new values go back by name.

A tensor is looked for by name first, then by content: the same numbers, bit for bit, in another
arrangement, or pieces of tensors put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from graph_init.builder import Array
from graph_init.errors import UnsupportedModelError
from graph_init.frontends import Tensor

#: Axes of a tensor whose orders are all tried.
_MAX_RANK = 5
#: Pieces that an initializer may consist of.
_MAX_PIECES = 256

_Perm = tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """``model`` with every parameter as an initializer of its name.

    ``owners``: the tensors behind each such initializer. They are several where the exporter
    merged tensors of equal values, which then have one factor.
    """

    model: ir.Model
    owners: Mapping[str, tuple[Tensor, ...]]


def bind(exported: onnx.ModelProto | ir.Model, tensors: Sequence[Tensor]) -> Bound:
    """Make every tensor that ``exported`` reads an initializer of its own name; see the module.

    ``exported`` is used up. Raises UnsupportedModelError where a trainable tensor is missing and an
    initializer of its size is not accounted for: the exporter has changed its values.
    """
    model = ir.from_proto(exported) if isinstance(exported, onnx.ModelProto) else exported
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    graph = _Graph(model.graph)
    graph.lift_constants()
    floats = graph.floats()
    by_name = {name: t for t in tensors for name in (t.name, *t.aliases)}
    same: dict[int, list[ir.Value]] = {}
    rest: list[ir.Value] = []
    for value in floats:
        tensor = by_name.get(value.name or "")
        if tensor is not None and _equal(tensor, value):
            same.setdefault(id(tensor), []).append(value)
        else:
            rest.append(value)
    twins: dict[int, list[Tensor]] = {}
    rest = _by_whole_content(rest, [t for t in tensors if id(t) not in same], same, twins)
    finder = _Finder(tensors)
    made: list[tuple[ir.Value, _Expression]] = []
    unknown: list[ir.Value] = []
    for value in rest:
        array = _array(value)
        found = None if _filled(array) else finder.find(array)
        if found is None:
            unknown.append(value)
        else:
            made.append((value, found))
    read = set(same) | {id(t) for _, expression in made for t in expression.tensors()}
    already = {id(t) for others in twins.values() for t in others}
    for tensor in tensors:
        if id(tensor) not in read | already:
            twin = next((t for t in tensors if id(t) in read and _mergeable(t, tensor)), None)
            if twin is not None:
                twins.setdefault(id(twin), []).append(tensor)
    read |= {id(t) for others in twins.values() for t in others}
    _require_known([t for t in tensors if id(t) not in read], unknown)

    owners: dict[str, tuple[Tensor, ...]] = {}
    holders: dict[int, ir.Value] = {}
    for tensor in tensors:
        values = same.get(id(tensor))
        if values:
            holders[id(tensor)] = graph.merge(tensor.name, values)
            owners[tensor.name] = (tensor, *twins.get(id(tensor), ()))
    for value, expression in made:
        for tensor in expression.tensors():
            if id(tensor) not in holders:
                dtype = _dtype(value)
                holders[id(tensor)] = graph.add(tensor.name, tensor.value.astype(dtype))
                owners[tensor.name] = (tensor, *twins.get(id(tensor), ()))
        graph.replace(value, expression.emit(graph, holders))
    return Bound(model, owners)


def _by_whole_content(
    values: Sequence[ir.Value],
    tensors: Sequence[Tensor],
    same: dict[int, list[ir.Value]],
    twins: dict[int, list[Tensor]],
) -> list[ir.Value]:
    """Give ``values`` to ``tensors`` of the same shape and numbers; return those left over.

    Values of the same numbers are taken for copies of one tensor: which of several equal tensors
    is which cannot be told. Only vectors filled with one number (fresh biases, which never scale)
    are given out in turn. Tensors left over become twins of the last.
    """
    rest = []
    groups: list[tuple[list[ir.Value], list[Tensor]]] = []
    for value in values:
        known = next((g for g in groups if _equal_values(g[0][0], value)), None)
        if known is not None:
            known[0].append(value)
        elif equals := [t for t in tensors if _equal(t, value)]:
            groups.append(([value], equals))
        else:
            rest.append(value)
    for members, equals in groups:
        in_turn = len(_array(members[0]).shape) < 2 and _filled(_array(members[0]))
        pairs = min(len(members), len(equals)) if in_turn else 1
        for k in range(pairs):
            same[id(equals[k])] = [members[k]]
        if pairs < len(equals):
            twins[id(equals[pairs - 1])] = equals[pairs:]
        if in_turn:
            rest += members[pairs:]
        else:
            same[id(equals[0])] = members
    return rest


def _mergeable(kept: Tensor, lost: Tensor) -> bool:
    """Whether an exporter may have left out ``lost``, its numbers being those of ``kept``.

    Of numbers that are all alike only tensors that are trained alike: the lost one may as well be
    unused, and nothing of ``kept`` should depend on it then.
    """
    alike = kept.trainable == lost.trainable or not _filled(lost.value)
    return alike and kept.value.dtype == lost.value.dtype and _same(kept.value, lost.value)


def _equal_values(a: ir.Value, b: ir.Value) -> bool:
    return _dtype(a) == _dtype(b) and _same(_array(a), _array(b))


def _require_known(missing: Sequence[Tensor], unknown: Sequence[ir.Value]) -> None:
    """Every trainable tensor is found, or plausibly reaches no output."""
    for tensor in missing:
        if not tensor.trainable or tensor.value.size < 2 or _filled(tensor.value):
            continue
        for value in unknown:
            array = _array(value)
            if array.size == tensor.value.size and not _filled(array):
                raise UnsupportedModelError(
                    f"the exporter has changed the values of '{tensor.name}': they are nowhere in "
                    f"the exported graph, and '{value.name}', of the same size, comes from no "
                    "parameter. Tell the exporter to leave weights as they are (no folding)"
                )


class _Graph:
    """Edits of one graph."""

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


class _Expression:
    """How an initializer is made from tensors."""

    def tensors(self) -> Iterator[Tensor]:
        raise NotImplementedError

    def emit(self, graph: _Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        """Nodes that compute it; ``holders`` has the initializer of each tensor, by ``id``."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Whole(_Expression):
    """All of ``tensor``: reshaped to ``before``, transposed by ``order``, reshaped to ``after``."""

    tensor: Tensor
    before: tuple[int, ...]
    order: _Perm
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield self.tensor

    def emit(self, graph: _Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        at = holders[id(self.tensor)]
        at = _reshaped(graph, at, self.tensor.value.shape, self.before)
        at = _transposed(graph, at, self.order)
        return _reshaped(graph, at, tuple(self.before[k] for k in self.order), self.after)


@dataclass(frozen=True)
class _Run:
    """Rows ``start`` to ``stop`` of ``tensor``, whose shape without ones is ``shape``."""

    tensor: Tensor
    shape: tuple[int, ...]
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Rows(_Expression):
    """Runs of rows, one behind the other on ``axis`` of ``shape``, then reshaped to ``after``."""

    runs: tuple[_Run, ...]
    shape: tuple[int, ...]
    axis: int
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield from dict.fromkeys(run.tensor for run in self.runs)

    def emit(self, graph: _Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        rest = (*self.shape[: self.axis], *self.shape[self.axis + 1 :])
        parts = []
        for run in self.runs:
            at = _reshaped(graph, holders[id(run.tensor)], run.tensor.value.shape, run.shape)
            if (run.start, run.stop) != (0, run.shape[run.axis]):
                bounds = [graph.constant([k]) for k in (run.start, run.stop, run.axis)]
                at = graph.op("Slice", at, *bounds)
            order = (run.axis, *(k for k in range(len(run.shape)) if k != run.axis))
            at = _transposed(graph, at, order)
            cut = (run.stop - run.start, *(run.shape[k] for k in order[1:]))
            parts.append(_reshaped(graph, at, cut, (run.stop - run.start, *rest)))
        at = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)
        order = (*range(1, self.axis + 1), 0, *range(self.axis + 1, len(self.shape)))
        at = _transposed(graph, at, order)
        return _reshaped(graph, at, self.shape, self.after)


@dataclass(frozen=True)
class _Stack(_Expression):
    """Parts of shape ``after[1:]`` on a new first axis."""

    parts: tuple[_Expression, ...]
    after: tuple[int, ...]

    def tensors(self) -> Iterator[Tensor]:
        yield from dict.fromkeys(t for part in self.parts for t in part.tensors())

    def emit(self, graph: _Graph, holders: Mapping[int, ir.Value]) -> ir.Value:
        rest = self.after[1:]
        parts = [
            _reshaped(graph, part.emit(graph, holders), rest, (1, *rest)) for part in self.parts
        ]
        return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)


def _reshaped(graph: _Graph, at: ir.Value, now: Sequence[int], then: Sequence[int]) -> ir.Value:
    return at if tuple(now) == tuple(then) else graph.op("Reshape", at, graph.constant(then))


def _transposed(graph: _Graph, at: ir.Value, order: _Perm) -> ir.Value:
    return at if order == tuple(range(len(order))) else graph.op("Transpose", at, perm=order)


@dataclass
class _Finder:
    """Finds arrays among ``tensors`` by content."""

    tensors: Sequence[Tensor]
    _sums: dict[tuple[int, Any], tuple[int, int]] = field(default_factory=dict)
    _rows: dict[tuple[Any, int, int], dict[bytes, list[tuple[Tensor, int, int]]]] = field(
        default_factory=dict
    )

    def find(self, array: Array) -> _Expression | None:
        """How ``array`` is made from tensors, or None."""
        whole = self._whole(array)
        if whole is not None:
            return whole
        shape = tuple(n for n in array.shape if n != 1)
        squeezed = array.reshape(shape)
        for axis in range(len(shape)):
            runs = self._runs(squeezed, axis)
            if runs is not None:
                return _Rows(runs, shape, axis, array.shape)
        row = squeezed[None]  # all of it may be one row of a tensor
        if (runs := self._runs(row, 0)) is not None:
            return _Rows(runs, row.shape, 0, array.shape)
        if array.ndim >= 2 and 1 < array.shape[0] <= _MAX_PIECES:
            parts: list[_Expression] = []
            for part in array:
                found = self.find(part)
                if found is None:
                    return None
                parts.append(found)
            return _Stack(tuple(parts), array.shape)
        return None

    def _whole(self, array: Array) -> _Whole | None:
        wanted = _fingerprint(array)
        for tensor in self.tensors:
            own = tensor.value
            if own.size != array.size or self._sum(tensor, array.dtype) != wanted:
                continue
            own = own.astype(array.dtype)
            for order in _orders(own.ndim):
                if _same(own.transpose(order).reshape(array.shape), array):
                    return _Whole(tensor, own.shape, order, array.shape)
            for order in _orders(array.ndim):
                before = tuple(array.shape[order.index(k)] for k in range(array.ndim))
                if _same(own.reshape(before).transpose(order), array):
                    return _Whole(tensor, before, order, array.shape)
        return None

    def _sum(self, tensor: Tensor, dtype: Any) -> tuple[int, int]:
        key = (id(tensor), dtype)
        if key not in self._sums:
            self._sums[key] = _fingerprint(tensor.value.astype(dtype))
        return self._sums[key]

    def _runs(self, array: Array, axis: int) -> tuple[_Run, ...] | None:
        """Runs of rows of tensors that together are the rows of ``array`` along ``axis``."""
        rows = _slices(array, axis)
        index = self._index(array.dtype, rows.shape[1], array.ndim)
        found = [index.get(row.tobytes()) for row in rows]
        if any(places is None for places in found):
            return None
        runs: list[_Run] = []
        at = 0
        while at < len(found):
            places = {place: 1 for place in found[at] or ()}
            live = set(places)
            step = 1
            while live and at + step < len(found):
                following = set(found[at + step] or ())
                live = {p for p in live if (p[0], p[1], p[2] + step) in following}
                for place in live:
                    places[place] += 1
                step += 1
            (tensor, own_axis, start), length = max(places.items(), key=lambda item: item[1])
            shape = _run_shape(tensor.value, array.ndim)
            runs.append(_Run(tensor, shape, own_axis, start, start + length))
            at += length
            if len(runs) > _MAX_PIECES:
                return None
        return tuple(runs)

    def _index(
        self, dtype: Any, width: int, rank: int
    ) -> dict[bytes, list[tuple[Tensor, int, int]]]:
        """Where each row of ``width`` elements is: (tensor, axis, number)."""
        key = (dtype, width, rank)
        if key not in self._rows:
            index: dict[bytes, list[tuple[Tensor, int, int]]] = {}
            for tensor in self.tensors:
                shape = _run_shape(tensor.value, rank)
                if len(shape) != rank or tensor.value.size < 2:
                    continue
                for axis, count in enumerate(shape):
                    if count and tensor.value.size // count == width:
                        own = tensor.value.reshape(shape).astype(dtype)
                        for number, row in enumerate(_slices(own, axis)):
                            index.setdefault(row.tobytes(), []).append((tensor, axis, number))
            self._rows[key] = index
        return self._rows[key]


def _run_shape(array: Array, rank: int) -> tuple[int, ...]:
    """The shape without ones, as long as that has the wanted rank."""
    shape = tuple(n for n in array.shape if n != 1)
    return shape if len(shape) == rank else array.shape


def _slices(array: Array, axis: int) -> Array:
    """The slices along ``axis``, one a row."""
    moved = np.moveaxis(array, axis, 0)
    return np.ascontiguousarray(moved).reshape(array.shape[axis], -1)


def _orders(rank: int) -> Iterator[_Perm]:
    return permutations(range(rank)) if rank <= _MAX_RANK else iter([tuple(range(rank))])


def _dtype(value: ir.Value) -> Any:
    assert value.const_value is not None
    return value.const_value.dtype.numpy()


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def _equal(tensor: Tensor, value: ir.Value) -> bool:
    """Whether an initializer holds a tensor: the same shape and numbers."""
    assert value.const_value is not None
    if tuple(tensor.value.shape) != tuple(value.const_value.shape):
        return False
    array = _array(value)
    return _same(tensor.value.astype(array.dtype), array)


def _same(a: Array, b: Array) -> bool:
    """The same shape and bytes."""
    if a.shape != b.shape:
        return False
    return np.array_equal(_bits(a), _bits(b))


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _fingerprint(array: Array) -> tuple[int, int]:
    """The same for all arrangements of the same numbers."""
    bits = _bits(array).astype(np.uint64).ravel()
    return int(bits.sum(dtype=np.uint64)), int((bits * bits).sum(dtype=np.uint64))


def _filled(array: Array) -> bool:
    """Whether all elements are equal: such content says nothing of where it comes from."""
    return array.size < 2 or bool((array == array.reshape(-1)[0]).all())
