"""The table of lowering rules, and the interpreter that applies them.

A rule rewrites one operator call into primitives on a :class:`~graph_init.ir.Builder`, in
which all shapes are static. An operator without a rule is used as it is if it is a primitive or if
no trainable parameter depends on it, else the ONNX standard's own function body is used if it has
one. What is left raises :class:`UnsupportedModelError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import onnx
from onnx import helper

from graph_init.errors import ModelFileError, UnsupportedModelError
from graph_init.ir import OPSET, ZERO_DERIVATIVE, Array, Builder, Value

#: Operators that the gradient builder differentiates on CPU and the tangent rules cover.
PRIMITIVES = frozenset(
    "Add Sub Mul Neg Exp Log Sqrt Reciprocal Sigmoid Tanh Erf Sin Cos Abs Relu MatMul Conv Reshape "
    "Transpose Expand Concat Gather GatherElements GatherND Where Cast Identity Slice "
    "Softmax LogSoftmax ReduceSum Pad ScatterND ScatterElements Sign Floor Ceil Round".split()
)

#: Float operators of the standard without a rule: why, and what would help.
UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(
        ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
        "rounds activations, which has no useful derivative; initialise the model before it is "
        "quantized",
    ),
    "Unique": "has an output whose size depends on the data; export the model without it",
    "Det": "is a determinant, for which there is no rule; export the model without it",
    "NonMaxSuppression": "selects boxes by their scores, which has no derivative; export the model "
    "without its post-processing",
}

Outputs = Value | Sequence[Value | None]
Rule = Callable[[Builder, "Call"], Outputs]
Table = dict[tuple[str, str], Rule]

#: Rules for the operators of users' models, keyed by (domain, operator).
RULES: Table = {}
#: Rules for what the gradient builder emits; they go before :data:`RULES` there.
GRADIENT_RULES: Table = {}


#: Lists of numbers that count something. What the libraries below us do with others ranges from
#: nonsense to the end of the process.
_POSITIVE = ("strides", "dilations", "kernel_shape")
_LARGEST = 2**31 - 1


Environment = dict[str, Value | None]
Lower = Callable[[Sequence[onnx.NodeProto]], None]


@dataclass(frozen=True)
class Context:
    """What holds for a whole graph: the rules, and how batch normalisation is read.

    ``after`` is called with each node of the model as soon as it is lowered, those in the bodies of
    control flow once for each iteration, with what names stand for there, and with what lowers
    nodes again there. The nodes of functions are not the model's.
    """

    tables: tuple[Table, ...] = (RULES,)
    batch_norm: str = "eval"
    after: Callable[[onnx.NodeProto, Environment, Lower], None] | None = None


@dataclass(frozen=True)
class Call:
    """One operator call of the source graph, its inputs already lowered."""

    op: str
    domain: str
    name: str
    opset: int
    inputs: tuple[Value | None, ...]
    attrs: Mapping[str, Any]
    wanted: tuple[bool, ...]
    context: Context
    #: What the bodies of control flow may read, and the attributes of the enclosing function.
    environment: Environment = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch_norm(self) -> str:
        return self.context.batch_norm

    def __getitem__(self, index: int) -> Value:
        value = self.get(index)
        if value is None:
            raise UnsupportedModelError(f"{self.label} lacks its input {index}")
        return value

    def get(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def const(self, index: int) -> Array | None:
        """The constant at input ``index``; ``None`` if absent; an error if it depends on data."""
        value = self.get(index)
        if value is None:
            return None
        if value.const is None:
            raise UnsupportedModelError(
                f"{self.label}: input {index} ('{value.name}') depends on the data; graph-init "
                "differentiates this operator only where that input is a constant. Export the "
                "model with static shapes"
            )
        return value.const

    def ints(self, attribute: str, index: int | None = None) -> list[int] | None:
        """A list of integers: an attribute in old opsets, the input ``index`` in new ones."""
        if attribute in self.attrs:
            return [int(v) for v in self.attrs[attribute]]
        array = self.const(index) if index is not None else None
        return None if array is None else [int(v) for v in array.ravel()]

    @property
    def requires_grad(self) -> bool:
        return any(v is not None and v.requires_grad for v in self.inputs)

    @property
    def label(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"node '{self.name}' ({domain}{self.op})"

    def refuse(self, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.label} {why}")


def lowers(*ops: str, domain: str = "", table: Table = RULES) -> Callable[[Rule], Rule]:
    """Register a rule for the named operators."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            table[domain, op] = rule
        return rule

    return register


def lower_call(b: Builder, call: Call) -> tuple[Value | None, ...]:
    """The outputs of ``call``, built from primitives."""
    for name in _POSITIVE:
        found = call.attrs.get(name)
        if isinstance(found, list) and any(n < 1 for n in found):
            raise call.refuse(
                f"has the {name} {found}, which must be at least 1; correct the model"
            )
        if isinstance(found, list) and any(n > _LARGEST for n in found):
            # The engine computes with the product of two of them in 64 bits, and unchecked.
            raise call.refuse(f"has the {name} {found}, of which one is above {_LARGEST:,}")
    key = (call.domain, call.op)
    rule = next((t[key] for t in call.context.tables if key in t), None)
    if rule is not None:
        outputs = rule(b, call)
        return (outputs,) if isinstance(outputs, Value) else tuple(outputs)
    standard = call.domain == ""
    if standard and call.op in PRIMITIVES:
        return b.multi(call.op, call.inputs, call.wanted, attrs=call.attrs)
    body = _function_body(call) if standard else None
    if body is not None and (call.requires_grad or not _engine_knows(call)):
        return _inline(b, call, body)
    if call.requires_grad and call.op not in ZERO_DERIVATIVE:
        why = UNSUPPORTED.get(
            call.op, "has no differentiation rule; replace it by standard operators"
        )
        raise call.refuse(
            f"{why}. There are trainable parameters before it: freeze these with --freeze to "
            "measure the others"
        )
    if standard and not _engine_knows(call):
        raise call.refuse(
            f"is newer than opset {OPSET}, in which graphs are run; export with an older opset"
        )
    return b.multi(call.op, call.inputs, call.wanted, domain=call.domain, attrs=call.attrs)


def _engine_knows(call: Call) -> bool:
    return bool(onnx.defs.has(call.op, OPSET, ""))


def _function_body(call: Call) -> onnx.FunctionProto | None:
    if not onnx.defs.has(call.op, call.opset, ""):
        return None
    schema: Any = onnx.defs.get_schema(call.op, call.opset, "")  # its stub lacks the bodies
    if schema.has_function:
        body: onnx.FunctionProto = schema.function_body
        return body
    if schema.has_context_dependent_function:
        node = helper.make_node(
            call.op,
            [f"i{k}" if v is not None else "" for k, v in enumerate(call.inputs)],
            [f"o{k}" if w else "" for k, w in enumerate(call.wanted)],
        )
        node.attribute.extend(helper.make_attribute(k, v) for k, v in call.attrs.items())
        types = [
            helper.make_tensor_type_proto(v.dtype, v.shape).SerializeToString()
            if v is not None
            else onnx.TypeProto().SerializeToString()
            for v in call.inputs
        ]
        try:
            raw = schema.get_context_dependent_function(node.SerializeToString(), types)
        except Exception:  # the body cannot be built for these types: as if there were none
            return None
        return onnx.FunctionProto.FromString(raw) if raw else None
    return None


def _inline(b: Builder, call: Call, body: onnx.FunctionProto) -> tuple[Value | None, ...]:
    opset = next((o.version for o in body.opset_import if o.domain == ""), call.opset)
    environment: dict[str, Value | None] = {"": None}
    for name, value in zip(body.input, call.inputs, strict=False):
        environment[name] = value
    schema = onnx.defs.get_schema(call.op, call.opset, "")
    attributes = {
        k: helper.get_attribute_value(a.default_value)
        for k, a in schema.attributes.items()
        if a.default_value.type
    }
    attributes.update(call.attrs)
    run(
        b,
        body.node,
        environment,
        opset=opset,
        name=call.name,
        outer=attributes,
        context=replace(call.context, after=None),
    )
    return tuple(
        environment.get(name) if want else None
        for name, want in zip(body.output, call.wanted, strict=False)
    )


def _attributes(node: onnx.NodeProto, outer: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for a in node.attribute:
        if a.ref_attr_name:
            if a.ref_attr_name in outer:
                found[a.name] = _plain(outer[a.ref_attr_name])
        else:
            found[a.name] = _plain(helper.get_attribute_value(a))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


def _read(environment: Mapping[str, Value | None], name: str, node: onnx.NodeProto) -> Value | None:
    if name and name not in environment:
        raise ModelFileError(f"node '{node.name}' reads '{name}', which nothing produces")
    return environment[name] if name else None


def run(
    b: Builder,
    nodes: Iterable[onnx.NodeProto],
    environment: dict[str, Value | None],
    opset: int,
    name: str = "",
    outer: Mapping[str, Any] | None = None,
    context: Context = Context(),
) -> None:
    """Lower ``nodes`` in order; ``environment`` maps names to values and receives the outputs."""
    again = partial(
        run,
        b,
        environment=environment,
        opset=opset,
        name=name,
        outer=outer,
        context=replace(context, after=None),
    )
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        call = Call(
            node.op_type,
            domain,
            name=node.name or name or (node.output[0] if node.output else ""),
            opset=opset if domain == "" else 1,
            inputs=tuple(_read(environment, i, node) for i in node.input),
            attrs=_attributes(node, outer or {}),
            wanted=tuple(bool(o) for o in node.output),
            context=context,
            environment=environment,
            outer=outer or {},
        )
        b.source_node = call.name
        b.operators.setdefault(call.name, call.op)
        try:
            values = lower_call(b, call)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            shapes = ", ".join(str(v.shape) for v in call.inputs if v is not None)
            raise call.refuse(
                f"does not fit its inputs of shapes {shapes} ({error}); if the model has symbolic "
                "dimensions, give their sizes with --dim"
            ) from error
        for output, value in zip(node.output, values, strict=False):
            if output:
                environment[output] = value
        if context.after is not None:
            context.after(node, environment, again)
