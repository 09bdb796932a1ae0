"""Static graphs: every stage after loading builds its result with one :class:`Builder`.

A :class:`Builder` is an append-only list of ONNX nodes in which the shape and element type of every
value are known when the value is made. Because they are known, three things happen while building
instead of in passes of their own: nodes over constants are evaluated, a node that already exists is
returned instead of built again, and a few identities (``x + 0``, a reshape to the same shape, two
transposes in a row …) are dropped. Lowering, the gradient's clean-up and the tangent transform are
all interpreters that walk one list of nodes and call :meth:`Builder.op`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_init.errors import UnsupportedModelError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: The opset of every graph that is built here; the newest that the engine reads.
OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)

#: Results larger than this many elements stay nodes: folding them would only fatten the graph.
_FOLD_LIMIT = 1 << 22


@dataclass(eq=False, slots=True)
class Value:
    """One edge of the graph: element type (``TensorProto.DataType``), shape if static, constant."""

    name: str
    dtype: int
    shape: Shape | None
    const: Array | None = None
    node: Node | None = None
    active: bool = False  # depends on a trainable parameter through a float path

    @property
    def dims(self) -> Shape:
        """The static shape; an error that names the value where there is none."""
        if self.shape is None:
            maker = f" (made by {self.node.op})" if self.node else ""
            raise UnsupportedModelError(
                f"the shape of '{self.name}'{maker} depends on the data, so the model cannot be "
                "differentiated; export it with static shapes or fix the sizes with --dim"
            )
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(eq=False, slots=True)
class Node:
    """One operator call. Absent optional inputs and outputs are ``None``."""

    op: str
    domain: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attrs: dict[str, Any]
    origin: str = ""  # name of the user's node that this comes from

    @property
    def label(self) -> str:
        return f"node '{self.origin}' ({self.op})" if self.origin else f"a node {self.op}"


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which ``shapes`` broadcast together (numpy's rule)."""
    return tuple(np.broadcast_shapes(*shapes))


class Builder:
    """Makes nodes; see the module's docstring.

    ``precision`` is the one float type (``TensorProto.DataType``) in which everything is computed,
    whatever mixture of widths the source model has.
    """

    def __init__(self, precision: int = TensorProto.FLOAT) -> None:
        self.precision = precision
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.origin = ""
        self._names: set[str] = set()
        self._counter = 0
        self._seen: dict[Any, tuple[Value | None, ...]] = {}
        self._constants: dict[Any, Value] = {}

    # -- values -----------------------------------------------------------------------------

    def unique(self, hint: str) -> str:
        name = hint
        while not name or name in self._names:
            self._counter += 1
            name = f"{hint}#{self._counter}"
        self._names.add(name)
        return name

    def input(self, name: str, dtype: int, shape: Shape, active: bool = False) -> Value:
        """A graph input with a static shape."""
        value = Value(self.unique(name), dtype, shape, active=active)
        self.inputs.append(value)
        return value

    def constant(self, array: Any, dtype: int | None = None) -> Value:
        """A constant; equal small ones are the same value."""
        array = np.asarray(array)
        if dtype is not None:
            array = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
        key = (str(array.dtype), array.shape, array.tobytes()) if array.size <= 4096 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        value = Value(
            self.unique("const"), helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array
        )
        if key is not None:
            self._constants[key] = value
        return value

    def literal(self, array: Array) -> Value:
        """A constant of the source model: floats of any width in ``precision``."""
        if helper.np_dtype_to_tensor_dtype(array.dtype) in FLOATS:
            return self.constant(array, self.precision)
        return self.constant(array)

    def scalar(self, number: float, like: Value) -> Value:
        """A constant scalar of the element type of ``like``."""
        return self.constant(np.asarray(number), like.dtype)

    def ints(self, numbers: Iterable[int]) -> Value:
        return self.constant(np.asarray(list(numbers), dtype=np.int64))

    # -- nodes ------------------------------------------------------------------------------

    def op(self, op: str, *inputs: Value | None, domain: str = "", **attrs: Any) -> Value:
        """Append a node with one output (or find its equal) and return the output."""
        out = self.multi(op, inputs, (True,), domain=domain, attrs=attrs)[0]
        assert out is not None
        return out

    def multi(
        self,
        op: str,
        inputs: Sequence[Value | None],
        wanted: Sequence[bool],
        *,
        domain: str = "",
        attrs: Mapping[str, Any] | None = None,
        hints: Sequence[str] | None = None,
    ) -> tuple[Value | None, ...]:
        """Append a node with several outputs; ``wanted[i]`` says whether output i exists."""
        attributes = dict(attrs or {})
        ins = list(inputs)
        while ins and ins[-1] is None:
            ins.pop()
        if not domain and tuple(wanted) == (True,):
            simple = _SIMPLIFY.get(op)
            if simple is not None:
                found = simple(self, ins, attributes)
                if found is not None:
                    return (found,)
        key = (
            op,
            domain,
            tuple(id(v) for v in ins),
            tuple(wanted),
            tuple(sorted((k, _hashable(v)) for k, v in attributes.items())),
        )
        deterministic = not op.startswith("Random") and op not in ("Bernoulli", "Multinomial")
        if deterministic and key in self._seen:
            return self._seen[key]
        types = infer(op, domain, ins, len(wanted), attributes)
        outs: tuple[Value | None, ...]
        folded = _fold(op, domain, ins, types, attributes) if deterministic else None
        if folded is not None:
            outs = tuple(
                self.constant(a) if w else None for a, w in zip(folded, wanted, strict=False)
            )
        else:
            node = Node(op, domain, tuple(ins), (), attributes, self.origin)
            active = any(v is not None and v.active for v in ins)
            made: list[Value | None] = []
            for i, want in enumerate(wanted):
                if not want:
                    made.append(None)
                    continue
                dtype, shape = types[i]
                hint = hints[i] if hints and i < len(hints) and hints[i] else f"{op}"
                made.append(
                    Value(
                        self.unique(hint),
                        dtype,
                        shape,
                        node=node,
                        active=active and dtype in FLOATS and op not in ZERO_DERIVATIVE,
                    )
                )
            node.outputs = outs = tuple(made)
            self.nodes.append(node)
        if deterministic:
            self._seen[key] = outs
        return outs

    def barrier(self, value: Value) -> Value:
        """The same tensor as a value of its own, which no simplification identifies with it."""
        node = Node("Identity", "", (value,), (), {}, self.origin)
        out = Value(self.unique(value.name), value.dtype, value.shape, node=node)
        node.outputs = (out,)
        self.nodes.append(node)
        return out

    def frozen(self, value: Value) -> Value:
        """The same numbers without a derivative.

        A Clip without bounds: the one standard operator that is the identity and that lowering
        never emits otherwise.
        """
        return self.op("Clip", value) if value.active else value

    # -- shorthand --------------------------------------------------------------------------

    def add(self, a: Value, b: Value) -> Value:
        return self.op("Add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.op("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.op("Mul", a, b)

    def scale(self, a: Value, number: float) -> Value:
        return a if number == 1 else self.op("Mul", a, self.scalar(number, a))

    def reciprocal(self, a: Value) -> Value:
        return self.op("Reciprocal", a)

    def reshape(self, a: Value, shape: Sequence[int]) -> Value:
        if 0 in shape:  # otherwise a zero copies the size from the input
            return self.op("Reshape", a, self.ints(shape), allowzero=1)
        return self.op("Reshape", a, self.ints(shape))

    def transpose(self, a: Value, perm: Sequence[int]) -> Value:
        return self.op("Transpose", a, perm=list(perm))

    def expand(self, a: Value, shape: Sequence[int]) -> Value:
        return self.op("Expand", a, self.ints(shape))

    def sum(self, a: Value, axes: Sequence[int] | None = None, keepdims: bool = True) -> Value:
        """Sum over ``axes`` (all of them by default)."""
        chosen = range(a.rank) if axes is None else sorted(x % a.rank for x in axes)
        return self.op("ReduceSum", a, self.ints(chosen), keepdims=int(keepdims))

    def mean(self, a: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        count = math.prod(a.dims[x] for x in axes)
        return self.scale(self.sum(a, axes, keepdims), 1.0 / max(count, 1))

    def cast(self, a: Value, dtype: int) -> Value:
        return a if a.dtype == dtype else self.op("Cast", a, to=int(dtype))

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """Moving operands are expanded: the engine's gradient of Where does not broadcast."""
        shape = broadcast(condition.dims, a.dims, b.dims)
        a, b = (self.expand(v, shape) if v.active else v for v in (a, b))
        return self.op("Where", condition, a, b)

    # -- the finished model -----------------------------------------------------------------

    def needed(self, outputs: Iterable[Value]) -> list[Node]:
        """The nodes on which ``outputs`` depend, in order."""
        live: set[int] = {id(v) for v in outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(o is not None and id(o) in live for o in node.outputs):
                kept.append(node)
                live.update(id(v) for v in node.inputs if v is not None)
        return kept[::-1]

    def model(self, outputs: Sequence[Value], *, unused_inputs: bool = False) -> onnx.ModelProto:
        """The graph that computes ``outputs``; inputs that nothing reads are left out."""
        nodes = self.needed(outputs)
        read = {id(v): v for n in nodes for v in n.inputs if v is not None}
        read.update({id(v): v for v in outputs})
        graph = helper.make_graph(
            [_node_proto(n) for n in nodes],
            "graph-init",
            [_value_info(v) for v in self.inputs if unused_inputs or id(v) in read],
            [_value_info(v) for v in outputs],
            [
                numpy_helper.from_array(v.const, v.name)
                for v in read.values()
                if v.const is not None
            ],
            value_info=[
                _value_info(o)
                for n in nodes
                for o in n.outputs
                if o is not None and o.shape is not None
            ],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
        )


#: Operators whose result does not change with small changes of their inputs, or is no float. Of
#: MaxPool and TopK only the indices are read where derivatives are wanted; ReduceMax is left only
#: as a shift that cancels; Clip is :meth:`Builder.frozen`.
ZERO_DERIVATIVE = frozenset(
    "Clip Hardmax MaxPool ReduceMax TopK "
    "Sign Floor Ceil Round Shape Size ConstantOfShape EyeLike OneHot ArgMax ArgMin NonZero "
    "RandomNormalLike RandomUniformLike Bernoulli Multinomial BroadcastGradientArgs "
    "Greater Less GreaterOrEqual LessOrEqual Equal Not And Or Xor IsNaN IsInf".split()
)


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, onnx.TensorProto | onnx.GraphProto):
        return value.SerializeToString()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    return value


def _node_proto(node: Node) -> onnx.NodeProto:
    outputs = [o.name if o is not None else "" for o in node.outputs]
    while outputs and not outputs[-1]:
        outputs.pop()
    first = next(o for o in outputs if o)
    proto = helper.make_node(
        node.op,
        [v.name if v is not None else "" for v in node.inputs],
        outputs,
        name=f"n:{first}",
        domain=node.domain,
    )
    proto.attribute.extend(
        helper.make_attribute(k, v) for k, v in node.attrs.items() if v is not None
    )
    return proto


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.dtype, value.shape)


# -- shapes and types ---------------------------------------------------------------------------

Type = tuple[int, Shape | None]
_Rule = Callable[[Sequence[Any], dict[str, Any]], list[Type]]


def _same(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[0].dtype, ins[0].shape)]


def _elementwise(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[0].dtype, broadcast(*(v.dims for v in ins)))]


def _compare(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(TensorProto.BOOL, broadcast(*(v.dims for v in ins)))]


def _where(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[1].dtype, broadcast(*(v.dims for v in ins)))]


def _transpose(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x = ins[0]
    perm = attrs.get("perm") or range(x.rank)[::-1]
    return [(x.dtype, tuple(x.dims[p] for p in perm))]


def _matmul(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    a, b = ins[0].dims, ins[1].dims
    if len(a) < 2 or len(b) < 2:
        return [(ins[0].dtype, np.matmul(np.empty(a, np.bool_), np.empty(b, np.bool_)).shape)]
    if attrs.get("transBatchA"):
        a = (*a[1:-1], a[0], a[-1])
    if attrs.get("transBatchB"):
        b = (*b[1:-1], b[0], b[-1])
    if attrs.get("transA"):
        a = (*a[:-2], a[-1], a[-2])
    if attrs.get("transB"):
        b = (*b[:-2], b[-1], b[-2])
    return [(ins[0].dtype, (*broadcast(a[:-2], b[:-2]), a[-2], b[-1]))]


def _reduce_sum(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x = ins[0]
    if len(ins) > 1 and ins[1] is not None:
        if ins[1].const is None:
            return [(x.dtype, None)]
        axes = {int(a) % max(x.rank, 1) for a in ins[1].const.ravel()}
    else:
        axes = set()
    if not axes and not attrs.get("noop_with_empty_axes"):
        axes = set(range(x.rank))
    if attrs.get("keepdims", 1):
        return [(x.dtype, tuple(1 if i in axes else d for i, d in enumerate(x.dims)))]
    return [(x.dtype, tuple(d for i, d in enumerate(x.dims) if i not in axes))]


def _reshape(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x, shape = ins[0], ins[1].const
    if shape is None:
        return [(x.dtype, None)]
    dims = [int(d) for d in shape]
    if not attrs.get("allowzero"):
        dims = [x.dims[i] if d == 0 else d for i, d in enumerate(dims)]
    if -1 in dims:
        rest = math.prod(d for d in dims if d != -1)
        dims[dims.index(-1)] = x.size // max(rest, 1)
    return [(x.dtype, tuple(dims))]


def _expand(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if ins[1].const is None:
        return [(ins[0].dtype, None)]
    return [(ins[0].dtype, broadcast(ins[0].dims, tuple(int(d) for d in ins[1].const)))]


def _concat(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    first = ins[0].dims
    axis = attrs["axis"] % len(first)
    total = sum(v.dims[axis] for v in ins)
    return [(ins[0].dtype, (*first[:axis], total, *first[axis + 1 :]))]


def _gather(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    axis = attrs.get("axis", 0) % ins[0].rank
    x, i = ins[0].dims, ins[1].dims
    return [(ins[0].dtype, (*x[:axis], *i, *x[axis + 1 :]))]


def _gather_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if ins[0].const is None:
        return [(ins[2].dtype, None)]
    return [(ins[2].dtype, tuple(int(d) for d in ins[0].const))]


def _gather_elements_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if ins[1].const is None:
        return [(ins[0].dtype, None)]
    return [(ins[0].dtype, tuple(int(d) for d in ins[1].const))]


def _conv_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    dy, x, w = ins
    return [(dy.dtype, x.shape), (dy.dtype, w.shape), (dy.dtype, (w.dims[0],))]


def _broadcast_args(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(TensorProto.INT64, None), (TensorProto.INT64, None)]


_TYPE_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        "Identity Neg Exp Log Sqrt Reciprocal Sigmoid Tanh Erf Sin Cos Abs Relu Sign Softmax "
        "LogSoftmax Not Floor Ceil".split(),
        _same,
    ),
    **dict.fromkeys("Add Sub Mul Div Pow Max Min And Or".split(), _elementwise),
    **dict.fromkeys("Equal Greater Less GreaterOrEqual LessOrEqual".split(), _compare),
    "Cast": lambda ins, attrs: [(attrs["to"], ins[0].shape)],
    "Where": _where,
    "Transpose": _transpose,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Expand": _expand,
    "Concat": _concat,
    "Gather": _gather,
    "GatherGrad": _gather_grad,
    "GatherNDGrad": _gather_grad,
    "GatherElementsGrad": _gather_elements_grad,
    "ConvGrad": _conv_grad,
    "AveragePoolGrad": lambda ins, attrs: [(ins[0].dtype, tuple(attrs["_x_shape"]))],
    "BroadcastGradientArgs": _broadcast_args,
    "Shape": lambda ins, attrs: [
        (TensorProto.INT64, None if ins[0].shape is None else (ins[0].rank,))
    ],
    "Size": lambda ins, attrs: [(TensorProto.INT64, ())],
}


def infer(
    op: str, domain: str, ins: Sequence[Value | None], count: int, attrs: dict[str, Any]
) -> list[Type]:
    """Element types and shapes of a node's outputs (shape ``None``: not known statically)."""
    rule = _TYPE_RULES.get(op)
    if rule is not None and all(v is None or v.shape is not None for v in ins):
        return rule(ins, attrs)
    return _infer_by_schema(op, domain, ins, count, attrs)


def _infer_by_schema(
    op: str, domain: str, ins: Sequence[Value | None], count: int, attrs: dict[str, Any]
) -> list[Type]:
    first = next((v for v in ins if v is not None), None)
    unknown: list[Type] = [(first.dtype if first else TensorProto.FLOAT, None)] * count
    if domain not in ("", "ai.onnx") or not onnx.defs.has(op, ""):
        return unknown
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(ins)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(count)])
    node.attribute.extend(
        helper.make_attribute(k, v) for k, v in attrs.items() if v is not None and k[0] != "_"
    )
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(op, OPSET, ""),
            node,
            {
                f"i{k}": helper.make_tensor_type_proto(v.dtype, v.shape)
                for k, v in enumerate(ins)
                if v is not None
            },
            {
                f"i{k}": numpy_helper.from_array(v.const)
                for k, v in enumerate(ins)
                if v is not None and v.const is not None and v.const.size <= 4096
            },
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        onnx.defs.SchemaError,
        RuntimeError,
    ):
        return unknown
    types: list[Type] = []
    for k in range(count):
        proto = found.get(f"o{k}")
        if proto is None or not proto.HasField("tensor_type"):
            types.append((unknown[0][0], None))
            continue
        tensor = proto.tensor_type
        dims = list(tensor.shape.dim)
        static = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
        types.append(
            (
                tensor.elem_type or unknown[0][0],
                tuple(d.dim_value for d in dims) if static else None,
            )
        )
    return types


# -- constants ----------------------------------------------------------------------------------


def _broadcast_gradient_axes(a: Shape, b: Shape) -> tuple[Array, Array]:
    rank = max(len(a), len(b))
    wide = broadcast(a, b)
    axes = []
    for shape in (a, b):
        padded = (1,) * (rank - len(shape)) + shape
        missing = rank - len(shape)
        axes.append([i for i in range(rank) if i < missing or (padded[i] == 1 and wide[i] != 1)])
    return np.asarray(axes[0], np.int64), np.asarray(axes[1], np.int64)


def _fold(
    op: str, domain: str, ins: Sequence[Value | None], types: Sequence[Type], attrs: dict[str, Any]
) -> list[Array] | None:
    """The outputs' values when they do not depend on any graph input."""
    first = ins[0] if ins else None
    if op == "Shape" and first is not None and first.shape is not None:
        end = attrs.get("end")
        return [np.asarray(first.shape[attrs.get("start", 0) : end], np.int64)]
    if op == "Size" and first is not None and first.shape is not None:
        return [np.asarray(first.size, np.int64)]
    if any(v is not None and v.const is None for v in ins) or not ins:
        return None
    values = [None if v is None else v.const for v in ins]
    if any(shape is not None and math.prod(shape) > _FOLD_LIMIT for _, shape in types):
        return None
    if op == "BroadcastGradientArgs":
        a, b = (tuple(int(d) for d in v) for v in values if v is not None)
        return list(_broadcast_gradient_axes(a, b))
    if domain not in ("", "ai.onnx"):
        return None
    return evaluate(op, values, attrs, len(types))


def evaluate(
    op: str, values: Sequence[Array | None], attrs: Mapping[str, Any], count: int
) -> list[Array] | None:
    """Run one standard operator on constants with ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    names = [f"i{k}" if v is not None else "" for k, v in enumerate(values)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(count)])
    node.attribute.extend(
        helper.make_attribute(k, v) for k, v in attrs.items() if v is not None and k[0] != "_"
    )
    graph = helper.make_graph(
        [node],
        "fold",
        [
            helper.make_tensor_value_info(
                f"i{k}", helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
            )
            for k, v in enumerate(values)
            if v is not None
        ],
        [helper.make_empty_tensor_value_info(f"o{k}") for k in range(count)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(
                None, {f"i{k}": v for k, v in enumerate(values) if v is not None}
            )
    except Exception:  # an operator the reference cannot run simply stays a node
        return None
    return [np.asarray(r) for r in results]


# -- identities ---------------------------------------------------------------------------------


def _is(value: Value | None, number: float) -> bool:
    return (
        value is not None
        and value.const is not None
        and 0 < value.const.size <= 4096
        and bool(np.all(value.const == number))
    )


def _neutral(number: float, sides: Sequence[int]) -> Callable[..., Value | None]:
    def rule(b: Builder, ins: list[Value | None], attrs: dict[str, Any]) -> Value | None:
        for side in sides:
            other = ins[1 - side]
            if _is(ins[side], number) and other is not None and other.shape is not None:
                mine = ins[side]
                if mine is not None and broadcast(mine.dims, other.dims) == other.dims:
                    return other
        return None

    return rule


def _simplify_reshape(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x, shape = ins[0], ins[1]
    if x.shape is None or shape.const is None:
        return None
    target = _reshape(ins, attrs)[0][1]
    if target == x.shape:
        return ins[0]  # type: ignore[no-any-return]
    if x.node is not None and x.node.op == "Reshape":
        return b.reshape(x.node.inputs[0], target or ())
    wanted = {"allowzero": 1} if 0 in (target or ()) else {}
    if tuple(int(d) for d in shape.const) != target or attrs != wanted:
        return b.reshape(x, target or ())
    return None


def _simplify_transpose(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x = ins[0]
    if x.shape is None:
        return None
    perm = list(attrs.get("perm") or range(x.rank)[::-1])
    if perm == list(range(x.rank)):
        return x  # type: ignore[no-any-return]
    if x.node is not None and x.node.op == "Transpose" and x.node.attrs.get("perm"):
        inner = x.node.attrs["perm"]
        return b.transpose(x.node.inputs[0], [inner[p] for p in perm])
    return None


def _simplify_expand(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    if ins[0].shape is None or ins[1].const is None:
        return None
    return ins[0] if _expand(ins, attrs)[0][1] == ins[0].shape else None


def _simplify_reduce(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    x = ins[0]
    if x.shape is None or len(ins) < 2 or ins[1] is None or ins[1].const is None:
        return None
    if ins[1].const.size == 0:
        return x if attrs.get("noop_with_empty_axes") else None
    axes = {int(a) % max(x.rank, 1) for a in ins[1].const}
    if all(x.dims[a] == 1 for a in axes):
        shape = _reduce_sum(ins, attrs)[0][1]
        return b.reshape(x, shape or ())
    return None


def _simplify_cast(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if ins[0].dtype == attrs["to"] else None


def _simplify_identity(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0]  # type: ignore[no-any-return]


def _simplify_concat(b: Builder, ins: list[Any], attrs: dict[str, Any]) -> Value | None:
    return ins[0] if len(ins) == 1 else None


_SIMPLIFY: dict[str, Callable[..., Value | None]] = {
    "Add": _neutral(0, (0, 1)),
    "Sub": _neutral(0, (1,)),
    "Mul": _neutral(1, (0, 1)),
    "Div": _neutral(1, (1,)),
    "Reshape": _simplify_reshape,
    "Transpose": _simplify_transpose,
    "Expand": _simplify_expand,
    "ReduceSum": _simplify_reduce,
    "Cast": _simplify_cast,
    "Identity": _simplify_identity,
    "Concat": _simplify_concat,
}
