"""The largest and smallest of updates at places that the data name: derivatives as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init

torch = pytest.importorskip("torch")

#: Of the rows of ``start`` a third are written to, some several times.
ROWS, TABLE, WIDTH = 12, 12, 3
RNG = np.random.default_rng(4)
ARRAYS = {
    "w": RNG.standard_normal((5, WIDTH)).astype(np.float32),
    "start": RNG.standard_normal((TABLE, WIDTH)).astype(np.float32),
    "head": RNG.standard_normal((WIDTH, 2)).astype(np.float32),
}
X = RNG.standard_normal((ROWS, 5)).astype(np.float32)
PLACES = RNG.integers(0, TABLE // 3, (ROWS, WIDTH))
TARGET = RNG.standard_normal((TABLE, 2)).astype(np.float32)


def model(how: str, op: str) -> onnx.ModelProto:
    """tanh(x·w) written to the rows of ``start`` that ``places`` names, and a layer behind."""
    places = (ROWS, WIDTH) if op == "ScatterElements" else (ROWS, 1)
    options: dict[str, Any] = {"axis": 0} if op == "ScatterElements" else {}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Tanh", ["a"], ["u"]),
            helper.make_node(op, ["start", "places", "u"], ["m"], reduction=how, **options),
            helper.make_node("MatMul", ["m", "head"], ["y"]),
        ],
        "extremes",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (ROWS, 5)),
            helper.make_tensor_value_info("places", TensorProto.INT64, places),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (TABLE, 2))],
        initializer=[numpy_helper.from_array(a, n) for n, a in ARRAYS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def expected(how: str, x: Any, places: Any) -> float:
    """Gradient deviation by triple backprop in float64."""
    p = {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in ARRAYS.items()}
    u = torch.tanh(torch.tensor(x, dtype=torch.float64) @ p["w"])
    m = p["start"].scatter_reduce(0, torch.tensor(places), u, f"a{how}", include_self=True)
    loss = ((m @ p["head"] - torch.tensor(TARGET)) ** 2).mean()
    g = torch.autograd.grad(loss, list(p.values()), create_graph=True)
    h = torch.autograd.grad(sum((a * a.detach()).sum() for a in g), list(p.values()))
    total, count = 0.0, 0
    for a, b in zip(g, h, strict=True):
        e = torch.where(a >= 0, 1e-5, -1e-5)
        total += float((((a - b) / (a + e)) - 1).abs().sum())
        count += a.numel()
    return total / count


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("how", ["max", "min"])
@pytest.mark.parametrize("equal", [False, True], ids=["", "with equal ones"])
def test_as_triple_backprop(how: str, op: str, equal: bool) -> None:
    proto = model(how, op)
    places = PLACES if op == "ScatterElements" else PLACES[:, :1]
    x = X.copy()
    if equal:
        x[6:] = x[:6]
        places = np.concatenate([places[:6], places[:6]])
    data = {"x": x, "places": places, "target": TARGET}
    want = expected(how, x, np.broadcast_to(places, (ROWS, WIDTH)).copy())
    found = graph_init.measure(proto, data=data, loss="mse", trainable=["start"])
    assert found.gradient_deviation == pytest.approx(want, rel=1e-4)


def test_random_places_leave_none_out() -> None:
    """The logarithm of how many rows a place gets is finite."""
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["three"], ["zeros"]),
            helper.make_node("ScatterElements", ["zeros", "group", "ones"], ["n"], reduction="add"),
            helper.make_node("Log", ["n"], ["log"]),
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Add", ["a", "log"], ["y"]),
        ],
        "counts",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 5)),
            helper.make_tensor_value_info("group", TensorProto.INT64, (8,)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 3))],
        initializer=[
            numpy_helper.from_array(ARRAYS["w"], "w"),
            numpy_helper.from_array(np.array([WIDTH]), "three"),
            numpy_helper.from_array(np.ones(8, np.float32), "ones"),
        ],
    )
    found = graph_init.measure(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    )
    assert np.isfinite(found.loss)
