"""The builder of static graphs; the package's docstring says what it does while building."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graph_init.ir.folding import fold
from graph_init.ir.forms import Form, formed
from graph_init.ir.identities import SIMPLIFY
from graph_init.ir.order import sort_nodes
from graph_init.ir.schedule import arrange, peak_bytes
from graph_init.ir.serialize import erase_stop_gradients, node_name, to_model
from graph_init.ir.shapes import infer
from graph_init.ir.values import (
    FLOATS,
    GRAPH_INIT,
    MICROSOFT,
    STOP_GRADIENT,
    ZERO_DERIVATIVE,
    Array,
    Node,
    Shape,
    Site,
    Value,
    broadcast,
)


@dataclass(frozen=True)
class Program:
    """A graph in the order in which to run it, and the bytes alive at its largest moment.

    Inputs and outputs are not among these: they are the caller's. ``sites`` says of each node, by
    its name, which node of the user's model it comes from.
    """

    model: onnx.ModelProto
    peak: int
    sites: Mapping[str, Site] = field(default_factory=dict)


#: In graphs of more nodes the order is chosen for the time that the engine takes to open a session,
#: which grows with the square of the nodes in any order but that of readiness (2,000 nodes of a
#: chain: 15 s against 3 s); unless they take this many bytes so, and are not far too many.
_ARRANGED, _LARGE, _TOO_MANY = 40_000, 1 << 30, 150_000
#: Nothing is made again to take less than this: in a small network the nodes for it cost more time,
#: when a session opens and in each step, than the memory is worth.
_ENOUGH = 32 << 20

_SIMPLIFIED = frozenset({"", MICROSOFT})


class Builder:
    """Makes the nodes of one graph; see the package's docstring.

    ``precision`` is the one float type (``TensorProto.DataType``) in which everything is computed,
    whatever mixture of widths the source model has. With ``fuses``, matrix products take their
    operands' transpositions into themselves (FusedMatMul), for graphs that are run and not
    differentiated by the engine. ``forms`` (by operator) says what the finished model has in place
    of nodes that its engine cannot run.
    """

    def __init__(
        self,
        precision: int = TensorProto.FLOAT,
        *,
        fuses: bool = False,
        forms: Mapping[str, Form] | None = None,
    ) -> None:
        self.precision = precision
        self.fuses = fuses
        self.forms: dict[str, Form] = dict(forms or {})
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.source_node = ""
        self.operators: dict[str, str] = {}  # of the user's nodes, by name
        self.unrolled = 0  # nodes of loops' and branches' bodies so far
        self.custom_jvps: dict[Value, tuple[Value, Callable[[], Value]]] = {}
        self.custom_vjps: dict[Value, tuple[Sequence[Value], Callable[[Value, int], Value]]] = {}
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

    def input(self, name: str, dtype: int, shape: Shape, requires_grad: bool = False) -> Value:
        """A graph input with a static shape."""
        value = Value(self.unique(name), dtype, shape, requires_grad=requires_grad)
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
        if domain in _SIMPLIFIED and tuple(wanted) == (True,):
            simple = SIMPLIFY.get(op)
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
        types = infer(op, domain, ins, count=len(wanted), attrs=attributes)
        outs: tuple[Value | None, ...]
        folded = fold(op, domain, ins, types=types, attrs=attributes) if deterministic else None
        if folded is not None:
            outs = tuple(
                self.constant(a) if w else None for a, w in zip(folded, wanted, strict=False)
            )
        else:
            node = Node(
                op,
                domain,
                inputs=tuple(ins),
                outputs=(),
                attrs=attributes,
                source_node=self.source_node,
            )
            active = any(v is not None and v.requires_grad for v in ins)
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
                        requires_grad=active and dtype in FLOATS and op not in ZERO_DERIVATIVE,
                    )
                )
            node.outputs = outs = tuple(made)
            self.nodes.append(node)
        if deterministic:
            self._seen[key] = outs
        return outs

    def barrier(self, value: Value) -> Value:
        """The same tensor as a value of its own, which no simplification identifies with it."""
        node = Node(
            "Identity", "", inputs=(value,), outputs=(), attrs={}, source_node=self.source_node
        )
        out = Value(self.unique(value.name), value.dtype, value.shape, node=node)
        node.outputs = (out,)
        self.nodes.append(node)
        return out

    def custom_jvp(self, value: Value, x: Value, derivative: Callable[[], Value]) -> None:
        """``value`` is a function of ``x`` element by element, with this derivative."""
        self.custom_jvps[value] = (x, derivative)

    def custom_vjp(
        self, value: Value, operands: Sequence[Value], transpose: Callable[[Value, int], Value]
    ) -> None:
        """``transpose`` takes the cotangent of ``value`` to that of the k-th of ``operands``.

        Reverse mode takes it in place of the rules of the nodes between.
        """
        self.custom_vjps[value] = (operands, transpose)

    def stop_gradient(self, value: Value) -> Value:
        """The same numbers without a derivative: no tangent and no gradient passes."""
        if not value.requires_grad:
            return value
        return self.op(STOP_GRADIENT, value, domain=GRAPH_INIT)

    # -- shorthand --------------------------------------------------------------------------

    def add(self, a: Value, b: Value) -> Value:
        return self.op("Add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.op("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.op("Mul", a, b)

    def product(
        self,
        a: Value,
        b: Value,
        transpose_a: bool = False,
        transpose_b: bool = False,
        alpha: float = 1.0,
    ) -> Value:
        """alpha·A·B of stacks of matrices, with A or B transposed."""
        if not transpose_a and not transpose_b and alpha == 1.0:
            return self.op("MatMul", a, b)
        return self.op(
            "FusedMatMul",
            a,
            b,
            domain=MICROSOFT,
            transA=int(transpose_a),
            transB=int(transpose_b),
            alpha=alpha,
        )

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

    def slice(self, a: Value, axis: int, start: int, stop: int) -> Value:
        """Elements start … stop−1 of ``a`` along ``axis``."""
        if start == 0 and stop == a.dims[axis]:
            return a
        bounds = ([start], [stop], [axis], [1])
        return self.op("Slice", a, *(self.ints(numbers) for numbers in bounds))

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
        a, b = (self.expand(v, shape) if v.requires_grad else v for v in (a, b))
        return self.op("Where", condition, a, b)

    # -- the finished model -----------------------------------------------------------------

    def _again(self, node: Node, inputs: Sequence[Value | None]) -> Node:
        """The same call as a node of its own."""
        made = replace(node, inputs=tuple(inputs), outputs=())
        made.outputs = tuple(
            None if o is None else Value(self.unique(node.op), o.dtype, o.shape, node=made)
            for o in node.outputs
        )
        return made

    def needed(self, outputs: Iterable[Value]) -> list[Node]:
        """The nodes on which ``outputs`` depend, in order."""
        live: set[int] = {id(v) for v in outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(o is not None and id(o) in live for o in node.outputs):
                kept.append(node)
                live.update(id(v) for v in node.inputs if v is not None)
        return kept[::-1]

    def program(self, outputs: Sequence[Value], *, unused_inputs: bool = False) -> Program:
        """The graph that computes ``outputs``, to be run in the order of its nodes.

        Gradients are not to be taken of it: nothing stops them any more.
        """
        nodes = erase_stop_gradients(formed(self, self.needed(outputs)), outputs)
        ready = sort_nodes(nodes) if len(nodes) > _ARRANGED else None
        if ready is None or (len(nodes) <= _TOO_MANY and peak_bytes(ready, outputs) > _LARGE):
            nodes = arrange(nodes, outputs, self._again, _ENOUGH)
        else:
            nodes = ready
        model = to_model(nodes, self._read(nodes, outputs, unused_inputs), outputs)
        return Program(model, peak_bytes(nodes, outputs), self._sites(nodes))

    def _sites(self, nodes: Iterable[Node]) -> dict[str, Site]:
        operators = self.operators
        return {
            node_name(n): Site(
                n.op,
                n.source_node,
                operators.get(n.source_node, ""),
                tuple(v.shape for v in n.inputs if v is not None),
            )
            for n in nodes
        }

    def model(self, outputs: Sequence[Value], *, unused_inputs: bool = False) -> onnx.ModelProto:
        """The graph that computes ``outputs``, to be differentiated; it holds StopGradient nodes.

        Inputs that nothing reads are left out, unless ``unused_inputs``. Nodes stand in the order
        in which their inputs become available: ONNX Runtime sorts the nodes that are ready into a
        list by their place in the file, one by one (1.19). In the order of building, thousands are
        ready long before their turn, and opening a session takes time with the square of the number
        of nodes (46,000 nodes: 10 s, 92,000: 50 s; sorted so: 6 s, 13 s). In which order they run
        does not depend on this. Each node's text is operator and name of the user's node that it
        comes from, for those who build on this graph (see ``values.sources``).
        """
        nodes = sort_nodes(formed(self, self.needed(outputs)))
        model = to_model(nodes, self._read(nodes, outputs, unused_inputs), outputs)
        for proto, node in zip(model.graph.node, nodes, strict=True):
            if node.source_node:
                operator = self.operators.get(node.source_node, node.op)
                proto.doc_string = f"{operator} {node.source_node}"
        return model

    def _read(
        self, nodes: Sequence[Node], outputs: Sequence[Value], unused: bool
    ) -> Sequence[Value]:
        """The inputs of a graph of ``nodes``: those that something reads, or all of them."""
        if unused:
            return self.inputs
        read = {id(v) for n in nodes for v in n.inputs} | {id(v) for v in outputs}
        return [v for v in self.inputs if id(v) in read]


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, onnx.TensorProto | onnx.GraphProto):
        return value.SerializeToString()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    return value
