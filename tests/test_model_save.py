"""Saving: only the chosen tensors change, whatever their storage, and never half a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir
import pytest
from onnx import TensorProto, numpy_helper

from graph_init.errors import GraphInitError, NumericalError, UsageError
from graph_init.model import load, save, with_values

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NEW = np.array([[1.5, -2.0, 0.25], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
FLOATS = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16]


def model(tensors, nodes=None, functions=(), ir_version=10):
    nodes = nodes or [
        oh.make_node("Identity", [tensor.name], [f"out_{tensor.name}"]) for tensor in tensors
    ] + [oh.make_node("Relu", ["x"], ["y"])]
    value = oh.make_tensor_value_info
    graph = oh.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [2, 3])],
        [value("y", TensorProto.FLOAT, [2, 3])],
        initializer=tensors,
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("local", 1)]
    proto = oh.make_model(graph, opset_imports=opsets, functions=functions, ir_version=ir_version)
    proto.metadata_props.add(key="author", value="me")
    proto.metadata_props.add(key="seed", value="1")
    return proto


def tensor(name, dtype=TensorProto.FLOAT, raw=True, fill=1.0):
    array = np.full((3, 3), fill, onnx_ir.DataType(dtype).numpy())
    values = array.tobytes() if raw else array.ravel().astype(np.float32)
    return oh.make_tensor(name, dtype, [3, 3], values, raw=raw)


def array_of(proto, name):
    found = next(t for t in proto.graph.initializer if t.name == name)
    return numpy_helper.to_array(found).astype(np.float64)


def external(folder, names=("a", "b"), name="m.onnx", location="w.bin"):
    proto = model([tensor(n, fill=i + 1.0) for i, n in enumerate(names)])
    onnx.save(proto, folder / name, save_as_external_data=True, location=location, size_threshold=0)
    return folder / name


def test_no_change_gives_the_same_bytes(tmp_path):
    proto = model([tensor("a"), tensor("b", TensorProto.FLOAT16, raw=False)])
    save(load(proto), {}, tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == proto.SerializeToString(deterministic=True)
    save(load(proto), {}, tmp_path / "o.onnx", {"seed": "2", "new": "n"})
    got = onnx.load(tmp_path / "o.onnx")
    entries = [(entry.key, entry.value) for entry in got.metadata_props]
    assert entries == [("author", "me"), ("seed", "2"), ("new", "n")]
    del got.metadata_props[:], proto.metadata_props[:]
    assert got == proto


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_and_storage_field_stay(tmp_path, dtype, raw):
    proto = model([tensor("a", dtype, raw), tensor("b", dtype, raw)])
    save(load(proto), {"a": NEW}, tmp_path / "o.onnx")
    got = onnx.load(tmp_path / "o.onnx")
    changed, kept = got.graph.initializer
    assert changed.data_type == dtype
    assert changed.HasField("raw_data") == raw
    np.testing.assert_array_equal(array_of(got, "a"), NEW)
    assert kept == proto.graph.initializer[1]
    changed.CopyFrom(proto.graph.initializer[0])
    assert got == proto


def test_callables_and_in_memory_result():
    loaded = load(model([tensor("a")]))
    before = loaded.proto.SerializeToString()
    got = with_values(loaded, {"a": lambda: NEW}, {"k": "v"})
    np.testing.assert_array_equal(array_of(got, "a"), NEW)
    assert loaded.proto.SerializeToString() == before


def test_bad_values_are_refused():
    loaded = load(model([tensor("a", TensorProto.FLOAT16)]))
    with pytest.raises(NumericalError, match="'a' does not fit in float16: 1 of 9"):
        with_values(loaded, {"a": np.where(NEW == 9, 1e6, NEW)})
    with pytest.raises(UsageError, match=r"'a' has shape \[3\], not \[3, 3\]"):
        with_values(loaded, {"a": np.zeros(3)})
    for name in ("nothing", "x", "y"):
        with pytest.raises(UsageError, match=name):
            with_values(loaded, {name: NEW})


def test_constant_nodes_keep_being_constant_nodes():
    nodes = [
        oh.make_node("Constant", [], ["w"], value=tensor("")),
        oh.make_node("Constant", [], ["s"], value_float=2.0),
        oh.make_node("Constant", [], ["v"], value_floats=[1.0, 2.0, 3.0]),
        oh.make_node("MatMul", ["x", "w"], ["h"]),
        oh.make_node("Mul", ["h", "s"], ["i"]),
        oh.make_node("Add", ["i", "v"], ["y"]),
    ]
    loaded = load(model([], nodes))
    assert set(loaded.ir.graph.initializers) == {"w", "s", "v"}
    new = {"w": NEW, "s": np.array(7.0), "v": np.array([4.0, 5.0, 6.0])}
    got = load(with_values(loaded, new))
    assert [n.op_type for n in got.proto.graph.node] == [n.op_type for n in nodes]
    for name, value in new.items():
        np.testing.assert_array_equal(got.ir.graph.initializers[name].const_value.numpy(), value)


def test_computed_weights_of_a_light_model_become_initializers(tmp_path):
    loaded = load(LIGHT / "light_squeezenet.onnx")
    weights = [n.inputs[1].name for n in loaded.ir.graph if n.op_type == "Conv"]
    values = loaded.ir.graph.initializers
    new = {
        name: np.full(values[name].const_value.shape.numpy(), 0.125 * (1 + i), np.float32)
        for i, name in enumerate(weights[:3])
    }
    save(loaded, new, tmp_path / "o.onnx")
    got = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(got, full_check=True)
    assert got.ir_version == 4
    assert len(got.graph.node) == len(loaded.proto.graph.node) - 3
    for name, value in new.items():
        np.testing.assert_array_equal(array_of(got, name), value)
    again = load(tmp_path / "o.onnx").ir.graph.initializers
    # The shapes that fed the removed nodes are left.
    assert {name for name in again if not name.endswith("__SHAPE")} == set(values)


def test_one_of_several_outputs_replaced():
    nodes = [
        oh.make_node("Constant", [], ["c"], value=oh.make_tensor("", 1, [6, 3], [1.0] * 18)),
        oh.make_node("Split", ["c"], ["w", "u"], axis=0),
        oh.make_node("MatMul", ["x", "w"], ["h"]),
        oh.make_node("MatMul", ["h", "u"], ["y"]),
    ]
    loaded = load(model([], nodes))
    assert set(loaded.ir.graph.initializers) == {"w", "u"}
    got = with_values(loaded, {"w": NEW})
    onnx.checker.check_model(got, full_check=True)
    np.testing.assert_array_equal(array_of(got, "w"), NEW)
    again = load(got).ir.graph.initializers
    np.testing.assert_array_equal(again["u"].const_value.numpy(), np.ones((3, 3)))


def test_weight_inside_a_function_writes_the_inlined_model(tmp_path):
    body = [
        oh.make_node("Constant", [], ["w"], value=tensor("")),
        oh.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    function = oh.make_function(
        "local", "Layer", ["a"], ["b"], nodes=body, opset_imports=[oh.make_opsetid("", 17)]
    )
    nodes = [
        oh.make_node("Layer", ["x"], ["h"], domain="local"),
        oh.make_node("Layer", ["h"], ["y"], domain="local"),
    ]
    loaded = load(model([], nodes, [function]))
    first, second = [node.inputs[1].name for node in loaded.ir.graph]
    save(loaded, {first: NEW}, tmp_path / "o.onnx", {"k": "v"})
    got = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(got)
    assert not got.functions
    np.testing.assert_array_equal(array_of(got, first), NEW)
    np.testing.assert_array_equal(array_of(got, second), np.ones((3, 3)))
    assert {e.key: e.value for e in got.metadata_props} == {"author": "me", "seed": "1", "k": "v"}


def test_sparse_initializer_becomes_dense():
    proto = model([], [oh.make_node("MatMul", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(
        oh.make_sparse_tensor(
            numpy_helper.from_array(np.array([5.0], np.float32), "w"),
            numpy_helper.from_array(np.array([4], np.int64)),
            [3, 3],
        )
    )
    got = with_values(load(proto), {"w": NEW})
    assert not got.graph.sparse_initializer
    np.testing.assert_array_equal(array_of(got, "w"), NEW)


def test_sparse_constant_becomes_a_dense_initializer():
    sparse = oh.make_sparse_tensor(
        numpy_helper.from_array(np.array([5.0], np.float32), "w"),
        numpy_helper.from_array(np.array([4], np.int64)),
        [3, 3],
    )
    nodes = [
        oh.make_node("Constant", [], ["w"], sparse_value=sparse),
        oh.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    loaded = load(model([], nodes))
    dense = loaded.ir.graph.initializers["w"].const_value.numpy()
    assert dense[1, 1] == 5 and np.count_nonzero(dense) == 1
    got = with_values(loaded, {"w": NEW})
    assert [node.op_type for node in got.graph.node] == ["MatMul"]
    np.testing.assert_array_equal(array_of(got, "w"), NEW)


def test_external_data_in_another_folder_keeps_layout(tmp_path):
    source, other = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    other.mkdir()
    path = external(source)
    save(load(path), {"b": lambda: NEW}, other / "m.onnx")
    assert sorted(os.listdir(other)) == ["m.onnx", "w.bin"]
    assert (other / "m.onnx").read_bytes() == path.read_bytes()
    assert (other / "w.bin").stat().st_size == (source / "w.bin").stat().st_size
    got = onnx.load(other / "m.onnx")
    np.testing.assert_array_equal(array_of(got, "b"), NEW)
    np.testing.assert_array_equal(array_of(got, "a"), np.ones((3, 3)))
    np.testing.assert_array_equal(array_of(onnx.load(path), "b"), np.full((3, 3), 2))
    embedded = with_values(load(path), {"b": NEW})
    np.testing.assert_array_equal(array_of(embedded, "b"), NEW)
    np.testing.assert_array_equal(array_of(embedded, "a"), np.ones((3, 3)))


def test_external_data_beside_the_input_gets_another_name(tmp_path):
    path = external(tmp_path)
    content = (tmp_path / "w.bin").read_bytes()
    # Its own file goes when the model refers to another one, by a name that is free.
    for value, own in ((NEW, "o.w.bin"), (-NEW, "o.w.1.bin"), (NEW, "o.w.bin")):
        assert save(load(path), {"a": value}, tmp_path / "o.onnx") == []
        assert sorted(os.listdir(tmp_path)) == ["m.onnx", "o.onnx", own, "w.bin"]
        np.testing.assert_array_equal(array_of(onnx.load(tmp_path / "o.onnx"), "a"), value)
    assert (tmp_path / "w.bin").read_bytes() == content
    (tmp_path / "p.w.bin").write_bytes(b"of somebody else")
    save(load(path), {"a": NEW}, tmp_path / "p.onnx")
    assert (tmp_path / "p.w.bin").read_bytes() == b"of somebody else"
    np.testing.assert_array_equal(array_of(onnx.load(tmp_path / "p.onnx"), "a"), NEW)


def test_in_place_save_of_external_data(tmp_path):
    path = external(tmp_path)
    loaded = load(path)
    save(loaded, {"a": NEW}, path)
    save(loaded, {"b": NEW}, path)
    got = onnx.load(path)
    np.testing.assert_array_equal(array_of(got, "a"), np.ones((3, 3)))
    np.testing.assert_array_equal(array_of(got, "b"), NEW)
    again = load(path)
    for _ in range(2):  # now the input's data file is its own: it goes, but can still be read
        save(again, {"a": NEW}, path)
        got = onnx.load(path)
        np.testing.assert_array_equal(array_of(got, "a"), NEW)
        np.testing.assert_array_equal(array_of(got, "b"), NEW)
        assert len(os.listdir(tmp_path)) == 3


def test_tied_bytes_are_untied_when_one_tensor_changes(tmp_path):
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    a, b = proto.graph.initializer
    del b.external_data[:]
    b.external_data.extend(a.external_data)
    path.write_bytes(proto.SerializeToString())
    save(load(path), {"a": NEW}, tmp_path / "o.onnx")
    got = onnx.load(tmp_path / "o.onnx")
    np.testing.assert_array_equal(array_of(got, "a"), NEW)
    np.testing.assert_array_equal(array_of(got, "b"), np.ones((3, 3)))


def test_location_in_a_subfolder(tmp_path):
    source, other = tmp_path / "in", tmp_path / "out"
    (source / "data").mkdir(parents=True)
    other.mkdir()
    path = external(source, location="data/w.bin")
    save(load(path), {"a": NEW}, other / "o.onnx")
    assert os.listdir(other / "data") == ["w.bin"]
    np.testing.assert_array_equal(array_of(onnx.load(other / "o.onnx"), "a"), NEW)


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("failing", ["all", ".onnx"])
def test_failed_replace_leaves_everything_as_it_was(tmp_path, monkeypatch, failing):
    path = external(tmp_path)
    save(load(path), {"a": NEW}, tmp_path / "o.onnx")
    before = snapshot(tmp_path)
    real = os.replace

    def replace(source, target):
        if failing == "all" or str(target).endswith(failing):
            raise OSError(5, "disk on fire")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(GraphInitError, match=r"o\.onnx: disk on fire"):
        save(load(path), {"a": -NEW}, tmp_path / "o.onnx")
    with pytest.raises(GraphInitError, match=r"new\.onnx: disk on fire"):
        save(load(path), {"a": -NEW}, tmp_path / "new.onnx")
    assert snapshot(tmp_path) == before


def test_failing_value_leaves_no_files(tmp_path):
    (tmp_path / "in" / "data").mkdir(parents=True)
    path = external(tmp_path / "in", location="data/w.bin")
    before = snapshot(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ZeroDivisionError):
        save(load(path), {"b": lambda: np.full((3, 3), 1 // 0)}, out / "o.onnx")
    assert not os.listdir(out)
    assert snapshot(tmp_path) == before


def test_output_that_cannot_be_written(tmp_path, monkeypatch):
    loaded = load(model([tensor("a")]))
    with pytest.raises(UsageError, match="no does not exist"):
        save(loaded, {}, tmp_path / "no" / "o.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        save(loaded, {}, tmp_path)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GraphInitError, match=r"cannot write model .*o\.onnx: Permission denied"):
        save(loaded, {}, tmp_path / "o.onnx")


def test_deterministic(tmp_path):
    loaded = load(LIGHT / "light_squeezenet.onnx")
    name = next(n.inputs[1].name for n in loaded.ir.graph if n.op_type == "Conv")
    shape = loaded.ir.graph.initializers[name].const_value.shape.numpy()
    for out in ("1.onnx", "2.onnx"):
        save(loaded, {name: np.ones(shape)}, tmp_path / out, {"b": "1", "a": "2"})
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
