"""The seam for frontends: correspondence of tensors, discovery, reading data, writing back."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graph_init
from graph_init import frontends
from graph_init.errors import MissingExtraError, NumericalError, UnsupportedModelError, UsageError
from graph_init.frontends import Exported, Tensor
from graph_init.frontends.correspondence import bind
from graph_init.frontends.resolve import ResolvedModel
from tests import docs_fixtures, docs_pages, small_models


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
}


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


# ---- the example of docs/writing-a-frontend.md

EXAMPLE = {b.file: b for b in docs_pages.blocks("docs/writing-a-frontend.md") if b.file}


@pytest.fixture
def tinynet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The page's framework and frontend, installed with the entry point that the page declares."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for block in EXAMPLE.values():
        docs_pages.save(block, tmp_path)
    docs_fixtures.entry_points({})
    yield importlib.import_module("tinynet")
    for name in ("tinynet", "tinynet_frontend"):
        sys.modules.pop(name, None)


def test_the_example_of_the_page(tinynet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(EXAMPLE["use.py"].code, "use.py", "exec"), names)
    result, network = names["result"], names["network"]
    assert set(result.scales) == {"0.weight", "2.weight"}
    assert result.updated is network
    fresh = tinynet.Network(8, 32, 32, 4)
    for k, (old, new) in enumerate(zip(fresh.layers, network.layers, strict=True)):
        factor = result.scales.get(f"{k}.weight", 1.0)
        exact = (old["weight"].astype(np.float64) * factor).astype(np.float32)
        np.testing.assert_array_equal(new["weight"], exact)
        np.testing.assert_array_equal(new["bias"], old["bias"])
    assert any(abs(f - 1) > 0.1 for f in result.scales.values())
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    (found,) = ReferenceEvaluator("network.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, network(x), rtol=1e-4, atol=1e-5)


def test_all_public_functions_take_a_frameworks_model(tinynet: Any) -> None:
    network, x = tinynet.Network(8, 16, 4), np.zeros((16, 8), np.float32)
    found = graph_init.inspect(network, args=(x,))
    assert {p.name for p in found.parameters if p.trainable} == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    }
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 8)), "target": rng.standard_normal((40, 4))}
    assert graph_init.measure(network, args=(x,), data=data).elements == 8 * 16 + 16 + 16 * 4 + 4
    plan = graph_init.Plan(
        schemes=("keep",),
        seeds=1,
        updates=3,
        optimizers=("sgd",),
        tune=False,
        learning_rates=(0.01,),
    )
    assert graph_init.compare(network, data, args=(x,), plan=plan).runs


def test_trainable_and_freeze_go_by_the_frameworks_names(tinynet: Any) -> None:
    network, args = tinynet.Network(8, 16, 4), (np.zeros((16, 8), np.float32),)
    network.frozen.add("0.weight")

    def scalable(**options: Any) -> set[str]:
        found = graph_init.inspect(network, args=args, **options).parameters
        return {p.name for p in found if p.scalable}

    assert scalable() == {"1.weight"}
    assert scalable(trainable=["0.weight"]) == {"0.weight", "1.weight"}
    assert scalable(freeze=["1"]) == set()


def test_a_write_that_fails_is_undone(tinynet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tinynet.Network(8, 32, 4)
    before = [layer["weight"].copy() for layer in network.layers]
    made = importlib.import_module("tinynet_frontend").export
    calls: list[list[str]] = []

    def export(*given: Any) -> Exported:
        exported = made(*given)

        def write(values: Any) -> Any:
            calls.append(list(values))
            exported.write(values)
            if len(calls) == 1:
                raise OSError("the device has gone")

        return dataclasses.replace(exported, write=write)

    monkeypatch.setattr("tinynet_frontend.export", export)
    with pytest.raises(OSError, match="the device has gone"):
        graph_init.initialize(network, args=(np.zeros((16, 8), np.float32),), tuner="restore")
    assert calls == [["0.weight", "1.weight"]] * 2
    for layer, old in zip(network.layers, before, strict=True):
        np.testing.assert_array_equal(layer["weight"], old)


# ---- discovery


def of_framework(module: str, *bases: type) -> Any:
    """An object whose class says that it comes from ``module``."""
    return type("Model", bases or (object,), {"__module__": module})()


def installed(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    found = [EntryPoint(name, target, frontends.GROUP) for name, target in targets.items()]
    monkeypatch.setattr(frontends, "entry_points", lambda group: found)


@pytest.mark.parametrize("framework", sorted(frontends.EXTRAS))
def test_a_missing_frontend_names_the_extra(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = rf"pip install 'graph-init\[{frontends.EXTRAS[framework]}\]'"
    installed(monkeypatch)
    with pytest.raises(MissingExtraError, match=rf"no frontend for {framework}.*{extra}"):
        graph_init.measure(of_framework(f"{framework}.nn"), args=(1,))
    installed(monkeypatch, **{framework: "no_such_module_of_ours"})
    with pytest.raises(MissingExtraError, match=rf"no_such_module_of_ours.*{extra}"):
        graph_init.measure(of_framework(f"{framework}.nn"), args=(1,))


def test_the_class_nearest_to_the_object_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Keras layer on PyTorch inherits from PyTorch's module as well."""
    installed(monkeypatch, torch="base64", keras="json")
    base = type("Module", (), {"__module__": "torch.nn"})
    layer = type("Layer", (base,), {"__module__": "keras.src.layers"})
    assert frontends.find(of_framework("users.code", layer)) is importlib.import_module("json")
    assert frontends.find(of_framework("users.code", base)) is importlib.import_module("base64")


def test_what_belongs_to_no_framework_is_refused() -> None:
    with pytest.raises(UsageError, match="a model cannot be dict"):
        graph_init.measure({})


def test_looking_for_a_frontend_imports_no_framework() -> None:
    script = (
        "import sys, graph_init.frontends as f; f.find(object()); import graph_init;"
        "sys.exit(bool({'torch', 'keras', 'jax', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---- new values


def subject_of(tensor: Tensor) -> ResolvedModel:
    exported = Exported(product(P), [tensor], lambda values: None)
    return ResolvedModel(None, exported, {tensor.name: (tensor,)})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_new_values_are_rounded_once_to_the_frameworks_type(dtype: Any) -> None:
    value = random(50, 4, seed=5).astype(dtype)
    new = subject_of(Tensor("w", value, True)).new_values({"w": 1 / 3}, {})
    assert new["w"].dtype == dtype
    np.testing.assert_array_equal(new["w"], (value.astype(np.float64) * (1 / 3)).astype(dtype))


def test_new_values_that_do_not_fit_are_refused() -> None:
    tensor = Tensor("w", np.full((2, 2), 6e4, np.float16), True)
    with pytest.raises(NumericalError, match="'w' times 2 does not fit float16"):
        subject_of(tensor).new_values({"w": 2.0}, {})
