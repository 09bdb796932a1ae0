"""Rewrites the operators that only onnxruntime's gradient builder emits into primitives."""

from __future__ import annotations

from collections.abc import Callable

from graph_init.ir import GRAPH_INIT, MICROSOFT, STOP_GRADIENT, Builder, Value
from graph_init.lowering import patches
from graph_init.lowering.activation import gelu_derivative, step
from graph_init.lowering.linear import plain_conv
from graph_init.lowering.registry import GRADIENT_RULES, Call, Rule, lowers


def _emits(*ops: str, domain: str = MICROSOFT) -> Callable[[Rule], Rule]:
    return lowers(*ops, domain=domain, table=GRADIENT_RULES)


@_emits("ReluGrad")
def _relu(b: Builder, c: Call) -> Value:
    return b.mul(c[0], step(b, c[1]))


@_emits("Gelu")
def _gelu(b: Builder, c: Call) -> Value:
    return gelu_derivative(b, c[0], 0)


@_emits("GeluGrad")
def _gelu_gradient(b: Builder, c: Call) -> Value:
    return b.mul(c[0], gelu_derivative(b, c[1], 1))


@_emits("SigmoidGrad")
def _sigmoid(b: Builder, c: Call) -> Value:
    dy, y = c[0], c[1]
    return b.mul(dy, b.mul(y, b.sub(b.scalar(1.0, y), y)))


@_emits("TanhGrad")
def _tanh(b: Builder, c: Call) -> Value:
    dy, y = c[0], c[1]
    return b.mul(dy, b.sub(b.scalar(1.0, y), b.mul(y, y)))


@_emits("SinGrad")
def _sin(b: Builder, c: Call) -> Value:
    return b.mul(c[0], b.op("Cos", c[1]))


@_emits("CosGrad")
def _cos(b: Builder, c: Call) -> Value:
    return b.mul(c[0], b.op("Neg", b.op("Sin", c[1])))


@_emits("SoftmaxGrad", "SoftmaxGrad_13")
def _softmax(b: Builder, c: Call) -> Value:
    dy, y, axis = c[0], c[1], c.attrs.get("axis", -1)
    return b.mul(y, b.sub(dy, b.sum(b.mul(dy, y), [axis])))


@_emits("LogSoftmaxGrad", "LogSoftmaxGrad_13")
def _log_softmax(b: Builder, c: Call) -> Value:
    dy, y, axis = c[0], c[1], c.attrs.get("axis", -1)
    return b.sub(dy, b.mul(b.op("Exp", y), b.sum(dy, [axis])))


@_emits("Scale")
def _scale(b: Builder, c: Call) -> Value:
    factor = b.reciprocal(c[1]) if c.attrs.get("scale_down") else c[1]
    return b.mul(c[0], b.cast(factor, c[0].dtype))


@_emits("SliceGrad")
def _slice(b: Builder, c: Call) -> Value:
    """Zeros around the slice; lowering left only slices of step one."""
    dy, shape = c[0], [int(d) for d in c.ints("", 1) or []]
    before, after = [0] * len(shape), [0] * len(shape)
    for start, axis in zip(c.ints("", 2) or [], c.ints("", 4) or [], strict=True):
        before[axis] = start
        after[axis] = shape[axis] - start - dy.dims[axis]
    return b.op("Pad", dy, b.ints(before + after), b.scalar(0.0, dy), mode="constant")


@_emits("Conv", domain="")
def _conv(b: Builder, c: Call) -> Value:
    x, w = c[0], c[1]
    place = patches.window(x, w, c.attrs)
    if place is None:
        return plain_conv(b, c)
    window, rules = place, (patches.input_derivative, patches.kernel_derivative)
    y = patches.convolve(b, x, w, window)
    b.custom_vjp(y, (x, w), lambda delta, k: rules[k](b, delta, x, w, place=window))
    return y


@_emits("ConvGrad")
def _conv_gradient(b: Builder, c: Call) -> list[Value | None]:
    """A node for each output: each is bilinear, and one that nothing reads falls away."""
    outputs: list[Value | None] = []
    place = patches.window(c[1], c[2], c.attrs)
    if place is not None and not any(c.wanted[2:]):
        rules = (patches.input_derivative, patches.kernel_derivative)
        operands = (c[0], c[1], c[2])
        return [
            rule(b, *operands, place) if want else None
            for rule, want in zip(rules, c.wanted, strict=False)
        ]
    for i, want in enumerate((*c.wanted, False, False)[:3]):
        mask = tuple(k == i for k in range(i + 1))
        made = (
            b.multi("ConvGrad", c.inputs, mask, domain=MICROSOFT, attrs=c.attrs) if want else [None]
        )
        outputs.append(made[-1])
    return outputs


@_emits("ReduceSumTraining")
@_emits("ReduceSum", domain="")
def _reduce_sum(b: Builder, c: Call) -> Value:
    axes = c.ints("", 1) or []
    if not axes and c.attrs.get("noop_with_empty_axes"):
        return c[0]
    return b.sum(c[0], axes or None, bool(c.attrs.get("keepdims", 1)))


@_emits("FusedMatMul")
def _product(b: Builder, c: Call) -> Value:
    attrs = {k: v for k, v in c.attrs.items() if v != _PRODUCT_DEFAULTS.get(k)}
    if attrs.keys() <= {"transA", "transB", "alpha"}:
        left, right = (bool(attrs.get(k)) for k in ("transA", "transB"))
        return b.product(c[0], c[1], left, right, alpha=attrs.get("alpha", 1.0))
    return b.op("FusedMatMul", c[0], c[1], domain=MICROSOFT, **attrs)


_PRODUCT_DEFAULTS = {
    "transA": 0,
    "transB": 0,
    "transBatchA": 0,
    "transBatchB": 0,
    "alpha": 1.0,
}


def _as_is(b: Builder, c: Call) -> list[Value | None]:
    return list(b.multi(c.op, c.inputs, c.wanted, domain=c.domain, attrs=c.attrs))


_KEPT: Rule = _as_is
GRADIENT_RULES[GRAPH_INIT, STOP_GRADIENT] = _KEPT
for _op in "GatherGrad GatherElementsGrad GatherNDGrad BroadcastGradientArgs".split():
    GRADIENT_RULES[MICROSOFT, _op] = _KEPT
