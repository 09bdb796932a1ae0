"""JAX: one call initialises functions, Flax Linen and NNX, and Equinox modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("flax", reason="Flax is not installed")
pytest.importorskip("equinox", reason="Equinox is not installed")

import flax.linen as nn  # noqa: E402
import graph_init_jax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

import graph_init  # noqa: E402
from graph_init.errors import UnsupportedModelError, UsageError  # noqa: E402
from tests import frontend_checks, jax_models  # noqa: E402
from tests.frontend_checks import drawn  # noqa: E402, F401


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies of a pytree's arrays by place."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    plain = [(p, v) for p, v in found if not jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key)]
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in plain]
    return {
        name.removesuffix("/value"): np.array(v) for name, (_, v) in zip(names, plain, strict=True)
    }


@pytest.mark.parametrize("name", jax_models.MODELS)
def test_a_model_is_initialised(name: str, drawn: str) -> None:  # noqa: F811
    model, params, example = jax_models.MODELS[name]()
    tree = jax_models.tree(model, params)
    before = arrays(tree)
    given = (example,) if params is None else (params, example)

    result = graph_init_jax.initialize(model, *given, batch_size=2, optimizer=drawn)

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


def test_nnx_modules_are_changed_in_place(drawn: str) -> None:  # noqa: F811
    model, _, example = jax_models.MODELS["NNX, transformer"]()
    before, variable = arrays(nnx.state(model)), model.blocks[2].up.kernel
    result = graph_init_jax.initialize_(model, example, optimizer=drawn)
    assert result.updated is model and model.blocks[2].up.kernel is variable
    assert model.blocks[0] is model.blocks[2] and not model.batch_norm.use_running_average
    frontend_checks.assert_scaled(before, arrays(nnx.state(model)), result.scales)
