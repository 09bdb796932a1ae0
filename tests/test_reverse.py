"""Reverse mode: every rule, deep convolutional networks, and the training build's own gradients."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.autodiff import primal
from graph_init.autodiff.forms import FORMS
from graph_init.autodiff.reverse import gradients
from graph_init.autodiff.rules import RULES as DERIVATIVES
from graph_init.autodiff.tangent import tangents
from graph_init.engine.choice import TORCH, choose
from graph_init.engine.runtime import PLAIN, TRAINING, installed
from graph_init.errors import GraphInitError
from graph_init.ir import ZERO_DERIVATIVE, Array, Builder, Value
from graph_init.lowering import PRIMITIVES, run
from tests import node_cases
from tests.derivatives import evaluator
from tests.test_tangent import RULES, Make

pytest.importorskip("onnxruntime")

DOUBLE = TensorProto.DOUBLE
#: Operators that no plain build has.
ENGINE_ONLY = frozenset("ConvGrad GatherGrad GatherElementsGrad GatherNDGrad".split())


def test_every_primitive_has_both_rules() -> None:
    assert set(DERIVATIVES) >= PRIMITIVES - ZERO_DERIVATIVE
    assert all(callable(r.jvp) and callable(r.vjp) for r in DERIVATIVES.values())


def inner(b: Builder, left: list[Value], right: list[Value]) -> Value:
    total: Value | None = None
    for x, y in zip(left, right, strict=True):
        term = b.sum(b.mul(x, y), keepdims=False)
        total = term if total is None else b.add(total, term)
    assert total is not None
    return total


@pytest.mark.parametrize("forms", [PLAIN, TRAINING, TORCH])
@pytest.mark.parametrize(("op", "make", "shapes"), RULES, ids=[op for op, _, _ in RULES])
def test_three_orders_by_reverse_mode_alone(
    op: str, make: Make, shapes: list[tuple[int, ...]], forms: str
) -> None:
    """∇L, ∇⟨∇L, t⟩ and ∇⟨∇⟨∇L, t⟩, u⟩ against central differences of the order below."""
    rng = np.random.default_rng(0)
    b = Builder(DOUBLE, fuses=True, forms=FORMS[forms])
    xs, ts, us = (
        [b.input(f"{name}{k}", DOUBLE, s, requires_grad=True) for k, s in enumerate(shapes)]
        for name in "xtu"
    )
    y = b.op("Tanh", make(b, *xs))
    loss = b.sum(b.mul(y, b.constant(rng.standard_normal(y.dims))), keepdims=False)
    orders = [[loss]]
    for seeds in (ts, us, None):
        scalar = orders[-1][0] if seeds is ts else inner(b, orders[-1], ts if seeds else us)
        found = gradients(b, scalar, xs)
        orders.append([found.get(x, b.expand(b.scalar(0.0, x), x.dims)) for x in xs])
    model = b.model([b.barrier(v) for row in orders for v in row], unused_inputs=True)
    if forms == PLAIN:
        assert not ENGINE_ONLY & {n.op_type for n in model.graph.node}
    evaluate = evaluator(model)
    feeds = {v.name: rng.standard_normal(v.dims) for v in b.inputs}
    h = 1e-3 if op == "Cast" else 1e-5  # its numbers have passed through single precision
    moves = {f"x{k}": rng.standard_normal(s) for k, s in enumerate(shapes)}

    def at(step: float) -> list[Array]:
        flat = evaluate({n: a + step * moves.get(n, 0.0) for n, a in feeds.items()})
        rest = iter(flat[1:])
        rows = [np.concatenate([next(rest).ravel() for _ in xs]) for _ in range(3)]
        return [flat[0].ravel(), *rows]

    here, high, low = at(0.0), at(h), at(-h)
    slope = [(p - m) / (2 * h) for p, m in zip(high, low, strict=True)]
    direction = np.concatenate([m.ravel() for m in moves.values()])
    t, u = (
        np.concatenate([feeds[f"{name}{k}"].ravel() for k in range(len(shapes))]) for name in "tu"
    )
    tolerance = 1e-3 if op == "Cast" else 1e-6
    assert here[1] @ direction == pytest.approx(slope[0][0], rel=tolerance, abs=tolerance)
    assert here[2] @ direction == pytest.approx(slope[1] @ t, rel=tolerance, abs=tolerance)
    assert here[3] @ direction == pytest.approx(slope[2] @ u, rel=tolerance, abs=tolerance)


def test_a_cotangent_that_is_the_same_along_an_axis_is_not_written_out() -> None:
    b = Builder()
    x, w = (b.input(n, TensorProto.FLOAT, (8, 4), requires_grad=True) for n in "xw")
    loss = b.sum(b.mul(x, w), keepdims=False)
    found = gradients(b, loss, [x, w])
    assert found == {x: w, w: x}
    assert "Expand" not in {n.op for n in b.nodes}


def test_what_is_asked_for_is_independent_of_what_it_is_made_of() -> None:
    """Parameters that are parts of one vector, of which the first is the part itself."""
    b = Builder()
    packed = b.input("packed", TensorProto.FLOAT, (5,), requires_grad=True)
    parts = b.multi("Split", [packed, b.ints([2, 3])], [True, True], attrs={"axis": 0})
    x, y = (v for v in parts if v is not None)
    loss = b.add(b.sum(b.mul(x, x), keepdims=False), b.sum(y, keepdims=False))
    found = gradients(b, loss, [x, y])
    assert {v: g.dims for v, g in found.items()} == {x: (2,), y: (3,)}


def image_layers(transposed: bool) -> onnx.ModelProto:
    """Convolutions over 4×4 places, whose kernels (and inputs) may lie as TensorFlow and JAX have
    them; then a Gelu."""
    rng = np.random.default_rng(0)
    weights, nodes, last = [], [], "x"
    for k, (inputs, outputs) in enumerate(((8, 12), (12, 16))):
        w = (rng.standard_normal((outputs, inputs, 3, 3)) / 8).astype(np.float32)
        if transposed:
            w = np.ascontiguousarray(w.transpose(2, 3, 1, 0))
            nodes += [
                helper.make_node("Transpose", [f"w{k}"], [f"kernel{k}"], perm=[3, 2, 0, 1]),
                helper.make_node("Transpose", [last], [f"last{k}"], perm=[0, 2, 3, 1]),
                helper.make_node("Transpose", [f"last{k}"], [f"first{k}"], perm=[0, 3, 1, 2]),
            ]
        given = [f"first{k}", f"kernel{k}"] if transposed else [last, f"w{k}"]
        nodes.append(helper.make_node("Conv", given, [f"conv{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Gelu", [f"conv{k}"], [f"gelu{k}"]))
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        last = f"gelu{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 4, 4])
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.exact("the two files' weights would get noise in another order")
def test_a_layout_in_front_of_a_derivative_as_a_whole_stops_nothing() -> None:
    """Convolutions of few places read a transposed kernel as one view; its gradient was lost."""
    plain, laid_out = (
        graph_init.measure(image_layers(t), loss="mse", batch_size=4) for t in (False, True)
    )
    assert laid_out.gradient_deviation == pytest.approx(plain.gradient_deviation, rel=1e-3)
    assert laid_out.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-5)
    for one, other in zip(plain.parameters, laid_out.parameters, strict=True):
        assert other.gradient_deviation == pytest.approx(one.gradient_deviation, rel=1e-2)


def test_a_stopped_value_gets_nothing() -> None:
    b = Builder()
    x, w = (b.input(n, TensorProto.FLOAT, (3,), requires_grad=True) for n in "xw")
    loss = b.sum(b.mul(b.stop_gradient(b.op("Exp", x)), w), keepdims=False)
    assert set(gradients(b, loss, [x, w])) == {w}


# -- deep networks against PyTorch ----------------------------------------------------------------

Layer = tuple[str, tuple[int, ...], dict[str, object]]


def _two_axes() -> list[Layer]:
    """18 layers of four channels, with groups and dilations and strides."""
    kinds = [
        {"pads": [1] * 4},
        {"pads": [1] * 4, "group": 2},
        {"pads": [2] * 4, "dilations": [2, 2]},
        {"pads": [1] * 4, "group": 4},
        {"pads": [2, 1, 2, 1], "dilations": [2, 1], "group": 2},
        {"pads": [1, 1, 1, 1], "strides": [1, 1]},
    ]
    layers: list[Layer] = [
        ("Conv", (4, 4 // int(k.get("group", 1)), 3, 3), dict(k))  # type: ignore[call-overload]
        for k in kinds * 3
    ]
    layers[5] = ("Conv", (4, 4, 3, 3), {"pads": [1] * 4, "strides": [2, 2]})
    return layers


NETWORKS: dict[str, tuple[tuple[int, ...], list[Layer]]] = {
    "18 layers": ((2, 4, 8, 8), _two_axes()),
    "one axis": (
        (2, 4, 12),
        [
            ("Conv", (6, 2, 3), {"group": 2, "pads": [1, 0], "strides": [2], "dilations": [1]}),
            ("Conv", (4, 6, 2), {"dilations": [2], "pads": [0, 1]}),
            # Without output_padding, of which PyTorch 2.13 has no second derivative on one axis.
            ("ConvTranspose", (4, 2, 3), {"group": 2, "strides": [2], "pads": [1, 0]}),
        ],
    ),
    "three axes": (
        (1, 4, 5, 4, 6),
        [
            ("Conv", (4, 2, 2, 1, 3), {"group": 2, "strides": [1, 2, 2], "pads": [1] * 6}),
            ("Conv", (2, 4, 2, 2, 2), {"dilations": [2, 1, 1], "pads": [1, 1, 1, 0, 0, 0]}),
            ("ConvTranspose", (2, 2, 2, 2, 1), {"strides": [2, 1, 1], "pads": [1, 0, 0, 0, 0, 0]}),
        ],
    ),
    "transposed": (
        (2, 4, 5, 4),
        [
            ("ConvTranspose", (4, 3, 3, 2), {"strides": [2, 3], "output_padding": [1, 2]}),
            ("ConvTranspose", (3, 4, 2, 2), {"dilations": [2, 1], "pads": [1, 0, 0, 1]}),
            ("ConvTranspose", (4, 1, 3, 3), {"group": 4, "strides": [1, 2], "pads": [2, 2, 2, 2]}),
        ],
    ),
}


def _torch_layer(kind: str, x, w, attrs: dict[str, object]):  # type: ignore[no-untyped-def]
    import torch

    n = x.ndim - 2
    pads = list(attrs.get("pads", [0] * 2 * n))  # type: ignore[call-overload]
    common = {
        "stride": attrs.get("strides", [1] * n),
        "dilation": attrs.get("dilations", [1] * n),
        "groups": attrs.get("group", 1),
    }
    functional = torch.nn.functional
    if kind == "Conv":
        widths = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
        return getattr(functional, f"conv{n}d")(functional.pad(x, widths), w, **common)
    y = getattr(functional, f"conv_transpose{n}d")(
        x, w, output_padding=attrs.get("output_padding", [0] * n), **common
    )
    for i in range(n):
        y = y.narrow(2 + i, pads[i], y.shape[2 + i] - pads[i] - pads[n + i])
    return y


@pytest.mark.parametrize("engine", ["auto", PLAIN])
@pytest.mark.parametrize("name", NETWORKS)
def test_three_orders_of_convolutions_against_pytorch(name: str, engine: str) -> None:
    """Gradient, Hv and D³L[v, u] + Hz in float64."""
    torch = pytest.importorskip("torch")
    shape, layers = NETWORKS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    weights = {
        f"w{k}": rng.standard_normal(s) * 1.5 / np.sqrt(np.prod(s[1:]))
        for k, (_, s, _) in enumerate(layers)
    }
    b = Builder(DOUBLE)
    environment: dict[str, Value | None] = {"": None, "x": b.constant(x)}
    for n, a in weights.items():
        environment[n] = b.input(n, DOUBLE, a.shape, requires_grad=True)
    last = "x"
    for k, (kind, _, attrs) in enumerate(layers):
        nodes = [
            helper.make_node(kind, [last, f"w{k}"], [f"c{k}"], **attrs),
            helper.make_node("Tanh", [f"c{k}"], [f"y{k}"]),
        ]
        run(b, nodes, environment, 21)
        last = f"y{k}"
    y = environment[last]
    assert y is not None
    loss = b.barrier(b.sum(b.mul(y, y), keepdims=False))
    p = primal.build(b.model([loss]), loss.name, list(weights), engine=choose(engine))
    d = p.builder
    seeds = {
        k: {n: d.input(f"{k}:{n}", DOUBLE, a.shape) for n, a in weights.items()} for k in "vuz"
    }
    names = list(p.gradients)
    first = tangents(
        d, d.needed([*p.gradients.values()]), {t: seeds["v"][n] for n, t in p.theta.items()}
    )
    hv = {n: first[p.gradients[n]] for n in names}
    moved = {t: seeds["u"][n] for n, t in p.theta.items()}
    moved |= {seeds["v"][n]: seeds["z"][n] for n in names}
    mixed = tangents(d, d.needed([*hv.values()]), moved)
    rows = [p.gradients, hv, {n: mixed[hv[n]] for n in names}]
    model = d.model([d.barrier(row[n]) for row in rows for n in names])
    if engine == PLAIN:
        assert not ENGINE_ONLY & {n.op_type for n in model.graph.node}
    feeds = {
        **weights,
        **{v.name: rng.standard_normal(v.dims) for k in seeds.values() for v in k.values()},
    }
    ours = iter(evaluator(model)(feeds))

    tensors = [torch.tensor(weights[n], requires_grad=True) for n in names]
    out = torch.tensor(x)
    for (kind, _, attrs), w in zip(layers, tensors, strict=True):
        out = torch.tanh(_torch_layer(kind, out, w, attrs))
    v, u, z = ([torch.tensor(feeds[f"{k}:{n}"]) for n in names] for k in "vuz")

    def along(values, direction):  # type: ignore[no-untyped-def]
        product = sum((a * c).sum() for a, c in zip(values, direction, strict=True))
        return torch.autograd.grad(product, tensors, create_graph=True)

    g = torch.autograd.grad((out * out).sum(), tensors, create_graph=True)
    h = along(g, v)
    third = [a + c for a, c in zip(along(h, u), along(g, z), strict=True)]
    for theirs in (g, h, third):
        scale = max(float(a.detach().abs().max()) for a in theirs)
        for a in theirs:
            np.testing.assert_allclose(
                next(ours), a.detach().numpy(), rtol=1e-9, atol=1e-10 * scale
            )


# -- the training build's gradient builder --------------------------------------------------------


def _gradient(case: node_cases.NodeCase, engine: str) -> dict[str, Array] | None:
    """The gradient of Σ c·y over the case's float outputs by name; None if the engine has none."""
    lowered = node_cases.lower(case, DOUBLE)
    b, rng = lowered.builder, np.random.default_rng(0)
    outputs = [v for v in lowered.outputs.values() if v.is_float and v.requires_grad and v.size]
    if not outputs:
        return None
    terms = [b.constant(rng.standard_normal(v.dims)) for v in outputs]
    loss = b.op("Cast", b.barrier(inner(b, outputs, terms)), to=TensorProto.FLOAT)
    try:
        p = primal.build(
            b.model([loss], unused_inputs=True),
            loss.name,
            list(lowered.inputs),
            engine=choose(engine),
        )
    except GraphInitError:
        return None
    named = {n: p.builder.barrier(g) for n, g in p.gradients.items()}
    found = evaluator(p.builder.program(list(named.values()), unused_inputs=True).model)(
        lowered.feeds
    )
    return dict(zip(named, found, strict=True))


@pytest.mark.skipif(
    installed() != TRAINING,
    reason="it compares with the gradient builder of onnxruntime's training build, which is not "
    "installed; install graph-init[training]",
)
def test_gradients_equal_the_training_builds_on_backend_cases() -> None:
    compared, different = 0, []
    for case in node_cases.load():
        if case.expanded or node_cases.exclusion(case) is not None:
            continue
        if sum(np.asarray(v).size for v in case.inputs.values()) > 5_000:
            continue
        try:
            theirs = _gradient(case, TRAINING)
        except GraphInitError:  # lowering refuses it
            continue
        if theirs is None:
            continue
        ours = _gradient(case, "auto")
        assert ours is not None, case.name
        compared += 1
        for n, g in theirs.items():
            mine = ours.get(n, np.zeros(g.shape))
            if not np.allclose(mine, g, rtol=1e-6, atol=1e-8, equal_nan=True):
                different.append(case.name)
    assert not different
    assert compared > 700
