"""Facts about an output from the model's file: its last layer, the nodes after it, and names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graph_init.analysis import Parameter
from graph_init.ir import Shape

#: Nodes that leave what an output means as it is, and are passed on the way back to its layer.
_VIEWS = frozenset(
    "Reshape Identity Transpose Cast Squeeze Unsqueeze Flatten Slice Split Gather Dropout".split()
)
#: Those that keep the order of the elements, but not the axes.
_RESHAPES = frozenset("Reshape Squeeze Unsqueeze Flatten".split())
_POOLS = frozenset("GlobalAveragePool AveragePool ReduceMean GlobalMaxPool Resize Upsample".split())
_ELEMENTWISE = frozenset("Add Sub Mul Div Relu LeakyRelu Tanh Sigmoid Softmax LogSoftmax".split())
_PASSED = _VIEWS | _POOLS | _ELEMENTWISE
#: Layers, the slot of whose weight is 1.
_LAYERS = frozenset("MatMul Gemm FusedMatMul Conv ConvTranspose".split())
#: Nodes between an input of the model and the indices by which a table is read; no more are seen.
_REACH = 50
#: Nodes between a division and the sum of squares by whose root it divides; no more are seen.
_NORM = 12
_SUMS = frozenset({"ReduceSum", "ReduceSumSquare"})
#: Of a value, what a norm may sum.
_EVEN = frozenset("Mul Pow Abs Cast".split())


@dataclass(frozen=True)
class Head:
    """The end of a model.

    ``last`` is the operator that the output comes from, views not counted. ``layer`` is the last
    operator with a weight ("" if there is none, or if two branches meet behind it), ``names`` are
    those of the weights there and of its node. ``table`` is the name of the embedding table that
    this weight is, or is tied to. ``axis`` is the output's axis that has the units, or channels, of
    that layer (None: unknown). ``tables`` maps tables that an input of the model looks up, by
    name, to their numbers of rows.
    """

    last: str = ""
    layer: str = ""
    names: tuple[str, ...] = ()
    table: str | None = None
    tables: tuple[tuple[str, int], ...] = ()
    axis: int | None = None


def find(
    graph: ir.Graph,
    output: ir.Value,
    parameters: Sequence[Parameter],
    shapes: Mapping[str, Shape],
) -> Head:
    """The head of ``output``, one of the outputs of ``graph``; ``shapes`` are by values' names."""
    tables = tuple(_tables(graph))
    last, names, path = "", [], list[ir.Node]()
    node = output.producer()
    while node is not None:
        kind = node.op_type
        if not last and kind not in _VIEWS:
            last = "LpNormalization" if _normalises(node) else kind
        computed = [v for v in node.inputs if v is not None and _weight(v) is None and _varies(v)]
        weights = [w for v in node.inputs if v is not None and (w := _weight(v)) is not None]
        names += [w.name or "" for w in weights]
        if kind in _LAYERS and len(weights) >= 1 and len(computed) == 1:
            names.append(node.name or "")
            return Head(
                last=last,
                layer=kind,
                names=tuple(names),
                table=_tied(weights, tables, parameters),
                tables=tables,
                axis=_units(node, path, shapes),
            )
        if kind not in _PASSED or not computed or (kind in _ELEMENTWISE and len(computed) > 1):
            break
        path.insert(0, node)
        node = computed[0].producer()
    return Head(last, tables=tables)


def _units(layer: ir.Node, path: Sequence[ir.Node], shapes: Mapping[str, Shape]) -> int | None:
    """The axis of the units of ``layer``, or of its channels, behind the nodes of ``path``."""
    shape = shapes.get(layer.outputs[0].name or "")
    if shape is None:
        return None
    axis: int | None = 1
    if "Conv" not in layer.op_type:
        left = layer.inputs[0] is not None and _weight(layer.inputs[0]) is not None
        axis = len(shape) - (2 if left else 1)
    for node in path:
        after = shapes.get(node.outputs[0].name or "")
        if axis is None or after is None:
            return None
        perm = node.attributes.get("perm")
        if node.op_type == "Transpose":
            order = list(perm.as_ints()) if perm else list(range(len(shape)))[::-1]
            axis = order.index(axis) if axis in order else None
        elif node.op_type in _RESHAPES or len(after) != len(shape):
            axis = _same_elements(shape, after, axis)
        shape = after
    return axis


def _same_elements(before: Shape, after: Shape, axis: int) -> int | None:
    """Where ``axis`` is after a reshaping from ``before``, if it is still an axis."""
    for found in range(1, len(after)):
        outer = math.prod(before[:axis]) == math.prod(after[:found])
        if outer and after[found] == before[axis] and math.prod(before) == math.prod(after):
            return found
    return None


def _normalises(node: ir.Node) -> bool:
    """Whether ``node`` divides a value by its own norm."""
    if node.op_type != "Div" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    waiting, seen = [node.inputs[1]], 0
    rooted = False
    while waiting and seen < _NORM:
        seen += 1
        at = waiting.pop().producer()
        if at is None:
            continue
        rooted = rooted or at.op_type == "Sqrt"
        if at.op_type == "ReduceL2" or (at.op_type in _SUMS and rooted):
            return _reads(at, node.inputs[0])
        waiting += [v for v in at.inputs if v is not None and not v.is_initializer()]
    return False


def _reads(norm: ir.Node, value: ir.Value) -> bool:
    """Whether ``norm`` is over ``value``, or over its squares or absolute values."""
    first = norm.inputs[0]
    if first is value:
        return True
    node = first.producer() if first is not None else None
    return node is not None and node.op_type in _EVEN and node.inputs[0] is value


def _weight(value: ir.Value) -> ir.Value | None:
    """The initializer with at least one axis that ``value`` is a view of."""
    while not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in _VIEWS or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return value if value.shape is not None and len(value.shape) else None


def _varies(value: ir.Value) -> bool:
    """Whether ``value`` is computed, or an input of the model: no initializer, no constant."""
    node = value.producer()
    return not value.is_initializer() and (node is None or node.op_type != "Constant")


def _tied(
    weights: Sequence[ir.Value],
    tables: Sequence[tuple[str, int]],
    parameters: Sequence[Parameter],
) -> str | None:
    known = {name for name, _ in tables}
    tied = {p.name: p.tied_to for p in parameters if p.tied_to is not None}
    for name in (w.name or "" for w in weights):
        for other in (name, tied.get(name), *(k for k, v in tied.items() if v == name)):
            if other in known:
                return other
    return None


def _tables(graph: ir.Graph) -> Iterator[tuple[str, int]]:
    """Matrices of which inputs of the model choose rows: names and numbers of rows."""
    for node in graph:
        if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        table, axis = node.inputs[0], node.attributes.get("axis")
        if not table.is_initializer() or table.shape is None or len(table.shape) != 2:
            continue
        if (axis is None or axis.as_int() == 0) and _from_input(graph, node.inputs[1]):
            rows = table.shape[0]
            if isinstance(rows, int):
                yield table.name or "", rows


def _from_input(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether ``value`` follows from the content, not only the shape, of an input of integers."""
    inputs, seen, waiting = set(graph.inputs), {value}, [value]
    while waiting and len(seen) < _REACH:
        at = waiting.pop()
        if at in inputs and not at.is_initializer():
            return at.dtype is not None and at.dtype.is_integer()
        node = at.producer()
        if node is None or node.op_type in ("Shape", "Size"):
            continue
        new = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(new)
        waiting += new
    return False
