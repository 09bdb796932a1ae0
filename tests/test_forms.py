"""What engines run in place of operators that they have not, on the engine that is installed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from graph_init.autodiff.forms import FORMS
from graph_init.engine.runtime import PLAIN, TRAINING
from graph_init.engine.session import open_session
from graph_init.ir import MICROSOFT, Array, Builder, Value
from tests.derivatives import GatherElementsGrad, GatherGrad, GatherNDGrad, _contributions

pytest.importorskip("onnxruntime")

FLOAT = TensorProto.FLOAT


def run(b: Builder, outputs: list[Value], feeds: dict[str, Array]) -> list[Array]:
    named = [b.barrier(v) for v in outputs]
    program = b.program(named)
    assert not {n.op_type for n in program.model.graph.node} & set(FORMS[PLAIN]), "not replaced"
    found = open_session(program, threads=2)(feeds)
    return [found[v.name] for v in named]


def convolutions() -> list[tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]]:
    """Shapes of input and kernel, and the window: all combinations over one to three axes."""
    found = []
    for seed in range(45):
        rng = np.random.default_rng(seed)
        n, group = 1 + seed % 3, int(rng.integers(1, 4))
        kernel, strides, dilations, extra = (
            [int(v) for v in rng.integers(low, high, n)]
            for low, high in ((1, 4), (1, 4), (1, 3), (0, 5))
        )
        pads = [int(v) for v in rng.integers(0, 4, 2 * n)]
        space = [
            max(dilations[i] * (kernel[i] - 1) + 1 - pads[i] - pads[n + i], 1) + extra[i]
            for i in range(n)
        ]
        x = (2, group * int(rng.integers(1, 3)), *space)
        w = (group * int(rng.integers(1, 3)), x[1] // group, *kernel)
        attrs = {
            "group": group,
            "kernel_shape": kernel,
            "strides": strides,
            "dilations": dilations,
            "pads": pads,
        }
        found.append((x, w, attrs))
    return found


@pytest.mark.parametrize(("x_shape", "w_shape", "attrs"), convolutions())
def test_derivatives_of_convolutions(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: dict[str, object]
) -> None:
    b = Builder(fuses=True, forms=FORMS[PLAIN])
    x, w = b.input("x", FLOAT, x_shape), b.input("w", FLOAT, w_shape)
    delta = b.input("delta", FLOAT, b.op("Conv", x, w, **attrs).dims)
    made = [
        b.multi("ConvGrad", [delta, x, w], mask, domain=MICROSOFT, attrs=attrs)[-1]
        for mask in ((True,), (False, True), (False, False, True))
    ]
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.dims).astype(np.float32) for v in (x, w, delta)}
    wide = {n: a.astype(np.float64) for n, a in feeds.items()}
    theirs = _contributions(wide["x"], wide["w"], wide["delta"], attrs)
    for mine, exact in zip(run(b, [v for v in made if v is not None], feeds), theirs, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-4, atol=1e-4)


#: Places that a gather reads: once, a few times, many times, from the end, or not all.
PLACES = {
    "a permutation": [3, 1, 0, 2],
    "twice": [0, 0, 1, 1, 2, 2, 3, 3],
    "not all": [2, -1],
    "many times": [1] * 9 + [0],
    "none": [],
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", PLACES)
def test_transposes_of_gathers(name: str, axis: int, known: bool) -> None:
    places = np.asarray(PLACES[name], np.int64)
    shape = [4, 4, 4]
    b = Builder(forms=FORMS[PLAIN])
    index = b.constant(places) if known else b.input("index", TensorProto.INT64, places.shape)
    dims = (*shape[:axis], len(places), *shape[axis + 1 :])
    dy = b.input("dy", FLOAT, dims)
    made = b.op("GatherGrad", b.ints(shape), index, dy, domain=MICROSOFT, axis=axis)
    feeds = {"dy": np.random.default_rng(0).standard_normal(dims).astype(np.float32)}
    exact = GatherGrad._run(None, np.asarray(shape), places, feeds["dy"], axis=axis)[0]  # type: ignore[arg-type]
    (mine,) = run(b, [made], feeds if known else feeds | {"index": places})
    np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-6)


def test_transposes_of_gathers_of_elements_and_slices() -> None:
    rng = np.random.default_rng(0)
    b = Builder(forms=FORMS[PLAIN])
    dy = b.input("dy", FLOAT, (3, 5))
    index = b.input("index", TensorProto.INT64, (3, 5))
    elements = b.op("GatherElementsGrad", dy, b.ints([3, 4]), index, domain=MICROSOFT, axis=1)
    pairs = b.input("pairs", TensorProto.INT64, (2, 6, 2))
    slices = b.input("slices", FLOAT, (2, 6, 2))
    nd = b.op("GatherNDGrad", b.ints([2, 3, 3, 2]), pairs, slices, domain=MICROSOFT, batch_dims=1)
    feeds = {
        "dy": rng.standard_normal((3, 5)).astype(np.float32),
        "index": rng.integers(0, 4, (3, 5)),
        "pairs": rng.integers(-3, 3, (2, 6, 2)),
        "slices": rng.standard_normal((2, 6, 2)).astype(np.float32),
    }
    mine = run(b, [elements, nd], feeds)
    exact = [
        GatherElementsGrad._run(None, feeds["dy"], [3, 4], feeds["index"], axis=1)[0],  # type: ignore[arg-type]
        GatherNDGrad._run(None, [2, 3, 3, 2], feeds["pairs"], feeds["slices"], batch_dims=1)[0],  # type: ignore[arg-type]
    ]
    for found, wanted in zip(mine, exact, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", [PLAIN, TRAINING])
def test_no_summand_is_lost_to_another_thread(engine: str) -> None:
    """Many threads add to one element; onnxruntime's own ScatterND loses some of it."""
    count = 1 << 17
    b = Builder(forms=FORMS[engine])
    index = b.input("index", TensorProto.INT64, (count, 1))
    ones = b.input("ones", FLOAT, (count, 2))
    zeros = b.expand(b.scalar(0.0, ones), [4, 2])
    total = b.barrier(b.op("ScatterND", zeros, index, ones, reduction="add"))
    places = np.random.default_rng(0).integers(0, 4, (count, 1))
    feeds = {"index": places, "ones": np.ones((count, 2), np.float32)}
    found = open_session(b.program([total]), threads=4)(feeds)[total.name]
    np.testing.assert_array_equal(found[:, 0], np.bincount(places.ravel(), minlength=4))
