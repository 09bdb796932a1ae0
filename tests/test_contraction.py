"""Inner products of parameters with their gradients, against the gradients themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from graph_init.autodiff import primal
from graph_init.autodiff.contraction import Products, contract, dot
from graph_init.autodiff.forms import FORMS
from graph_init.autodiff.tangent import tangents
from graph_init.engine.runtime import installed
from graph_init.engine.session import open_session
from graph_init.ir import Array, Builder, Value
from graph_init.lowering import patches

Network = Callable[[Builder, Value, Value], Value]


def matrix(b: Builder, x: Value, w: Value) -> Value:
    return b.op("MatMul", b.reshape(x, [-1, w.dims[0]]), w)


def transposed(b: Builder, x: Value, w: Value) -> Value:
    return b.op("MatMul", b.reshape(x, [-1, w.dims[1]]), b.transpose(w, [1, 0]))


def convolution(b: Builder, x: Value, w: Value) -> Value:
    return b.op(
        "Conv",
        x,
        w,
        group=1,
        kernel_shape=[3, 3],
        strides=[1, 1],
        dilations=[1, 1],
        pads=[1, 1, 1, 1],
    )


CASES: dict[str, tuple[Network, tuple[int, ...], tuple[int, ...]]] = {
    "matrix": (matrix, (4, 3, 8), (8, 5)),
    "transposed": (transposed, (4, 3, 8), (5, 8)),
    "convolution": (convolution, (2, 4, 6, 6), (5, 4, 3, 3)),
    "many channels": (convolution, (2, 512, 3, 3), (512, 512, 3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_contractions_equal_products_with_the_gradient(name: str) -> None:
    """Of the mixed tangent of a two-layer network's gradient."""
    network, x_shape, w_shape = CASES[name]
    forward = Builder()
    x = forward.input("x", TensorProto.FLOAT, x_shape)
    v = forward.input("v", TensorProto.FLOAT, x_shape[1:], requires_grad=True)
    w = forward.input("w", TensorProto.FLOAT, w_shape, requires_grad=True)
    y = forward.op("Tanh", network(forward, forward.op("Tanh", forward.mul(x, v)), w))
    loss = forward.barrier(forward.sum(forward.mul(y, y), keepdims=False))
    p = primal.build(forward.model([loss]), loss.name, ["v", "w"])
    b = p.builder
    seeds = {
        k: {n: b.input(k + n, TensorProto.FLOAT, t.dims) for n, t in p.theta.items()}
        for k in ("d:", "u:", "z:")
    }
    first = tangents(
        b, b.needed([*p.gradients.values()]), {t: seeds["d:"][n] for n, t in p.theta.items()}
    )
    change = first[p.gradients["w"]]
    moved = {t: seeds["u:"][n] for n, t in p.theta.items()}
    moved |= {seeds["d:"][n]: seeds["z:"][n] for n in p.theta}
    bracket = tangents(b, b.needed([change]), moved)[change]
    before = Counter(n.op for n in b.needed([bracket]))
    direct = b.barrier(dot(b, p.theta["w"], bracket))
    fast = b.barrier(contract(b, p.theta["w"], bracket, Products(b.nodes)))
    after = Counter(n.op for n in b.needed([fast]))
    products = ("MatMul", "FusedMatMul", "Conv", "ConvGrad")
    # Each inner product is a FusedMatMul of its own, in place of a product of a layer.
    dots = sum(
        n.op == "FusedMatMul" and n.outputs[0] is not None and n.outputs[0].dims[1:] == (1, 1)
        for n in b.needed([fast])
    )
    assert sum(after[k] for k in products) - dots <= sum(before[k] for k in products) - 3
    rng = np.random.default_rng(1)
    feeds: dict[str, Array] = {
        i.name: rng.standard_normal(i.dims).astype(np.float32) * 0.1 for i in b.inputs
    }
    found = open_session(b.program([direct, fast]))(feeds)
    assert found[fast.name] == pytest.approx(found[direct.name], rel=1e-3)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (5, 2)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
def test_patches_equal_the_engine(kernel: tuple[int, int], dilations: tuple[int, int]) -> None:
    """Convolution and both derivatives, against the engine's own operators."""
    b = Builder(fuses=True, forms=FORMS[installed()])
    channels = 4
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    attrs = {
        "group": 1,
        "kernel_shape": list(kernel),
        "strides": [1, 1],
        "dilations": list(dilations),
        "pads": [reach[0] // 2, 0, 0, reach[1]],
    }
    x = b.input("x", TensorProto.FLOAT, (3, channels, 9, 8))
    w = b.input("w", TensorProto.FLOAT, (5, channels, *kernel))
    place = patches.Window(kernel, dilations, tuple(attrs["pads"]))  # type: ignore[arg-type]
    y = b.op("Conv", x, w, **attrs)
    delta = b.input("delta", TensorProto.FLOAT, y.dims)
    engine = [y] + [
        next(
            o
            for o in b.multi("ConvGrad", [delta, x, w], mask, domain="com.microsoft", attrs=attrs)
            if o is not None
        )
        for mask in ((True,), (False, True))
    ]
    ours = [
        patches.convolve(b, x, w, place),
        patches.input_derivative(b, delta, x, w, place=place),
        patches.kernel_derivative(b, delta, x, w, place=place),
    ]
    assert [v.dims for v in ours] == [v.dims for v in (y, x, w)]
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in (x, w, delta)}
    outputs = [b.barrier(v) for v in (*engine, *ours)]
    found = open_session(b.program(outputs))(feeds)
    for mine, theirs in zip(outputs[3:], outputs[:3], strict=True):
        np.testing.assert_allclose(found[mine.name], found[theirs.name], rtol=1e-4, atol=1e-4)


def test_patches_are_for_many_channels_or_small_images_without_strides_and_groups() -> None:
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (1, patches.MANY, 8, 8))
    small = b.input("small", TensorProto.FLOAT, (1, patches.MANY, 4, 4))
    w = b.input("w", TensorProto.FLOAT, (patches.MANY, patches.MANY, 3, 3))
    few = b.input("few", TensorProto.FLOAT, (patches.MANY, patches.MANY // 2, 3, 3))
    attrs = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 1}
    assert patches.window(x, w, attrs) is not None
    assert patches.window(x, few, attrs) is None
    assert patches.window(small, few, attrs) is not None
    assert patches.window(x, w, {**attrs, "strides": [2, 2]}) is None
    assert patches.window(x, w, {**attrs, "pads": [3, 3, 3, 3]}) is None
