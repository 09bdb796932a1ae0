"""Elementwise operators: most are one of ONNX's, the others a few."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Value, is_float
from graph_init_jax.lowering.registry import Result, rule

#: JAX's primitive -> ONNX's operator of the same arguments.
SAME = {
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "not": "Not",
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "min": "Min",
    "max": "Max",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}

#: Operators that ONNX has for booleans only.
_BOOLEAN = frozenset({"not", "and", "or", "xor"})

#: What changes nothing in a forward pass.
IDENTITIES = ("copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier")


@rule(*SAME)
def same(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    if out.primitive in _BOOLEAN and np.dtype(out.dtype).kind != "b":
        raise out.refused("on integers")
    if out.primitive == "max" and is_float(out.dtype):
        plain = _rectifier(g, inputs, out)
        if plain is not None:
            return plain
    if out.primitive == "div":
        plain = _softmax(g, inputs, out)
        if plain is not None:
            return plain
    return g.elementwise(SAME[out.primitive], inputs, out.shape, out.dtype)


def _rectifier(g: Graph, inputs: list[Value], out: Result) -> Value | None:
    """max(x, 0) as Relu, max(x, -inf) as x."""
    for place, value in enumerate(inputs):
        if not value.known or np.size(value.data) == 0:
            continue
        other = inputs[1 - place]
        level = np.asarray(value.data).reshape(-1)[0]
        if level in (0, -np.inf) and bool(np.all(np.asarray(value.data) == level)):
            if other.shape != out.shape:
                return None
            return g.elementwise("Relu", [other], out.shape, out.dtype) if level == 0 else other
    return None


def _softmax(g: Graph, inputs: list[Value], out: Result) -> Value | None:
    """exp(x - m) / sum(exp(x - m)) as Softmax(x), where m is the same along the summed axis.

    That is exact for any such m, and spares the gradient of the maximum that JAX stops.
    """
    top, below = inputs
    view = g.producer(below, "Reshape")
    total = g.producers.get(view.input[0]) if view is not None else g.producer(below, "ReduceSum")
    power = g.producer(top, "Exp")
    if total is None or power is None or total.op_type != "ReduceSum" or top.shape != top.stored:
        return None
    different = [
        k for k, (a, b) in enumerate(zip(top.stored, below.stored, strict=False)) if a != b
    ]
    if total.input[0] != top.name or len(different) != 1 or len(top.shape) != len(below.stored):
        return None
    axis = different[0]
    if below.stored[axis] != 1 or g.axes.get(total.output[0]) != (axis,):
        return None
    argument = g.values[power.input[0]]
    shift = g.producers.get(power.input[0])
    if shift is not None and shift.op_type == "Sub" and shift.input[1] in g.values:
        level, whole = g.values[shift.input[1]], g.values.get(shift.input[0])
        if (
            whole is not None
            and whole.stored == top.shape
            and level.stored[axis : axis + 1] == (1,)
        ):
            argument = whole
    return g.add("Softmax", [argument], out.shape, out.dtype, axis=axis)


@rule(*IDENTITIES)
def identity(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
    return list(inputs)


@rule("ne")
def ne(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    equal = g.elementwise("Equal", inputs, out.shape, out.dtype)
    return g.elementwise("Not", [equal], out.shape, out.dtype)


@rule("rem")
def rem(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    stored = np.broadcast_shapes(*(v.stored for v in inputs))
    made = g.add("Mod", inputs, stored, out.dtype, fmod=1)
    return Value(out.shape, made.dtype, stored, made.name)


@rule("square")
def square(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return g.elementwise("Mul", inputs * 2, out.shape, out.dtype)


@rule("integer_pow")
def integer_pow(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    if params["y"] == 2:
        return g.elementwise("Mul", inputs * 2, out.shape, out.dtype)
    exponent = _scalar(params["y"], out)
    return g.elementwise("Pow", [*inputs, exponent], out.shape, out.dtype)


@rule("rsqrt")
def rsqrt(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    root = g.elementwise("Sqrt", inputs, out.shape, out.dtype)
    return g.elementwise("Reciprocal", [root], out.shape, out.dtype)


@rule("exp2")
def exp2(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return g.elementwise("Pow", [_scalar(2, out), *inputs], out.shape, out.dtype)


@rule("log1p")
def log1p(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    total = g.elementwise("Add", [*inputs, _scalar(1, out)], out.shape, out.dtype)
    return g.elementwise("Log", [total], out.shape, out.dtype)


@rule("expm1")
def expm1(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    power = g.elementwise("Exp", inputs, out.shape, out.dtype)
    return g.elementwise("Sub", [power, _scalar(1, out)], out.shape, out.dtype)


@rule("erfc")
def erfc(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    error = g.elementwise("Erf", inputs, out.shape, out.dtype)
    return g.elementwise("Sub", [_scalar(1, out), error], out.shape, out.dtype)


@rule("round")
def round_(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    if int(params["rounding_method"]) == 1:  # to the nearest even, which is ONNX's
        return g.elementwise("Round", inputs, out.shape, out.dtype)
    size = g.elementwise("Abs", inputs, out.shape, out.dtype)
    raised = g.elementwise("Add", [size, _scalar(0.5, out)], out.shape, out.dtype)
    whole = g.elementwise("Floor", [raised], out.shape, out.dtype)
    sign = g.elementwise("Sign", inputs, out.shape, out.dtype)
    return g.elementwise("Mul", [sign, whole], out.shape, out.dtype)


@rule("is_finite")
def is_finite(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    # inf - inf and nan - nan are not numbers, and so not equal to zero.
    difference = g.elementwise("Sub", inputs * 2, out.shape, inputs[0].dtype)
    zero = Value((), inputs[0].dtype, (), data=np.zeros((), inputs[0].dtype))
    return g.elementwise("Equal", [difference, zero], out.shape, out.dtype)


@rule("clamp")
def clamp(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    low, value, high = inputs
    raised = g.elementwise("Max", [value, low], out.shape, out.dtype)
    return g.elementwise("Min", [raised, high], out.shape, out.dtype)


@rule("select_n")
def select_n(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    which, *cases = inputs
    if np.dtype(which.dtype).kind == "b":
        return g.elementwise("Where", [which, cases[1], cases[0]], out.shape, out.dtype)
    chosen = cases[-1]
    for number, case in reversed(list(enumerate(cases[:-1]))):
        level = Value((), which.dtype, (), data=np.array(number, which.dtype))
        here = g.elementwise("Equal", [which, level], which.shape, np.bool_)
        chosen = g.elementwise("Where", [here, case, chosen], out.shape, out.dtype)
    return chosen


@rule("convert_element_type")
def convert(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    return g.cast(inputs[0], out.dtype)


def _scalar(number: float, out: Result) -> Value:
    return Value((), out.dtype, (), data=np.array(number, out.dtype))
