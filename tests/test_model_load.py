"""Loading: normalisation, computed weights, external data, and files that are not models."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir
import pytest
from onnx import TensorProto, numpy_helper

from graph_init.errors import ModelFileError
from graph_init.model import load

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def model(nodes, initializers=(), inputs=("x",), functions=(), ir_version=10, sparse=()):
    graph = oh.make_graph(
        list(nodes),
        "g",
        [oh.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in inputs],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=list(initializers),
        sparse_initializer=list(sparse),
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("local", 1)]
    return oh.make_model(
        graph, opset_imports=opsets, functions=list(functions), ir_version=ir_version
    )


def weight(name="w", shape=(3, 3), dtype=np.float32):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).astype(dtype)
    return numpy_helper.from_array(array, name)


def external_model(path, location="w.bin"):
    proto = model([oh.make_node("MatMul", ["x", "w"], ["y"])], [weight()])
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if location != "w.bin":
        proto = onnx.load(path, load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = location
        path.write_bytes(proto.SerializeToString())


def test_float_initializer_is_a_parameter_and_what_reads_it_is_not_folded():
    proto = model(
        [
            oh.make_node("Transpose", ["w"], ["wt"]),
            oh.make_node("MatMul", ["x", "wt"], ["y"]),
        ],
        [weight()],
    )
    ir = load(proto).ir
    assert [node.op_type for node in ir.graph] == ["Transpose", "MatMul"]
    assert list(ir.graph.initializers) == ["w"]


def test_computed_weight_becomes_an_initializer_of_its_name():
    shape = numpy_helper.from_array(np.array([3, 4], np.int64), "shape")
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    proto = model(
        [
            oh.make_node("ConstantOfShape", ["shape"], ["full"], value=fill),
            oh.make_node("Constant", [], ["two"], value_float=2.0),
            oh.make_node("Mul", ["full", "two"], ["w"]),
            oh.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        [shape],
    )
    ir = load(proto).ir
    assert [node.op_type for node in ir.graph] == ["MatMul"]
    assert list(ir.graph.initializers) == ["w"]
    np.testing.assert_array_equal(ir.graph.initializers["w"].const_value.numpy(), np.ones((3, 4)))
    assert len(proto.graph.node) == 4


def test_random_subgraph_failing_and_output_nodes_stay():
    bad = numpy_helper.from_array(np.array([5, 7], np.int64), "bad")
    proto = model(
        [
            oh.make_node("RandomNormal", [], ["r"], shape=[3, 3]),
            oh.make_node("Constant", [], ["c"], value=weight("", (2, 3))),
            oh.make_node("Reshape", ["c", "bad"], ["f"]),
            oh.make_node("MatMul", ["x", "r"], ["m"]),
            oh.make_node("Add", ["m", "f"], ["unused"]),
            oh.make_node("Identity", ["c"], ["y"]),
        ],
        [bad],
    )
    ir = load(proto).ir
    kinds = [node.op_type for node in ir.graph]
    assert kinds == ["RandomNormal", "Reshape", "MatMul", "Add", "Identity"]
    assert set(ir.graph.initializers) == {"bad", "c"}


def test_huge_results_are_not_folded():
    shape = numpy_helper.from_array(np.array([2**15, 2**15], np.int64), "shape")
    proto = model(
        [
            oh.make_node("ConstantOfShape", ["shape"], ["big"]),
            oh.make_node("ReduceSum", ["big"], ["s"]),
            oh.make_node("Add", ["x", "s"], ["y"]),
        ],
        [shape],
    )
    assert "ConstantOfShape" in [node.op_type for node in load(proto).ir.graph]


@pytest.mark.parametrize("name", ["light_vgg19", "light_densenet121", "light_shufflenet"])
def test_light_models_have_weights_and_no_weight_nodes(name):
    start = time.monotonic()
    loaded = load(LIGHT / f"{name}.onnx")
    assert time.monotonic() - start < 15
    assert "ConstantOfShape" not in {node.op_type for node in loaded.ir.graph}
    # What is left of Unsqueeze reads a float initializer of the file.
    stored = {tensor.name for tensor in loaded.proto.graph.initializer}
    for node in loaded.ir.graph:
        if node.op_type == "Unsqueeze":
            assert node.inputs[0].name in stored
    assert len(loaded.ir.graph.inputs) == 1
    for node in loaded.ir.graph:
        if node.op_type == "Conv":
            value = node.inputs[1].const_value
            assert value.dtype == onnx_ir.DataType.FLOAT and len(value.shape) == 4
            assert node.inputs[1].name in loaded.ir.graph.initializers


def test_functions_are_inlined_and_the_own_proto_is_kept():
    function = oh.make_function(
        "local",
        "Layer",
        ["a"],
        ["b"],
        nodes=[
            oh.make_node("Constant", [], ["w"], value=weight("")),
            oh.make_node("MatMul", ["a", "w"], ["b"]),
        ],
        opset_imports=[oh.make_opsetid("", 17)],
    )
    nodes = [
        oh.make_node("Layer", ["x"], ["h"], domain="local"),
        oh.make_node("Layer", ["h"], ["y"], domain="local"),
    ]
    proto = model(nodes, functions=[function])
    before = proto.SerializeToString()
    loaded = load(proto)
    assert [node.op_type for node in loaded.ir.graph] == ["MatMul", "MatMul"]
    assert len(loaded.ir.graph.initializers) == 2
    assert loaded.proto.SerializeToString() == before == proto.SerializeToString()


def test_names_are_unique_and_initializers_leave_the_inputs():
    proto = model(
        [
            oh.make_node("MatMul", ["x", "w"], ["h"]),
            oh.make_node("Relu", ["h"], ["r"]),
            oh.make_node("Dropout", ["r"], ["y", ""]),
        ],
        [weight()],
        inputs=("x",),
        ir_version=3,
    )
    proto.graph.input.append(oh.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3]))
    ir = load(proto).ir
    names = [node.name for node in ir.graph]
    assert all(names) and len(set(names)) == 3
    assert [value.name for value in ir.graph.inputs] == ["x"]
    assert [len(node.outputs) for node in ir.graph] == [1, 1, 1]


def test_same_name_in_both_branches_becomes_unique_and_outer_names_stay():
    branches = [
        oh.make_graph(
            [oh.make_node(op, ["x"], ["b"])],
            op,
            [],
            [oh.make_tensor_value_info("b", TensorProto.FLOAT, [2, 3])],
        )
        for op in ("Relu", "Neg")
    ]
    condition = numpy_helper.from_array(np.array(True), "c")
    node = oh.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    ir = load(model([node], [condition])).ir
    values = [value.name for node in ir.graph.all_nodes() for value in node.outputs]
    assert "y" in values and len(set(values)) == 3


def test_sparse_initializer_is_densified():
    sparse = oh.make_sparse_tensor(
        numpy_helper.from_array(np.array([5.0, 6.0], np.float32), "w"),
        numpy_helper.from_array(np.array([1, 8], np.int64)),
        [3, 3],
    )
    loaded = load(model([oh.make_node("MatMul", ["x", "w"], ["y"])], sparse=[sparse]))
    expected = np.zeros((3, 3))
    expected[0, 1], expected[2, 2] = 5, 6
    got = loaded.ir.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(got, expected)
    assert len(loaded.proto.graph.sparse_initializer) == 1


def test_unknown_domain_is_accepted_even_without_an_import():
    proto = model([oh.make_node("FusedThing", ["x"], ["y"], domain="com.microsoft")])
    assert next(iter(load(proto).ir.graph)).op_type == "FusedThing"


def test_external_data_is_mapped_not_loaded(tmp_path):
    external_model(tmp_path / "m.onnx")
    loaded = load(tmp_path / "m.onnx")
    tensor = loaded.ir.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), np.arange(9).reshape(3, 3))
    assert not loaded.proto.graph.initializer[0].raw_data
    again = load(loaded.ir)
    assert again.base_dir == tmp_path


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "C:\\w.bin", ""])
def test_external_data_outside_of_the_folder_is_refused(tmp_path, location):
    (tmp_path / "sub").mkdir()
    external_model(tmp_path / "w.onnx")
    external_model(tmp_path / "sub" / "m.onnx", location)
    with pytest.raises(ModelFileError, match="not inside the model's folder"):
        load(tmp_path / "sub" / "m.onnx")


def test_missing_short_and_linked_data_files(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    path = folder / "m.onnx"
    external_model(path)
    data = folder / "w.bin"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(ModelFileError, match=r"w\.bin, which has 35 bytes"):
        load(path)
    data.unlink()
    with pytest.raises(ModelFileError, match=r"w\.bin is missing"):
        load(path)
    (tmp_path / "other").write_bytes(content)
    data.symlink_to(tmp_path / "other")
    with pytest.raises(ModelFileError, match="replace the link"):
        load(path)
    with pytest.raises(ModelFileError, match="give the path"):
        load(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", b"\x08\x0a"])
def test_files_that_are_not_models(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.onnx is not a valid ONNX model"):
        load(path)


def test_missing_truncated_and_invalid(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match=r"m\.onnx: No such file"):
        load(path)
    proto = model([oh.make_node("MatMul", ["x", "w"], ["y"])], [weight()])
    path.write_bytes(proto.SerializeToString()[:-5])
    with pytest.raises(ModelFileError, match=r"m\.onnx is not"):
        load(path)
    proto.graph.node[0].input[0] = "nowhere"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="nowhere"):
        load(path)


def test_digest_follows_the_content_and_load_is_idempotent():
    proto = model([oh.make_node("MatMul", ["x", "w"], ["y"])], [weight()])
    loaded = load(proto)
    assert load(loaded) is loaded
    assert loaded.digest() == load(proto).digest()
    proto.doc_string = "other"
    assert loaded.digest() != load(proto).digest()
