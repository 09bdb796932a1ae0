"""Files from strangers: each is refused in one clear sentence, and nothing else happens."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import (
    GraphInitError,
    ModelFileError,
    UnsupportedModelError,
    UsageError,
    printable,
)
from graph_init.model import load, save, scales_file
from graph_init.model.locations import safe_location
from graph_init.problem import data_files
from tests.small_models import model
from tools.mutations import lay_out

RED = "\x1b[31mred"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]

node = helper.make_node


def tensor(name: str, shape: tuple[int, ...] = (4, 4)) -> TensorProto:
    array = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(array, name)


def layers(*nodes: onnx.NodeProto, more: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    """x → ``nodes`` → y, with the 4×4 matrix w and ``more``."""
    return model(
        list(nodes),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor("w"), *more],
    )


def product() -> onnx.ModelProto:
    return layers(node("MatMul", ["x", "w"], ["y"], "product"))


def ints(name: str, *numbers: int) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


# -- names, for the report and the terminal ------------------------------------------------------


def hostile_names() -> onnx.ModelProto:
    """A sound model whose names are HTML and terminal escape codes (also used for the report)."""
    names = ("<script>alert(1)</script>", f"{RED}\x07", '"><img src=x onerror=alert(1)>', "a\nb\r")
    nodes, at = [], "x"
    for k, name in enumerate(names):
        nodes.append(node("MatMul", [at, name], [f"<b>{k}</b>\x1b]0;t\x07"], f"<i>{name}</i>"))
        at = nodes[-1].output[0]
    nodes.append(node("Softmax", [at], ["y"], f"softmax{RED}"))
    built = layers(*nodes, more=tuple(tensor(name) for name in names))
    built.graph.initializer.pop(0)
    return built


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graph_init.cli import cli

    monkeypatch.setenv("COLUMNS", "400")
    path = tmp_path / "m.onnx"
    path.write_bytes(hostile_names().SerializeToString())
    for command in (
        ["inspect", str(path)],
        ["measure", str(path), "--output-name", RED],
        ["measure", str(path), "--freeze", RED],
    ):
        shown = CliRunner().invoke(cli, command).output
        assert "\\x1b[31mred" in shown
        assert not set(shown) & {"\x1b", "\x07", "\r"}
    told = json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--json"]).output)
    assert f"{RED}\x07" in [p["name"] for p in told["parameters"]]


def test_hostile_names_are_measured_and_written_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    plain = hostile_names()
    for at, weight in enumerate(plain.graph.initializer):
        for reader in plain.graph.node:
            for place, name in enumerate(reader.input):
                if name == weight.name:
                    reader.input[place] = f"plain{at}"
        weight.name = f"plain{at}"
    found = graph_init.measure(hostile_names())
    assert found.gradient_deviation == pytest.approx(
        graph_init.measure(plain).gradient_deviation, rel=1e-4
    )
    name = f"{RED}\x07"
    content = {"format": "graph-init/scales", "version": 1, "scales": {name: 2.0}}
    graph_init.apply(content, hostile_names()).save(tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == ["out.onnx"]
    written = onnx.load(tmp_path / "out.onnx")
    assert [t.name for t in written.graph.initializer] == [
        t.name for t in hostile_names().graph.initializer
    ]


def test_visible() -> None:
    assert printable("plain näme") == "plain näme"
    assert printable("\x1b[2J\n\x00\u202e\ud800") == "\\x1b[2J\\n\\x00\\u202e\\ud800"
    assert len(printable("a" * 10**6)) < 400


@pytest.mark.exact("the noise goes by names, and here names change")
def test_names_that_the_program_gives_itself_may_be_the_models() -> None:
    """Numbers do not depend on names, also where gradients, targets and constants are called so."""
    pytest.importorskip("onnxruntime")

    def chain(names: list[str], source: str) -> onnx.ModelProto:
        nodes, at = [], source
        for k, name in enumerate(names):
            nodes.append(node("MatMul", [at, name], [f"MatMul_{k}"], "loss"))
            nodes.append(node("Tanh", [f"MatMul_{k}"], [f"target#{k}"], "target"))
            at = f"target#{k}"
        nodes.append(node("Softmax", [at], ["y"]))
        built = layers(*nodes)
        built.graph.initializer.pop(0)
        for k, name in enumerate(names):
            built.graph.initializer.append(tensor("w" * (k + 1)))
            built.graph.initializer[-1].name = name
        built.graph.input[0].name = source
        return built

    given = [
        "target",
        "loss",
        "w",
        "w_grad",
        "const#1",
        "input:0",
        "input:0_grad",
        "n:MatMul",
        "MatMul",
        "MatMul_grad",
        "MatMul_Grad/Out",
        "value_0",
        "loss_grad_grad",
    ]
    plain = graph_init.measure(chain([f"plain{k}" for k in range(len(given))], "x"))
    named = graph_init.measure(chain(given, "target_"))
    assert named.gradient_deviation == pytest.approx(plain.gradient_deviation, rel=1e-4)
    own = chain(["graph_init.scales"], "x")
    with pytest.raises(UnsupportedModelError, match=r"'graph_init\.scales': names that begin"):
        graph_init.measure(own)


# -- models --------------------------------------------------------------------------------------


def cyclic() -> onnx.ModelProto:
    return layers(
        node("Add", ["x", "b"], ["a"], "first"),
        node("MatMul", ["a", "w"], ["b"]),
        node("Identity", ["b"], ["y"]),
    )


def nested(depth: int) -> bytes:
    """Branches within branches, as deep as protobuf reads them."""
    content = layers(node("MatMul", ["x", "w"], ["y"])).graph.SerializeToString()

    def field(number: int, inner: bytes) -> bytes:
        size, length = len(inner), b""
        while True:
            size, digit = size >> 7, size & 0x7F
            length += bytes([digit | 0x80 if size else digit])
            if not size:
                return bytes([number << 3 | 2]) + length + inner

    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, content) + b"\xa0\x01\x05"
        content = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
    opset = field(8, onnx.OperatorSetIdProto(version=17).SerializeToString())
    return b"\x08\x08" + field(7, content) + opset


def calls(*functions: tuple[str, list[onnx.NodeProto]]) -> onnx.ModelProto:
    built = layers(
        node("MatMul", ["x", "w"], ["h"]), node(functions[-1][0], ["h"], ["y"], domain="local")
    )
    built.opset_import.append(OPSETS[1])
    for name, nodes in functions:
        built.functions.append(
            helper.make_function("local", name, ["a"], ["b"], nodes=nodes, opset_imports=OPSETS)
        )
    return built


def recursive() -> onnx.ModelProto:
    return calls(("F", [node("F", ["a"], ["b"], domain="local")]))


def mutual() -> onnx.ModelProto:
    return calls(
        ("F", [node("G", ["a"], ["b"], domain="local")]),
        ("G", [node("F", ["a"], ["b"], domain="local")]),
    )


def billion_laughs() -> onnx.ModelProto:
    functions = [("F0", [node("Relu", ["a"], ["b"])])]
    for k in range(1, 20):
        inner = [
            node(f"F{k - 1}", ["a" if i == 0 else f"v{i - 1}"], [f"v{i}"], domain="local")
            for i in range(10)
        ]
        functions.append((f"F{k}", [*inner, node("Identity", ["v9"], ["b"])]))
    return calls(*functions)


def many_calls() -> onnx.ModelProto:
    built = calls(("F", [node("Relu", ["a"], ["b"])]))
    del built.graph.node[:]
    at = "x"
    for k in range(100_000):
        built.graph.node.append(node("F", [at], [f"v{k}"], domain="local"))
        at = f"v{k}"
    built.graph.node.append(node("MatMul", [at, "w"], ["y"]))
    return built


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        built = product()
        change(built)
        return built

    return make


def sparse(index: int, size: int) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        built = layers(node("MatMul", ["x", "sp"], ["y"]))
        values = numpy_helper.from_array(np.ones(1, np.float32), "sp")
        made = helper.make_sparse_tensor(values, ints("i", index), [4, size])
        built.graph.sparse_initializer.append(made)
        return built

    return make


def weight(built: onnx.ModelProto) -> TensorProto:
    return built.graph.initializer[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cyclic, "'first' .Add. reads 'b', which is produced only later: the graph has a cycle"),
        (recursive, "functions call themselves: local.F → local.F"),
        (mutual, "functions call themselves: local.[FG] → local.[FG] → local.[FG]"),
        (billion_laughs, r"expand to \d\.\d+e\+19 nodes"),
        (many_calls, "repeat the name 'node' 100000 times"),
        (changed(lambda m: m.graph.initializer.append(tensor("w"))), "two initializers named 'w'"),
        (changed(lambda m: m.graph.input.append(m.graph.input[0])), "two inputs named 'x'"),
        (changed(lambda m: m.graph.node.append(m.graph.node[0])), "two values named 'y'"),
        (changed(lambda m: m.graph.output.add(name="z")), "nothing produces output 'z'"),
        (changed(lambda m: weight(m).dims.append(10**12)), "impossibly large|holds 64 bytes"),
        (changed(lambda m: weight(m).dims.extend([2**62, 2**62])), "impossibly large shape"),
        (changed(lambda m: weight(m).dims.append(-1)), "negative dimension -1"),
        (changed(lambda m: weight(m).dims.extend([1] * 40)), "42 dimensions"),
        (changed(lambda m: weight(m).ClearField("raw_data")), "holds 0 numbers, but its shape"),
        (changed(lambda m: setattr(weight(m), "data_type", 99)), "unknown element type 99"),
        (changed(lambda m: m.graph.node[0].ClearField("op_type")), "names no operator"),
        (sparse(17, 4), "out of range|indices outside of its shape"),
        (sparse(-1, 4), "out of range|indices outside of its shape"),
        (sparse(0, 10**12), "elements, more than the 268435456"),
    ],
)
def test_models_that_are_refused(
    make: Callable[[], onnx.ModelProto], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=message) as found:
        load(make())
    assert found.value.exit_status == 3
    assert "\n" not in str(found.value) and len(str(found.value)) < 1000


@pytest.mark.parametrize("depth", [32, 33, 1000])
def test_branches_within_branches(tmp_path: Path, depth: int) -> None:
    """Protobuf gives up after a hundred levels of messages, of which a branch takes three."""
    path = tmp_path / "m.onnx"
    path.write_bytes(nested(depth))
    with pytest.raises(ModelFileError, match=r"m\.onnx is not.*(32 deep|truncated)"):
        load(path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(product().SerializeToString().replace(b"product", b"prod\xffct"))
    with pytest.raises(ModelFileError, match=r"m\.onnx .*graph\.node\[0\]\.name is not UTF-8"):
        load(path)
    attribute = layers(node("Cast", ["w"], ["c"], to=1), node("MatMul", ["x", "c"], ["y"]))
    attribute.graph.node[0].attribute.append(helper.make_attribute("round_mode", b"\xff\xfe"))
    path.write_bytes(attribute.SerializeToString())
    with pytest.raises(ModelFileError, match=r"m\.onnx"):
        load(path)


def test_a_protobuf_bomb_is_counted_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight million empty nodes in 16 MiB."""
    monkeypatch.setattr("graph_init.model.protobuf_limits.MAX_FIELDS", 100_000)
    body = b"\x0a\x00" * (1 << 23)
    size = len(body)
    length = bytes(
        [size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21 & 0x7F]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08\x3a" + length + body)
    with pytest.raises(ModelFileError, match="more than 100,000 fields"):
        load(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(ModelFileError, match="not a regular file"):
            load(place)
        with pytest.raises(ModelFileError, match="not a regular file"):
            scales_file.read(place)
        with pytest.raises(UsageError, match="not a regular file"):
            data_files.read(place)
    with pytest.raises(ModelFileError, match="it is a folder"):
        load(tmp_path)
    os.truncate(os.open(tmp_path / "huge", os.O_CREAT | os.O_WRONLY), 2**40)
    with pytest.raises(ModelFileError, match=r"1024\.0 GiB; an ONNX file holds at most 2 GiB"):
        load(tmp_path / "huge")


def constants(count: int, *shape: int) -> onnx.ModelProto:
    """``count`` constants of a shape, each read by a node that is not constant."""
    names = [f"c{k}" for k in range(count)]
    return layers(
        *(node("ConstantOfShape", ["big"], [name]) for name in names),
        node("MatMul", ["x", "w"], ["h"]),
        *(node("Mul", ["h", name], [f"m{name}"]) for name in names),
        node("Sum", [f"m{name}" for name in names], ["y"]),
        more=(ints("big", *shape),),
    )


def test_constants_of_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph_init.model.constants.MAX_FOLDED_BYTES", 1 << 20)
    load(constants(2, 1 << 16))
    with pytest.raises(UnsupportedModelError, match=r"'ConstantOfShape_\d+' \(ConstantOfShape\)"):
        load(constants(6, 1 << 16))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Expand", ["one", "big"], ["c"])],
        [node("Tile", ["four", "big2"], ["c"])],
        [node("Range", ["zero", "many", "step"], ["r"]), node("Cast", ["r"], ["c"], to=1)],
        [node("OneHot", ["one", "many", "pair"], ["c"])],
        [node("Pad", ["four", "ends"], ["c"])],
        [node("ConstantOfShape", ["big"], ["c"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_what_would_compute_terabytes_is_not_computed(nodes: list[onnx.NodeProto]) -> None:
    more = (
        ints("big", 10**6, 10**6),
        ints("big2", 10**12),
        ints("one", 1),
        ints("four", 1, 2, 3, 4),
        numpy_helper.from_array(np.array(0), "zero"),
        ints("pair", 0, 1),
        ints("ends", 0, 10**12),
        numpy_helper.from_array(np.array(10**12), "many"),
        numpy_helper.from_array(np.array(1), "step"),
    )
    built = layers(
        *nodes,
        node("Cast", ["c"], ["f"], to=1),
        node("ReduceMax", ["f"], ["m"], keepdims=0),
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "m"], ["y"]),
        more=more,
    )
    assert nodes[0].op_type in [n.op_type for n in load(built).ir.graph]


def test_texts_are_not_computed() -> None:
    """A text that doubles sixty times, and a pattern that takes exponential time."""
    text = helper.make_tensor("t0", TensorProto.STRING, [1], [b"a" * 40 + b"!"])
    doubled = [node("StringConcat", [f"t{k}", f"t{k}"], [f"t{k + 1}"]) for k in range(60)]
    built = layers(
        *doubled,
        node("RegexFullMatch", ["t0"], ["q"], pattern="(a+)+$"),
        node("Cast", ["q"], ["f"], to=1),
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "f"], ["y"]),
        more=(text,),
    )
    built.opset_import[0].version = 20
    assert "RegexFullMatch" in [n.op_type for n in load(built).ir.graph]
    with pytest.raises(UnsupportedModelError, match="'t0' holds text"):
        graph_init.measure(built)


def test_attributes_that_contradict_the_tensor_are_told_as_such() -> None:
    built = layers(node("Transpose", ["w"], ["t"], perm=[0, 64]), node("MatMul", ["x", "t"], ["y"]))
    with pytest.raises(GraphInitError, match="'w' do not fit its shape"):
        graph_init.inspect(built)


def test_sizes_that_no_integer_holds_are_told_as_such() -> None:
    """A declared batch of 2⁶² rows; strides between whose zeros lie 2⁶³ elements."""
    pytest.importorskip("onnxruntime")
    huge = layers(
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    )
    huge.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**62
    with pytest.raises(UnsupportedModelError):
        graph_init.measure(huge)
    wide = layers(
        node("ConvTranspose", ["x", "k"], ["y"], strides=[2**62, 2**62]),
        more=(tensor("k", (1, 1, 2, 2)),),
    )
    shape = [1, 1, 3, 3]
    wide.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    with pytest.raises(UnsupportedModelError):
        graph_init.measure(wide)


def test_an_element_type_that_does_not_exist() -> None:
    built = layers(node("MatMul", ["x", "w"], ["h"]), node("Cast", ["h"], ["y"], "c", to=-(2**63)))
    with pytest.raises(UnsupportedModelError, match=r"node 'c' \(Cast\) casts to element type -"):
        graph_init.measure(built)


def test_loops_in_loops_are_not_unrolled_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph_init.lowering.control_flow.MAX_UNROLLED", 500)

    def body(depth: int) -> onnx.GraphProto:
        inner = (
            node(
                "Loop",
                ["count", "yes", f"s{depth}"],
                [f"q{depth}"],
                f"loop{depth}",
                body=body(depth - 1),
            )
            if depth
            else node("MatMul", ["s0", "w"], ["q0"])
        )
        info = helper.make_tensor_value_info
        return helper.make_graph(
            [node("Identity", [f"g{depth}"], [f"a{depth}"]), inner],
            f"body{depth}",
            [
                info(f"k{depth}", TensorProto.INT64, []),
                info(f"g{depth}", TensorProto.BOOL, []),
                info(f"s{depth}", TensorProto.FLOAT, None),
            ],
            [info(f"a{depth}", TensorProto.BOOL, []), info(f"q{depth}", TensorProto.FLOAT, None)],
        )

    outer = body(2).node[1]
    outer.input[2], outer.output[0] = "x", "y"
    yes, count = numpy_helper.from_array(np.array(True), "yes"), ints("count", 2000)
    count.ClearField("dims")
    with pytest.raises(UnsupportedModelError, match="unrolls to more than 500 nodes"):
        graph_init.measure(layers(outer, more=(yes, count)))


def test_a_long_sum_of_gradients_is_not_a_deep_recursion() -> None:
    """The weight of a loop of 600 iterations has a gradient of as many terms."""
    pytest.importorskip("onnxruntime")
    from graph_init.autodiff.contraction import Products, contract
    from graph_init.ir import Builder

    b = Builder()
    theta = b.input("theta", TensorProto.FLOAT, (4, 4), requires_grad=True)
    total = b.input("g", TensorProto.FLOAT, (4, 4))
    for k in range(3000):
        term = b.input(f"g{k}", TensorProto.FLOAT, (4, 4))
        total = b.add(term, total) if k % 2 else b.add(total, term)
    for _ in range(60):  # and sums of a value with itself are no tree of 2⁶⁰ terms
        total = b.add(total, b.mul(total, total))
    found = contract(b, theta, total, Products([]))
    assert found.shape == ()


# -- external data -------------------------------------------------------------------------------


def external(folder: Path, **entries: str) -> Path:
    """A model in ``folder`` with its weight in w.bin, which has the 64 bytes of it."""
    built = product()
    held = weight(built)
    (folder / "w.bin").write_bytes(held.raw_data)
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        held.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(built.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret.bin"}, "not inside the model's folder"),
        ({"location": "sub/../../secret.bin"}, "not inside the model's folder"),
        ({"location": "/etc/passwd"}, "not inside the model's folder"),
        ({"location": "C:\\w.bin"}, "not inside the model's folder"),
        ({"location": "..\\secret.bin"}, "not inside the model's folder"),
        ({"location": "w\0.bin"}, "not inside the model's folder"),
        ({"location": "link.bin"}, "outside of the model's folder; replace the link"),
        ({"location": "sub/link/secret.bin"}, "outside of the model's folder; replace the link"),
        ({"location": "sub/link/in/w.bin"}, ""),
        ({"location": "loop/w.bin"}, "cannot read .*loop"),
        ({"location": "a" * 300}, "cannot read|is missing"),
        ({"location": "dir"}, "not a regular file"),
        ({"location": "fifo"}, "not a regular file"),
        ({"location": "w.bin/"}, "not a regular file"),
        ({"offset": "4"}, r"bytes 4 to 68 are outside"),
        ({"offset": "-4"}, "malformed offset '-4'"),
        ({"offset": "9" * 30}, "malformed offset"),
        ({"offset": "0x10"}, "malformed offset"),
        ({"offset": "٣"}, "malformed offset"),
        ({"length": "60"}, "length 60, but its shape .* needs 64"),
        ({"length": "-1"}, "malformed length"),
        ({"length": "1e3"}, "malformed length"),
        ({"length": RED}, r"malformed length '\\x1b\[31mred'"),
    ],
)
def test_external_data(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    lay_out(tmp_path / "in")
    path = external(tmp_path / "in", **entries)
    if not message:  # a link out of the folder and back into it
        assert load(path).ir.graph.initializers["w"].const_value is not None
        return
    with pytest.raises(ModelFileError, match=rf"m\.onnx: .*{message}"):
        load(path)


def test_external_data_of_an_impossible_shape_or_with_repeated_keys(tmp_path: Path) -> None:
    path = external(tmp_path)
    built = onnx.load(path, load_external_data=False)
    weight(built).external_data.add(key="location", value="other.bin")
    path.write_bytes(built.SerializeToString())
    with pytest.raises(ModelFileError, match="two entries of one key"):
        load(path)
    path = external(tmp_path)
    built = onnx.load(path, load_external_data=False)
    weight(built).dims[0] = 10**12
    path.write_bytes(built.SerializeToString())
    with pytest.raises(ModelFileError, match=r"m\.onnx: .*bytes 0 to 16000000000000 are outside"):
        load(path)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("w.bin", "w.bin"),
        ("data/w.bin", "data/w.bin"),
        ("model.onnx_data", "model.onnx_data"),
        ("model.onnx.data", "model.onnx.data"),
        ("layers.0.weight", "layers.0.weight"),
        ("./a/../w.bin", "a/w.bin"),
        ("../x", "x.data"),
        ("/etc/passwd", "etc/passwd.data"),
        ("..\\x.bin", "x.bin"),
        (".bashrc", "_bashrc.data"),
        (".git/hooks/post-checkout", "_git/hooks/post-checkout.data"),
        ("conftest.py", "conftest.py.data"),
        ("onnx::MatMul_1", "onnx__MatMul_1.data"),
        ("-rf", "_rf.data"),
        (f"a{RED}\n.bin", "a__31mred_.bin"),
        ("..", "weights.data"),
        ("away/w.bin", "w.bin"),
        ("deep/away/w.bin", "w.bin"),
    ],
)
def test_a_model_does_not_choose_what_is_written(
    tmp_path: Path, location: str, expected: str
) -> None:
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "away").symlink_to(tmp_path)
    (folder / "deep" / "away").symlink_to(tmp_path)
    assert safe_location(location, folder) == expected


@pytest.mark.parametrize("location", [".profile", "conftest.py", "sub/w.bin", "link/w.bin"])
def test_output_stays_in_its_folder(tmp_path: Path, location: str) -> None:
    """Also where the output's folder has a link of the name of the input's subfolder."""
    source, out = tmp_path / "in", tmp_path / "out"
    for folder in (source / "sub", source / "link", out, tmp_path / "precious"):
        folder.mkdir(parents=True)
    (out / "link").symlink_to(tmp_path / "precious")
    path = external(source, location=location)
    (source / location).write_bytes((source / "w.bin").read_bytes())
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(out)}
    loaded = load(path)
    save(loaded, {"w": np.ones((4, 4))}, out / "out.onnx")
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(out)} == before
    written = [p for p in out.rglob("*") if p.is_file()]
    assert len(written) == 2 and all(p.suffix in (".onnx", ".bin", ".data") for p in written)
    again = onnx.load(out / "out.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(weight(again)), np.ones((4, 4)))


@pytest.mark.parametrize("location", ["out.bin", "sub/../out.bin", "./out.bin"])
def test_data_does_not_take_the_name_of_the_model(tmp_path: Path, location: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    out.mkdir()
    path = external(source, location=location)
    (source / "out.bin").write_bytes((source / "w.bin").read_bytes())
    save(load(path), {"w": np.ones((4, 4))}, out / "out.bin")
    again = onnx.load(out / "out.bin")
    np.testing.assert_array_equal(numpy_helper.to_array(weight(again)), np.ones((4, 4)))


def test_one_file_under_many_names_is_copied_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    path = external(source)
    built = onnx.load(path, load_external_data=False)
    for k in range(1, 50):
        copy = built.graph.initializer.add()
        copy.CopyFrom(weight(built))
        copy.name = f"w{k}"
        copy.external_data[0].value = "./" * k + "w.bin"
        built.graph.node.insert(0, node("Identity", [copy.name], [f"i{k}"]))
    path.write_bytes(built.SerializeToString())
    save(load(path), {}, out / "out.onnx")
    assert sorted(os.listdir(out)) == ["out.onnx", "w.bin"]


# -- data and scales -----------------------------------------------------------------------------


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([{}], dtype=object)), "Python objects|pickle"),
        (header("(1000000000000, 4)"), "says it has the shape"),
        (header("(-1, 4)"), "says it has the shape"),
        (header("(" * 3000 + ")" * 3000), "not a readable"),
        (header("(4, 4)", "|O"), "Python objects"),
        (header("(4, 4)", "nonsense"), "not a readable"),
        (b"", "not a readable"),
        (npy(np.ones((4, 4)))[:100], "not a readable"),
    ],
)
def test_archives_and_arrays(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=rf"d\.npz.*({message})"):
        data_files.read(archive(tmp_path / "d.npz", x=content))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.npy' is not a readable"):
        data_files.read(folder)


def test_zip_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "d.npz", x=npy(np.zeros(1 << 22, np.float32)))
    assert path.stat().st_size < 1 << 15
    assert data_files.read_npz(path)["x"].size == 1 << 22
    monkeypatch.setattr("graph_init.engine.memory.available", lambda: 1 << 20)
    with pytest.raises(UsageError, match=r"arrays take 0\.0 GB.*is available"):
        data_files.read_npz(path)
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("x.npy", npy(np.ones(3)))
        file.writestr("x.npy", npy(np.ones(4)))
    with pytest.raises(UsageError, match="two arrays with the same name"):
        data_files.read_npz(path)


@pytest.mark.parametrize("dtype", ["<U3", "<M8[s]", "c8"])
def test_arrays_that_hold_no_numbers(dtype: str) -> None:
    with pytest.raises(UsageError, match="'x' has elements of type"):
        graph_init.measure(
            product(), data={"x": np.zeros((4, 4), dtype), "target": np.zeros((4, 4))}
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep|not a readable"),
        ('{"a":' * 100_000, "nested too deep|not a readable"),
        ("[]", "not a JSON object"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ('{"scales": 1, "scales": 2}', "'scales' occurs twice"),
        ('{"scales": ' + "1" * 5000 + "}", "not a readable"),
        ("\ufeff{}", "not a readable"),
        ("{}\0", "not a readable"),
    ],
)
def test_files_that_hold_no_scales(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelFileError, match=rf"s\.json.*({message})"):
        scales_file.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFileError, match=r"s\.json"):
        scales_file.read(path)
    os.truncate(path, 2**40)
    with pytest.raises(ModelFileError, match="more than 64 MiB"):
        scales_file.read(path)


@pytest.mark.parametrize(
    "factor", ["1e999", "-1", "0", "true", "null", '"2"', "[]", "1" + "0" * 400]
)
def test_factors_that_are_no_positive_numbers(tmp_path: Path, factor: str) -> None:
    path = tmp_path / "s.json"
    start = '{"format": "graph-init/scales", "version": 1, "scales": '
    path.write_text(f'{start}{{"\\u001b[2J": {factor}}}}}')
    with pytest.raises(ModelFileError, match=r"scale of '\\x1b\[2J' is .*, not a positive number"):
        scales_file.read(path)


def test_scales_of_what_is_no_float(tmp_path: Path) -> None:
    built = layers(
        node("Gather", ["w", "index"], ["g"]),
        node("MatMul", ["x", "g"], ["y"]),
        more=(ints("index", 0, 1, 2, 3),),
    )
    content = {"format": "graph-init/scales", "version": 1, "scales": {"index": 2.0}}
    with pytest.raises(UnsupportedModelError, match="'index'.*does not hold floats"):
        graph_init.apply(content, built)


def test_no_error_of_a_file_is_a_traceback(tmp_path: Path) -> None:
    """Through the command line: one line, and the exit status of its class."""
    from graph_init.cli import cli

    path = tmp_path / f"{RED}.onnx"
    path.write_bytes(recursive().SerializeToString())
    with_errors = CliRunner().invoke(cli, ["inspect", str(path)])
    assert with_errors.exit_code == 3
    lines = with_errors.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "\x1b" not in lines[0]
    assert threading.active_count() < 20
