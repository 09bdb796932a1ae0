"""JAX: one call initialises functions, Flax Linen and NNX, and Equinox modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("flax", reason="Flax is not installed")
pytest.importorskip("equinox", reason="Equinox is not installed")

import flax.linen as nn
import jax
import jax.numpy as jnp
import onnx
import onnxruntime as ort
from flax import nnx

import graph_init
import graph_init_jax
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init_jax.lowering import interpreter
from graph_init_jax.translate import to_onnx
from tests import frontend_checks, jax_models

# Compiling takes most of the time of these tests.
jax.config.update("jax_disable_most_optimizations", True)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies of a pytree's arrays by place."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    plain = [(p, v) for p, v in found if not jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key)]
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in plain]
    return {
        name.removesuffix("/value"): np.array(v) for name, (_, v) in zip(names, plain, strict=True)
    }


@pytest.mark.parametrize("name", jax_models.MODELS)
def test_a_model_is_initialised(name: str, drawn: str) -> None:
    model, params, example = jax_models.MODELS[name]()
    tree = jax_models.tree(model, params)
    before = arrays(tree)
    given = (example,) if params is None else (params, example)

    result = graph_init_jax.initialize(model, *given, batch_size=2, tuner=drawn)

    new = result.updated
    model, params = (new, None) if len(given) == 1 else (model, new)
    after = jax_models.tree(model, params)
    assert jax.tree.structure(after) == jax.tree.structure(tree)
    frontend_checks.assert_scaled(before, arrays(after), result.scales)
    weights = {n for n in before if n.rpartition("/")[2] in ("w", "kernel", "weight", "embedding")}
    assert weights - {n for n in before if "Norm" in n or "layers/4" in n} <= set(result.scales)
    assert {n: a.tobytes() for n, a in arrays(tree).items()} == {
        n: a.tobytes() for n, a in before.items()
    }, "what was given has changed"
    expected = np.asarray(jax_models.forward(model, params, example), np.float32)
    found = frontend_checks.onnx_outputs(result, [np.asarray(x) for x in example])
    if "bfloat16" in name:  # the graph computes in float32
        np.testing.assert_allclose(found[0], expected, atol=0.02)
    else:
        frontend_checks.assert_same_outputs(found, [expected])
    losses = jax_models.train(model, params, example)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.exact("JAX has the weights without noise")
@pytest.mark.parametrize("name", [n for n in jax_models.MODELS if "bfloat16" not in n])
def test_the_gradient_is_that_of_jax(name: str) -> None:
    model, params, example = jax_models.MODELS[name]()
    exported = graph_init_jax.export(model, *((example,) if params is None else (params, example)))
    inputs = [i.name for i in exported.graph.input]
    feeds = dict(zip(inputs, map(np.asarray, example), strict=True))
    expected = np.asarray(jax_models.forward(model, params, example))
    target = np.random.default_rng(0).standard_normal(expected.shape).astype(np.float32)
    batch = {**feeds, "target": target}

    found = graph_init.measure(exported, data=batch, batch_size=len(target), loss="mse")

    names = {p.name for p in found.parameters}
    gradients = jax_models.gradients(model, params, example, target)
    own = {n: g for n, g in arrays(gradients).items() if n in names}
    assert len(own) == len(names)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in own.values()))
    assert found.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_nnx_modules_are_changed_in_place(drawn: str) -> None:
    model, _, example = jax_models.MODELS["NNX, transformer"]()
    before, variable = arrays(nnx.state(model)), model.blocks[2].up.kernel
    result = graph_init_jax.initialize_(model, example, tuner=drawn)
    assert result.updated is model and model.blocks[2].up.kernel is variable
    assert model.blocks[0] is model.blocks[2] and not model.batch_norm.use_running_average
    frontend_checks.assert_scaled(before, arrays(nnx.state(model)), result.scales)


# ---- the translation

X, Y = jax_models.floats(4, 5), jax_models.floats(4, 5)[::-1] * 2
IMAGE = jax_models.floats(9, 9, 4)

#: What common code lowers to, each with its inputs.
CASES: dict[str, tuple[Any, ...]] = {
    "arithmetic": (lambda x, y: -x + y * 2 - x / (jnp.abs(y) + 1) + jnp.sign(x), X, Y),
    "exponentials": (lambda x: jnp.exp(x) + jnp.expm1(x) + jnp.exp2(x) + jnp.log1p(x * x), X),
    "roots and powers": (lambda x: jnp.sqrt(x * x + 1) + x**3 + (x * x + 1) ** 0.3, X),
    "rsqrt": (lambda x: jax.lax.rsqrt(x * x + 1), X),
    "trigonometry": (lambda x: jnp.sin(x) + jnp.cos(x) + jnp.arctan(x) + jnp.sinh(x), X),
    "error function": (lambda x: jax.scipy.special.erf(x) + jax.scipy.special.erfc(x), X),
    "rounding": (lambda x: jnp.floor(x) + jnp.ceil(x) + jnp.round(x) + jax.lax.round(x), X),
    "remainder": (lambda x, y: jax.lax.rem(x, y), X, Y),
    "comparisons": (lambda x, y: jnp.where((x > y) & ~(x == y) | (x != 1), x, y), X, Y),
    "choice of several": (lambda x: jax.lax.select_n((x > 0) + jnp.int32(x > 1), x, -x, x * x), X),
    "finite": (lambda x: jnp.where(jnp.isfinite(x), x, 0.0), X),
    "clip": (lambda x: jnp.clip(x, -0.5, 0.7), X),
    **{
        name: (getattr(jax.nn, name), X)
        for name in "relu relu6 elu selu celu gelu silu softplus sigmoid hard_swish mish "
        "leaky_relu log_softmax softmax standardize".split()
    },
    "softmax on another axis": (lambda x: jax.nn.softmax(x, axis=1), X),
    "masked softmax": (lambda x: jax.nn.softmax(x, where=jnp.arange(5) < 3, axis=-1), X),
    "reductions": (lambda x: x.sum(1) + x.max(1) + x.min(1) + x.prod(1) + x.var(1), X),
    "truth": (lambda x: jnp.float32((x > 0).any(1)) + jnp.float32((x > -2).all(1)), X),
    "argmax": (lambda x: jax.nn.one_hot(x.argmax(-1), 5) + x.argmin(-1, keepdims=True), X),
    "cumsum": (lambda x: jnp.cumsum(x, 1) + jax.lax.cumsum(x, 2, reverse=True), X),
    "top_k": (lambda x: jax.lax.top_k(x, 2)[0], X),
    "layout": (lambda x: jnp.flip(x.transpose(0, 2, 1).reshape(len(x), 2, -1), 2)[:, :, 1::2], X),
    "broadcast": (lambda x: jnp.broadcast_to(x.mean(1)[:, None, :, None], (len(x), 3, 5, 2)), X),
    "joined and cut": (lambda x, y: jnp.concatenate(jnp.split(x, [1, 3], 1) + [y], 1), X, Y),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1))), X),
    "pad between elements": (lambda x: jax.lax.pad(x, 3.0, ((0, 0, 0), (1, 0, 2), (0, 0, 1))), X),
    "negative pad": (lambda x: jax.lax.pad(x, 1.0, ((0, 0, 0), (-1, 2, 0), (0, -1, 0))), X),
    "dynamic slice": (lambda x: jax.lax.dynamic_slice(x, (0, 9, 1), (6, 2, 3)), X),
    "dynamic update": (lambda x: jax.lax.dynamic_update_slice(x, x[:, :2] * 2, (0, 1, 0)), X),
    "window by number": (lambda x: x[:, 1, 2:4] + x[:, -1, :2], X),
    "columns by number": (lambda x: x[:, jnp.array([2, 0, -1])], X),
    "elements by place": (lambda x: x[jnp.arange(6), jnp.arange(6) % 4], X),
    "along an axis": (
        lambda x: jnp.take_along_axis(x, jnp.argsort(jnp.arange(5))[None, None], 2),
        X,
    ),
    "products": (lambda x, y: jnp.einsum("bij,bkj->bik", x, y) @ y, X, Y),
    "outer product": (lambda x, y: jnp.einsum("bij,bkl->bijkl", x, y), X, Y),
    "convolution": (
        lambda x: jax.lax.conv_general_dilated(
            x,
            jnp.cos(jnp.arange(72.0)).reshape(3, 3, 2, 4),
            (2, 1),
            "SAME",
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        ),
        IMAGE,
    ),
    **{
        f"transposed convolution, {padding}": (
            lambda x, padding=padding: jax.lax.conv_transpose(
                x, jnp.cos(jnp.arange(108.0)).reshape(3, 3, 4, 3), (2, 3), padding
            ),
            IMAGE,
        )
        for padding in ("SAME", "VALID")
    },
    **{
        f"{kind} pool": (
            lambda x, pool=pool: pool(x, (3, 2), strides=(2, 2), padding="SAME"),
            IMAGE,
        )
        for kind, pool in (("max", nn.max_pool), ("average", nn.avg_pool))
    },
    "window minimum": (
        lambda x: jax.lax.reduce_window(
            x, jnp.inf, jax.lax.min, (1, 3), window_strides=(1, 2), padding="VALID"
        ),
        X[:, 0],
    ),
    "resize": (lambda x: jax.image.resize(x, (len(x), 18, 18, 4), "nearest"), IMAGE),
    "loop": (lambda x: jax.lax.fori_loop(0, 3, lambda k, y: y * 0.5 + k, x), X),
    "while": (
        lambda x: jax.lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 2, s[1] * s[0]), (1, x))[
            1
        ],
        X,
    ),
    "branch": (lambda x: jax.lax.cond(jnp.arange(3)[1] > 0, jnp.sin, jnp.cos, x), X),
    "scan": (lambda x: jax.lax.scan(lambda c, r: (c + r, c * r), x[:, 0], x.swapaxes(0, 1))[1], X),
    "associative scan": (lambda x: jax.lax.associative_scan(jnp.add, x, axis=1), X),
    "checkpoint": (jax.checkpoint(lambda x: jnp.tanh(x) * x), X),
    "attention": (
        lambda x, y: jax.nn.dot_product_attention(x, y, y[:, ::-1], is_causal=True),
        IMAGE,
        IMAGE * 2,
    ),
    "norm": (lambda x: jnp.linalg.norm(x, axis=-1), X),
    "several outputs": (lambda x: {"a": x.sum(2), "b": (x[:, 0], 2 * x)}, X),
    "a constant": (lambda x: (x + 1, jnp.ones(3)), X),
}


@pytest.mark.parametrize("name", CASES)
def test_what_jax_computes_is_translated(name: str) -> None:
    function, *inputs = CASES[name]
    arrays = {f"x{k}": x for k, x in enumerate(inputs)}
    proto = to_onnx(lambda _, given: function(*given), {}, arrays)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {n: np.asarray(arrays[n]) for n in names})
    expected = jax.tree.leaves(function(*inputs))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def test_any_number_of_rows_is_free_if_the_function_lets_it() -> None:
    def free(x: Any) -> Any:
        return jnp.tanh(x.reshape(len(x), -1)) + jnp.zeros((len(x), 20))

    proto = to_onnx(lambda _, given: free(*given), {}, {"x": X})
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in (1, 2, 9):
        x = np.ones((rows, 4, 5), np.float32)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], free(x), rtol=1e-6)

    def fixed(x: Any) -> Any:
        return x.reshape(3, 2, 20) / len(x)

    proto = to_onnx(lambda _, given: fixed(*given), {}, {"x": X})
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [6, 4, 5]


def test_indices_of_a_table_are_drawn_from_its_rows() -> None:
    """JAX's arithmetic for negative indices must not hide what an input is for."""
    model, params, example = jax_models.MODELS["function, tied embedding"]()
    proto = graph_init_jax.export(model, params, example)
    (gather,) = [node for node in proto.graph.node if node.op_type == "Gather"]
    assert gather.input[1] == "words"


# ---- what is refused


class Sorted(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.linalg.svd(nn.Dense(4, name="first")(x).reshape(-1, 2, 2), compute_uv=False)


def test_a_part_that_cannot_be_exported_is_named_and_nothing_changes() -> None:
    model, params, example = jax_models.linen(Sorted(), X)
    before = arrays(params)
    with pytest.raises(UnsupportedModelError, match=r"'svd'.*'Sorted' \(.*:\d+"):
        graph_init_jax.initialize(model, params, example)
    assert all(np.array_equal(v, before[n]) for n, v in arrays(params).items())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), "depends on the"),
        (lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "chooses by the input"),
        (lambda x: x if x.sum() > 0 else -x, "cannot trace.*TracerBoolConversionError"),
        (lambda x: jax.lax.fori_loop(0, 200_000, lambda k, y: y + 1, x), "more than 1000 nodes"),
    ],
)
def test_refusals(function: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "MAX_NODES", 1000)
    with pytest.raises(UnsupportedModelError, match=message):
        to_onnx(lambda _, given: function(*given), {}, {"x": X})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph_init_jax.initialize(jax_models.mlp, (X,)), "give its parameters"),
        (lambda: graph_init_jax.initialize(jax_models.mlp, {}), "give an example"),
        (lambda: graph_init_jax.initialize(jax_models.Cnn(), (X,)), "give its variables"),
        (lambda: graph_init_jax.initialize(jax_models.Cnn(), {"w": X}, (X,)), "'params'"),
        (lambda: graph_init_jax.initialize_(jax_models.mlp, (X,)), "cannot be changed in place"),
        (
            lambda: graph_init_jax.initialize(nnx.Linear(5, 3, rngs=nnx.Rngs(0)), {"w": X}, (X,)),
            "holds its own parameters",
        ),
        (lambda: graph_init.initialize(jax.jit(jax_models.mlp), args=(X,)), "give its parameters"),
    ],
)
def test_wrong_use(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_core_finds_the_frontend(drawn: str) -> None:
    model, params, example = jax_models.MODELS["Linen, shared layer"]()
    by_option = graph_init.initialize(
        model, args=example, export={"params": params}, tuner=drawn, batch_size=2
    )
    held = graph_init_jax.Function(model, params)
    at_once = graph_init.initialize(held, args=example, tuner=drawn, batch_size=2)
    assert by_option.scales == at_once.scales
    found = graph_init.inspect(held, args=example).parameters
    assert [p.name for p in found if p.scalable] == list(at_once.scales)
