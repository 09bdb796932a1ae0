"""The seam for frontends: correspondence of tensors, discovery, reading data, writing back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graph_init.errors import UnsupportedModelError
from graph_init.frontends import Tensor
from graph_init.frontends.correspondence import bind
from tests import small_models


def product(*arrays: np.ndarray, names: Sequence[str] = ()) -> onnx.ModelProto:
    """A model that gives out each array plus the input, a number."""
    names = names or [f"i{k}" for k in range(len(arrays))]
    outputs = [f"y{k}" for k in range(len(arrays))]
    return small_models.model(
        [
            helper.make_node("Add", ["x", n], [o], f"add_{n}")
            for n, o in zip(names, outputs, strict=True)
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [
            helper.make_tensor_value_info(o, TensorProto.FLOAT, a.shape)
            for o, a in zip(outputs, arrays, strict=True)
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(a), n)
            for a, n in zip(arrays, names, strict=True)
        ],
    )


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


P, Q, BIAS = random(8, 6), random(8, 5, seed=1), random(8, seed=2)
KERNEL = random(4, 3, 2, 5, seed=3)
TENSORS = [
    Tensor("p", P, True),
    Tensor("q", Q, True),
    Tensor("b", BIAS, True),
    Tensor("k", KERNEL, True),
]

ARRANGED = {
    "renamed": (P, {"p"}),
    "transposed": (P.T, {"p"}),
    "reshaped": (P.reshape(2, 4, 6), {"p"}),
    "transposed and reshaped": (P.T.reshape(3, 2, 8), {"p"}),
    "reshaped and transposed": (P.reshape(2, 4, 6).transpose(2, 0, 1), {"p"}),
    "kernel's axes in another order": (KERNEL.transpose(2, 3, 1, 0), {"k"}),
    "cut": (P[2:5], {"p"}),
    "cut on the other axis": (P[:, 1:4], {"p"}),
    "a row": (P[3], {"p"}),
    "gates in another order": (np.concatenate([P[6:8], P[0:2], P[4:6], P[2:4]])[None], {"p"}),
    "side by side": (np.concatenate([P, Q], 1), {"p", "q"}),
    "side by side, transposed": (np.concatenate([P, Q], 1).T, {"p", "q"}),
    "one behind the other": (np.concatenate([BIAS, BIAS[::-1][:0], BIAS[4:]]), {"b"}),
    "stacked": (np.stack([P[2:], np.concatenate([P[:2], P[4:]])]), {"p"}),
}  # fmt: skip


@pytest.mark.parametrize("case", ARRANGED)
def test_arranged_values_are_computed_from_the_tensor(case: str) -> None:
    array, sources = ARRANGED[case]
    bound = bind(product(array), TENSORS)
    assert set(bound.owners) == sources
    proto = onnx_ir.to_proto(bound.model)
    onnx.checker.check_model(proto)
    held = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    for tensor in TENSORS:
        if tensor.name in sources:
            np.testing.assert_array_equal(held[tensor.name], tensor.value)
    floats = {n for n, a in held.items() if a.dtype.kind == "f"}
    assert floats == sources
    (found,) = ReferenceEvaluator(proto).run(None, {"x": np.float32(0)})
    np.testing.assert_array_equal(found, array)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_packing_is_undone(data: st.DataObject) -> None:
    """Blocks of rows of matrices, in any order, transposed or not, with an axis added or not."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    width = data.draw(st.integers(2, 5))
    tensors = [
        Tensor(f"t{k}", rng.standard_normal((rows, width)).astype(np.float32), True)
        for k, rows in enumerate(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    ]
    blocks = []
    for tensor in tensors:
        cut = data.draw(st.integers(0, len(tensor.value)))
        blocks += [b for b in (tensor.value[:cut], tensor.value[cut:]) if len(b)]
    array = np.concatenate(data.draw(st.permutations(blocks)))
    array = array.T if data.draw(st.booleans()) else array
    array = array[None] if data.draw(st.booleans()) else array
    bound = bind(product(array), tensors)
    assert set(bound.owners) == {t.name for t in tensors}
    (found,) = ReferenceEvaluator(onnx_ir.to_proto(bound.model)).run(None, {"x": np.float32(0)})
    np.testing.assert_array_equal(found, array)


def test_tied_weights_become_one_initializer() -> None:
    tied = Tensor("embed", P, True, aliases=("head",))
    bound = bind(product(P, P, P.T, names=["head", "copy", "turned"]), [tied])
    proto = onnx_ir.to_proto(bound.model)
    assert [i.name for i in proto.graph.initializer if i.data_type == 1] == ["embed"]
    for found, array in zip(
        ReferenceEvaluator(proto).run(None, {"x": np.float32(0)}), [P, P, P.T], strict=True
    ):
        np.testing.assert_array_equal(found, array)


def test_tensors_merged_by_the_exporter_have_one_owner_each_and_one_factor() -> None:
    a, b = Tensor("a", P, True), Tensor("b", P.copy(), True)
    bound = bind(product(P, names=["merged"]), [a, b])
    assert {n: [t.name for t in o] for n, o in bound.owners.items()} == {"a": ["a", "b"]}


def test_filled_tensors_are_given_out_in_turn() -> None:
    """Fresh biases are all alike; none of them is another's twin."""
    tensors = [Tensor(f"b{k}", np.zeros(3, np.float32), True) for k in range(2)]
    bound = bind(product(*(t.value for t in tensors)), tensors)
    assert {n: len(o) for n, o in bound.owners.items()} == {"b0": 1, "b1": 1}


def test_a_name_taken_by_something_else_is_freed() -> None:
    bound = bind(product(Q, P, names=["p", "i1"]), [Tensor("p", P, True)])
    proto = onnx_ir.to_proto(bound.model)
    held = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    np.testing.assert_array_equal(held["p"], P)
    assert len(held) == 2


def test_values_changed_by_the_exporter_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="changed the values of 'p'"):
        bind(product(P * 3), [Tensor("p", P, True)])


def test_constants_are_no_parameters() -> None:
    bound = bind(product(random(7, 7), P), [Tensor("p", P, True)])
    assert set(bound.owners) == {"p"}
