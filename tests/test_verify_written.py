"""The tool that compares a written file with its original finds every kind of damage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from tools import run_both, verify_written

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parent.parent
FACTORS = {"w": 0.75, "k": 1.7, "in_then": 0.3, "in_else": 3.1, "thin": 0.5, "half": 1.3}


def tensor(name: str, shape: tuple[int, ...], dtype: type = np.float32) -> TensorProto:
    seed = sum(map(ord, name))
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return numpy_helper.from_array(array, name)


def branch(name: str) -> onnx.GraphProto:
    """h times a matrix of the branch."""
    nodes = [helper.make_node("MatMul", ["h", name], [f"{name}_y"], f"{name}_matmul")]
    output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [output], initializer=[tensor(name, (4, 4))])


def original() -> onnx.ModelProto:
    """An initializer, one of half precision, a Constant, a sparse one, and both branches of If."""
    nodes = [
        helper.make_node("Constant", [], ["k"], "k", value=tensor("k", (4, 4))),
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Add", ["a", "b"], ["c"], "bias"),
        helper.make_node("MatMul", ["c", "k"], ["d"], "second"),
        helper.make_node("Cast", ["half"], ["wide"], "cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["d", "wide"], ["e"], "third"),
        helper.make_node("MatMul", ["e", "thin"], ["h"], "fourth"),
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            "choice",
            then_branch=branch("in_then"),
            else_branch=branch("in_else"),
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        initializer=[tensor("w", (3, 4)), tensor("b", (4,)), tensor("half", (4, 4), np.float16)],
    )
    values = numpy_helper.from_array(np.array([0.5, -2], np.float32), "thin")
    places = numpy_helper.from_array(np.array([1, 7], np.int64), "thin_indices")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 4]))
    opsets = [helper.make_opsetid("", 17)]
    found = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="us")
    helper.set_model_props(found, {"classes": "4"})
    return found


def place(model: onnx.ModelProto, name: str) -> TensorProto:
    """The tensor called ``name``, wherever it is."""
    held = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            held += attribute.g.initializer
            if node.op_type == "Constant" and node.output[0] == name:
                return attribute.t
    return next(t for t in held if t.name == name)


def multiply(model: onnx.ModelProto, name: str, factor: float) -> None:
    held = place(model, name)
    array = numpy_helper.to_array(held)
    product = (array.astype(np.float64) * factor).astype(array.dtype)
    held.CopyFrom(numpy_helper.from_array(product, held.name))


def written() -> onnx.ModelProto:
    """What a right program writes for :data:`FACTORS`."""
    model = original()
    sparse = model.graph.sparse_initializer[0]
    dense = np.zeros(16, np.float32)
    dense[[1, 7]] = numpy_helper.to_array(sparse.values)
    model.graph.initializer.append(numpy_helper.from_array(dense.reshape(4, 4), "thin"))
    del model.graph.sparse_initializer[:]
    for name, factor in FACTORS.items():
        multiply(model, name, factor)
    helper.set_model_props(model, {"classes": "4", "graph_init.version": "0"})
    return model


def found(folder: Path, model: onnx.ModelProto) -> list[str]:
    onnx.save(original(), folder / "original.onnx")
    onnx.save(model, folder / "written.onnx")
    (folder / "scales.json").write_text(json.dumps({"scales": FACTORS}), "utf-8")
    files = (folder / f for f in ("original.onnx", "written.onnx", "scales.json"))
    differences, ran = verify_written.verify(*files)
    assert ran == "ran"
    return differences


def test_what_is_right_passes(tmp_path: Path) -> None:
    assert found(tmp_path, written()) == []


def _one_element(name: str) -> Callable[[onnx.ModelProto], None]:
    def damage(model: onnx.ModelProto) -> None:
        held = place(model, name)
        array = numpy_helper.to_array(held).copy()
        array.flat[1] = np.nextafter(array.flat[1], np.inf, dtype=array.dtype)
        array.flat[1] = np.nextafter(array.flat[1], np.inf, dtype=array.dtype)
        held.CopyFrom(numpy_helper.from_array(array, held.name))

    return damage


def _replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    def damage(model: onnx.ModelProto) -> None:
        held = place(model, name)
        changed = change(numpy_helper.to_array(held))
        held.CopyFrom(numpy_helper.from_array(changed, held.name))

    return damage


def _metadata(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"classes": "5"})


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def _node(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Sub"


def _fewer_nodes(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "a"
    del model.graph.node[2]


def _branch_node(model: onnx.ModelProto) -> None:
    model.graph.node[-1].attribute[0].g.node[0].name = "other"


def _input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "m"


def _producer(model: onnx.ModelProto) -> None:
    model.producer_name = "others"


def _extra(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(tensor("extra", (2,)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_one_element("b"), "'b' differs in 1 of 4 elements, and has no factor"),
        (_one_element("w"), "'w' is not 0.75 times the original in 1 of 12 elements"),
        (_one_element("half"), "'half' is not 1.3 times"),
        (_one_element("k"), "'k' is not 1.7 times"),
        (_one_element("thin"), "'thin' is not 0.5 times"),
        (_one_element("in_then"), "then_branch/'in_then' is not 0.3 times"),
        (_one_element("in_else"), "else_branch/'in_else' is not 3.1 times"),
        (lambda m: multiply(m, "w", 1.001), "'w' is not 0.75 times the original in 12 of 12"),
        (_replaced("w", lambda a: a.astype(np.float64)), "'w' has the type double, not float"),
        (_replaced("b", lambda a: a[None]), "'b' has the shape (1, 4), not (4,)"),
        (_metadata, "metadata 'classes' is '5', not '4'"),
        (_opset, "opset_import 0"),
        (_node, "node 2 ('bias') differs"),
        (_fewer_nodes, "there are 7 of node, not 8"),
        (_branch_node, "node 7 ('choice') differs"),
        (_input, "the graph's input differs"),
        (_output, "the graph's output differs"),
        (_producer, "the model's producer_name differs"),
        (_extra, "tensor 'extra' is new"),
    ],
)
def test_damage_is_found(
    tmp_path: Path, damage: Callable[[onnx.ModelProto], None], words: str
) -> None:
    model = written()
    damage(model)
    onnx.save(original(), tmp_path / "original.onnx")
    onnx.save(model, tmp_path / "written.onnx")
    outlines = (verify_written.outline(tmp_path / f"{n}.onnx") for n in ("original", "written"))
    differences = list(verify_written.compare(*outlines, FACTORS))
    assert any(words in line for line in differences), differences


def test_numbers_that_are_not_finite_are_found(tmp_path: Path) -> None:
    model = written()
    multiply(model, "in_then", np.inf)
    assert any("numbers that are not finite" in line for line in found(tmp_path, model))


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    onnx.save(original(), tmp_path / "original.onnx")
    outline = verify_written.outline(tmp_path / "original.onnx")
    assert list(verify_written.compare(outline, outline, {"nothing": 1.0})) == [
        "the scales file names 'nothing', which the original has not"
    ]


def test_external_data(tmp_path: Path) -> None:
    """Bytes of two files are compared; a byte in one of them is enough."""
    for name, model in (("original", original()), ("written", written())):
        onnx.save(
            model,
            tmp_path / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=0,
        )
    (tmp_path / "scales.json").write_text(json.dumps({"scales": FACTORS}), "utf-8")
    files = [tmp_path / f for f in ("original.onnx", "written.onnx", "scales.json")]
    assert verify_written.verify(*files) == ([], "ran")
    data = bytearray((tmp_path / "written.data").read_bytes())
    data[-3] ^= 0x40
    (tmp_path / "written.data").write_bytes(data)
    assert verify_written.verify(*files)[0]


def test_an_engine_that_crashes_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors are compared all the same."""
    crash = tmp_path / "crash.py"
    crash.write_text("import os\nos.abort()\n", "utf-8")
    monkeypatch.setattr(run_both, "__file__", str(crash))
    model = written()
    multiply(model, "w", 2.0)
    onnx.save(original(), tmp_path / "original.onnx")
    onnx.save(model, tmp_path / "written.onnx")
    (tmp_path / "scales.json").write_text(json.dumps({"scales": FACTORS}), "utf-8")
    files = (tmp_path / f for f in ("original.onnx", "written.onnx", "scales.json"))
    differences, ran = verify_written.verify(*files)
    assert len(differences) == 1 and "'w' is not 0.75 times" in differences[0]
    assert ran.startswith("not run: the engine ended with status")


def computed() -> onnx.ModelProto:
    """x·(w + v): the sum is what the file's weights make, and what is scaled."""
    nodes = [
        helper.make_node("Add", ["w", "v"], ["sum"], "add"),
        helper.make_node("MatMul", ["x", "sum"], ["h"], "product"),
        helper.make_node("Softmax", ["h"], ["y"], "softmax"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [tensor("w", (3, 4)), tensor("v", (4,))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", ["initializers", "computed"])
def test_what_the_program_writes_passes(tmp_path: Path, name: str) -> None:
    """As a command, with the scales file that the program saves beside the model."""
    model = computed() if name == "computed" else written()
    if name == "initializers":
        del model.graph.node[-1]
        model.graph.output[0].name = "h"
        del model.graph.input[1]
    onnx.save(model, tmp_path / "original.onnx")
    result = graph_init.initialize(tmp_path / "original.onnx", updates=3, scheme="keep")
    result.save(tmp_path / "written.onnx", scales=tmp_path / "scales.json")
    assert result.scales
    files = [str(tmp_path / f) for f in ("original.onnx", "written.onnx", "scales.json")]
    command = [sys.executable, str(ROOT / "tools/verify_written.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0 differences; ran"), done.stderr
    refused = subprocess.run(
        [*command[:2], files[2], *files[1:]], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
