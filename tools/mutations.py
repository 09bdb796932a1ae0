"""Seeds and mutations of the fuzzer: real models, archives and scales files, made hostile.

Everything is drawn from one generator a mutant, so that a mutant is known by its number.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, helper, numpy_helper

Generator = np.random.Generator

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
#: Of the models of the onnx package only these fold to little; one in 300 mutants is of them.
LIGHT = ("squeezenet", "shufflenet", "densenet121", "inception_v2", "resnet50")

_INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    127,
    128,
    255,
    1000,
    65535,
    2**20,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"), 0.5)
_TEXTS = (
    "",
    "x",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
    "a\nb",
    "\u202eevil",
    "..",
    "../x",
    "/etc/passwd",
    "target",
    "loss",
    "const",
    "const#1",
    "w_grad",
    "value_0",
    "node_0",
    "a" * 3000,
    "\0",
    "%s%n",
    "{0}",
    "ai.onnx",
    "com.microsoft",
    "Loop",
    "If",
    "Identity",
    "Constant",
)
_LOCATIONS = (
    "../secret.bin",
    "/etc/passwd",
    "w.bin",
    "./w.bin",
    "sub/../w.bin",
    "sub/w.bin",
    "link.bin",
    "sub/link/secret.bin",
    "dir",
    "",
    "w.bin/",
    "C:\\w.bin",
    "..\\secret.bin",
    "fifo",
    "\0",
    ".bashrc",
    "conftest.py",
    "m.onnx",
    "out.onnx",
    "a" * 300,
    "loop/w.bin",
    "/proc/self/mem",
    "~/w.bin",
)
_DIGITS = ("0", "-1", "1", "4", "36", "1e3", "999999999999", "9" * 40, "", "0x10", " 4", "٣", "4.0")


@dataclass
class Mutant:
    """The files of one mutant, relative to a folder, and what is done with them."""

    kind: str
    seed: str
    files: dict[str, bytes]
    steps: list[str] = field(default_factory=list)


# -- seeds -------------------------------------------------------------------------------------

#: Environment variable that names a file of seeds: making them takes ten seconds.
SEEDS_FILE = "GRAPH_INIT_FUZZ_SEEDS"


def write_seeds(path: Path) -> None:
    """A file of all seeds, for worker processes."""
    pairs = [(name, base64.b64encode(content).decode()) for name, content in seeds()]
    path.write_text(json.dumps(pairs), "ascii")


@functools.cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """(name, model) of the onnx package's node and converted models, and of a few of our own."""
    written = os.environ.get(SEEDS_FILE)
    if written:
        pairs = json.loads(Path(written).read_text("ascii"))
        return tuple((name, base64.b64decode(content)) for name, content in pairs)
    found: list[tuple[str, bytes]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    for case in cases:
        model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
        content = _parameterised(model).SerializeToString()
        if len(content) < 100_000:
            found.append((case.name, content))
    for path in sorted(DATA.glob("[ps]*/*/model.onnx")):
        if path.stat().st_size < 100_000:
            found.append((path.parent.name, path.read_bytes()))
    found += [(name, make().SerializeToString()) for name, make in _OWN.items()]
    return tuple(found)


@functools.cache
def light(name: str) -> bytes:
    return (DATA / "light" / f"light_{name}.onnx").read_bytes()


def _parameterised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A node's model of which all inputs but the first are initializers."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    rng = np.random.default_rng(0)
    for value in list(model.graph.input)[1:]:
        tensor = value.type.tensor_type
        shape = [d.dim_value for d in tensor.shape.dim]
        if tensor.elem_type == TensorProto.FLOAT and all(shape) and np.prod(shape) < 5000:
            array = rng.standard_normal(shape).astype(np.float32)
        elif tensor.elem_type == TensorProto.INT64 and all(shape) and np.prod(shape) < 100:
            array = np.ones(shape, np.int64)
        else:
            continue
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    return model


def _layers(*nodes: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    """x → ``nodes`` → y, with a matrix w, a vector b and the shape s beside."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 4)).astype(np.float32), "w"),
        numpy_helper.from_array(np.zeros(4, np.float32), "b"),
        numpy_helper.from_array(np.array([4, 4]), "s"),
    ]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=weights,
        sparse_initializer=more.pop("sparse", ()),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def _plain() -> onnx.ModelProto:
    return _layers(
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Add", ["h", "b"], ["a"], "bias"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w"], ["l"], "again"),
        helper.make_node("Softmax", ["l"], ["y"], "softmax"),
    )


def _computed() -> onnx.ModelProto:
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    return _layers(
        helper.make_node("ConstantOfShape", ["s"], ["f"], value=fill),
        helper.make_node("Constant", [], ["two"], value_ints=[2, 1]),
        helper.make_node("Tile", ["f", "two"], ["t"]),
        helper.make_node("Expand", ["t", "s2"], ["e"]),
        helper.make_node("Constant", [], ["zero"], value_int=0),
        helper.make_node("Constant", [], ["eight"], value_int=8),
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Range", ["zero", "eight", "one"], ["i"]),
        helper.make_node("Gather", ["e", "i"], ["k"]),
        helper.make_node("Transpose", ["k"], ["kt"]),
        helper.make_node("MatMul", ["x", "kt"], ["y"]),
    )


def _with_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.initializer.append(numpy_helper.from_array(np.array([8, 4]), "s2"))
    return model


def _functions() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local",
        "Inner",
        ["a", "w"],
        ["b"],
        nodes=[helper.make_node("MatMul", ["a", "w"], ["b"])],
        opset_imports=opsets,
    )
    outer = helper.make_function(
        "local",
        "Outer",
        ["a", "w"],
        ["b"],
        nodes=[
            helper.make_node("Inner", ["a", "w"], ["c"], domain="local"),
            helper.make_node("Inner", ["c", "w"], ["d"], domain="local"),
            helper.make_node("Relu", ["d"], ["b"]),
        ],
        opset_imports=opsets,
    )
    return _layers(
        helper.make_node("Outer", ["x", "w"], ["h"], domain="local"),
        helper.make_node("Outer", ["h", "w"], ["y"], domain="local"),
        functions=[inner, outer],
    )


def _branches() -> onnx.ModelProto:
    def body(op: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        inner = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node(op, ["m"], ["z"])]
        return helper.make_graph(inner, f"{op}-body", [], [value])

    loop = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["again"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "loop",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    yes = numpy_helper.from_array(np.array(True))
    return _layers(
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("Constant", [], ["three"], value_int=3),
        helper.make_node("If", ["yes"], ["c"], then_branch=body("Relu"), else_branch=body("Tanh")),
        helper.make_node("Loop", ["three", "yes", "c"], ["y"], body=loop),
    )


def _sparse() -> onnx.ModelProto:
    values = numpy_helper.from_array(np.ones(3, np.float32), "sp")
    indices = numpy_helper.from_array(np.array([0, 5, 15]), "sp_indices")
    return _layers(
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "sp"], ["y"]),
        sparse=[helper.make_sparse_tensor(values, indices, [4, 4])],
    )


def _types() -> onnx.ModelProto:
    model = _plain()
    rng = np.random.default_rng(1)
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT4):
        numbers = [float(v) for v in rng.integers(0, 5, 16)]
        tensor = helper.make_tensor(f"t{kind}", kind, [4, 4], numbers)
        model.graph.initializer.append(tensor)
        cast = helper.make_node("Cast", [tensor.name], [f"c{kind}"], to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    model.opset_import[0].version = 21
    texts = helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"\xff"])
    model.graph.initializer.append(texts)
    return model


_OWN: dict[str, Callable[[], onnx.ModelProto]] = {
    "own-plain": _plain,
    "own-computed": lambda: _with_shape(_computed()),
    "own-functions": _functions,
    "own-branches": _branches,
    "own-sparse": _sparse,
    "own-types": _types,
}


# -- bytes -------------------------------------------------------------------------------------


def mutate_bytes(content: bytes, rng: Generator) -> bytes:
    """One to four changes of bytes, mostly one: flips, extremes, cuts, repeats, insertions."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.7, 0.1, 0.1, 0.1]))):
        if not data:
            return bytes(rng.bytes(20))
        at = int(rng.integers(len(data)))
        size = int(min(len(data) - at, 2 ** rng.integers(0, 9)))
        match int(rng.integers(7)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = rng.bytes(size)
            case 4:
                data[at:at] = data[at : at + size] * int(rng.integers(1, 8))
            case 5:
                del data[at:]
            case 6:
                other = int(rng.integers(len(data)))
                data[at : at + size] = data[other : other + size]
    return bytes(data)


# -- structure ---------------------------------------------------------------------------------


def mutate_model(model: onnx.ModelProto, rng: Generator) -> None:
    """One to four changes of a model, mostly one, that keep it a protobuf message of its kind."""
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.55, 0.2, 0.15, 0.1]))):
        change = _CHANGES[int(rng.integers(len(_CHANGES)))]
        # What protobuf itself does not take: text that is not UTF-8, a hundred levels.
        with contextlib.suppress(ValueError, DecodeError, EncodeError):
            change(model, rng)


def _messages(model: Any, limit: int = 4000) -> list[Any]:
    found, pending = [], [model]
    while pending and len(found) < limit:
        message = pending.pop()
        found.append(message)
        for descriptor, value in message.ListFields():
            if descriptor.type == descriptor.TYPE_MESSAGE:
                pending.extend([value] if hasattr(value, "ListFields") else value)
    return found


def _any(items: Sequence[Any], rng: Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _change_field(model: onnx.ModelProto, rng: Generator) -> None:
    """Any field of any message: a number, a text or bytes, set to something extreme."""
    message = _any(_messages(model), rng)
    fields = [f for f in message.DESCRIPTOR.fields if f.type != f.TYPE_MESSAGE]
    if not fields:
        return
    descriptor = _any(fields, rng)
    value = _draw(descriptor, model, rng)
    if _is_repeated(descriptor):
        values = getattr(message, descriptor.name)
        match int(rng.integers(3)):
            case 0 if len(values):
                values[int(rng.integers(len(values)))] = value
            case 1 if len(values):
                del values[int(rng.integers(len(values)))]
            case _:
                values.append(value)
    else:
        setattr(message, descriptor.name, value)


def _is_repeated(descriptor: Any) -> bool:
    repeated = getattr(descriptor, "is_repeated", None)
    return bool(descriptor.label == descriptor.LABEL_REPEATED if repeated is None else repeated)


def _draw(descriptor: Any, model: onnx.ModelProto, rng: Generator) -> Any:
    d = descriptor
    if d.type == d.TYPE_STRING:
        return _any(_TEXTS, rng) if rng.random() < 0.5 else _any(_names(model), rng)
    if d.type == d.TYPE_BYTES:
        return rng.bytes(int(rng.integers(0, 40)))
    if d.type in (d.TYPE_FLOAT, d.TYPE_DOUBLE):
        return _any(_FLOATS, rng)
    if d.type == d.TYPE_ENUM:
        return _any([v.number for v in d.enum_type.values], rng)
    if d.type == d.TYPE_BOOL:
        return bool(rng.integers(2))
    number = int(_any(_INTEGERS, rng))
    if d.type in (d.TYPE_INT32, d.TYPE_SINT32):
        return max(min(number, 2**31 - 1), -(2**31))
    return abs(number) if d.type in (d.TYPE_UINT64, d.TYPE_UINT32) else number


def _names(model: onnx.ModelProto) -> list[str]:
    names = [n for node in model.graph.node for n in (*node.input, *node.output, node.op_type)]
    names += [t.name for t in model.graph.initializer]
    return names or ["x"]


def _change_list(model: onnx.ModelProto, rng: Generator) -> None:
    """Repeat, remove, swap or empty a part of any list of messages."""
    lists = []
    for message in _messages(model):
        for descriptor, value in message.ListFields():
            if descriptor.type == descriptor.TYPE_MESSAGE and not hasattr(value, "ListFields"):
                lists.append(value)
    if not lists:
        return
    chosen = _any(lists, rng)
    at = int(rng.integers(len(chosen)))
    match int(rng.integers(4)):
        case 0:
            chosen.add().CopyFrom(chosen[at])
        case 1:
            del chosen[at]
        case 2:
            other = int(rng.integers(len(chosen)))
            first, second = chosen[at].SerializeToString(), chosen[other].SerializeToString()
            chosen[at].ParseFromString(second)
            chosen[other].ParseFromString(first)
        case 3:
            chosen[at].Clear()


def _graft(model: onnx.ModelProto, rng: Generator) -> None:
    """A message takes the place of another of its kind: of this model, or of another seed."""
    _, content = _any(seeds(), rng)
    donor = onnx.ModelProto.FromString(content) if rng.random() < 0.7 else model
    target = _any(_messages(model), rng)
    same = [m for m in _messages(donor) if m.DESCRIPTOR is target.DESCRIPTOR and m is not target]
    if same:
        copy = type(target)()
        copy.CopyFrom(_any(same, rng))
        target.CopyFrom(copy)


def _rewire(model: onnx.ModelProto, rng: Generator) -> None:
    """A node reads or writes another name of the model."""
    nodes = [m for m in _messages(model) if m.DESCRIPTOR.name == "NodeProto"]
    if not nodes:
        return
    node = _any(nodes, rng)
    names = node.input if rng.random() < 0.7 else node.output
    if names:
        names[int(rng.integers(len(names)))] = _any(_names(model), rng)


def _reshape(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor's shape, or a declared one, gets an extreme dimension."""
    tensors = [m for m in _messages(model) if m.DESCRIPTOR.name in ("TensorProto", "Dimension")]
    if not tensors:
        return
    tensor = _any(tensors, rng)
    number = int(_any(_INTEGERS, rng))
    if tensor.DESCRIPTOR.name == "Dimension":
        tensor.dim_value = number
    elif tensor.dims and rng.random() < 0.7:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = number
    else:
        tensor.dims.append(number)


def _renumber(model: onnx.ModelProto, rng: Generator) -> None:
    """The numbers of a small tensor (a shape, often) become extreme; its form stays sound."""
    tensors = [m for m in _messages(model) if m.DESCRIPTOR.name == "TensorProto"]
    kinds = (TensorProto.INT64, TensorProto.FLOAT)
    sound = [t for t in tensors if t.data_type in kinds and not t.data_location]
    if not sound:
        return
    tensor = _any(sound, rng)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError):
        return
    if not array.size:
        return
    value = _any(_INTEGERS if tensor.data_type == TensorProto.INT64 else _FLOATS, rng)
    array.reshape(-1)[int(rng.integers(array.size))] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute's number becomes extreme, or a node gets one of its operator's attributes."""
    nodes = [m for m in _messages(model) if m.DESCRIPTOR.name == "NodeProto"]
    if not nodes:
        return
    node = _any(nodes, rng)
    integer = int(_any(_INTEGERS, rng))
    if node.attribute and rng.random() < 0.6:
        attribute = _any(node.attribute, rng)
        if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = integer
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = _any(_FLOATS, rng)
        else:
            attribute.i = integer
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, 21, "")
    except onnx.defs.SchemaError:
        return
    known = sorted(schema.attributes)
    if known:
        name = _any(known, rng)
        kind = schema.attributes[name].type
        value: Any = integer
        if kind == onnx.defs.OpSchema.AttrType.INTS:
            value = [int(_any(_INTEGERS, rng)) for _ in range(int(rng.integers(1, 5)))]
        elif kind == onnx.defs.OpSchema.AttrType.FLOAT:
            value = float(_any(_FLOATS, rng))
        elif kind == onnx.defs.OpSchema.AttrType.STRING:
            value = _any(_TEXTS, rng)
        node.attribute.append(helper.make_attribute(name, value))


def _operator(model: onnx.ModelProto, rng: Generator) -> None:
    """A node becomes another operator, or another one follows the last."""
    nodes = [m for m in _messages(model) if m.DESCRIPTOR.name == "NodeProto"]
    if not nodes:
        return
    _any(nodes, rng).op_type = _any(_operators(), rng)


@functools.cache
def _operators() -> list[str]:
    return sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain})


def _external(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor's data moves to a file: a sound one, one outside, or one that is not there."""
    tensors = [m for m in _messages(model) if m.DESCRIPTOR.name == "TensorProto"]
    if not tensors:
        return
    tensor = _any(tensors, rng)
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.7:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    if rng.random() < 0.7:
        del tensor.external_data[:]
    good = rng.random() < 0.5
    tensor.external_data.add(key="location", value="w.bin" if good else _any(_LOCATIONS, rng))
    if rng.random() < 0.5:
        tensor.external_data.add(key="offset", value="0" if good else _any(_DIGITS, rng))
    if rng.random() < 0.5:
        tensor.external_data.add(key="length", value=_any(_DIGITS, rng))


def _nest(model: onnx.ModelProto, rng: Generator) -> None:
    """The graph goes into a branch of an If, several times over."""
    for _ in range(int(2 ** rng.integers(0, 6))):
        body = onnx.GraphProto()
        body.CopyFrom(model.graph)
        del body.input[:]
        if body.ByteSize() > 200_000:
            return
        node = helper.make_node("If", ["s"], [v.name for v in body.output])
        try:
            node.attribute.append(helper.make_attribute("then_branch", body))
        except (TypeError, ValueError):
            return
        del model.graph.node[:]
        model.graph.node.append(node)


def _call(model: onnx.ModelProto, rng: Generator) -> None:
    """The graph's nodes become a function, which may call itself."""
    name = _any(["Outer", "Inner", _any(_operators(), rng)], rng)
    function = model.functions.add(name=name, domain=_any(["local", "", "ai.onnx"], rng))
    function.opset_import.extend(model.opset_import)
    function.input.extend(v.name for v in model.graph.input)
    function.output.extend(v.name for v in model.graph.output)
    function.node.extend(model.graph.node)
    call = helper.make_node(name, function.input, function.output, domain=function.domain)
    if rng.random() < 0.5:
        function.node.append(call)
    for _ in range(int(2 ** rng.integers(0, 5))):
        model.graph.node.add().CopyFrom(call)


_CHANGES: tuple[Callable[[onnx.ModelProto, Generator], None], ...] = (
    _change_field,
    _change_field,
    _change_list,
    _graft,
    _rewire,
    _reshape,
    _renumber,
    _renumber,
    _attribute,
    _attribute,
    _operator,
    _external,
    _nest,
    _call,
)


# -- whole mutants -----------------------------------------------------------------------------


def mutant(seed: int, number: int) -> Mutant:
    """Mutant ``number`` of the run with ``seed``."""
    rng = np.random.default_rng([seed, number])
    kinds = list(_KINDS)
    kind = kinds[int(rng.choice(len(kinds), p=[_KINDS[k][0] for k in kinds]))]
    return _KINDS[kind][1](kind, rng)


def _seed(rng: Generator) -> tuple[str, bytes]:
    if rng.random() < 1 / 300:
        name = _any(LIGHT, rng)
        return f"light_{name}", light(name)
    names = [name for name, _ in seeds()]
    if rng.random() < 0.25:
        return seeds()[len(names) - 1 - int(rng.integers(len(_OWN)))]
    return _any(seeds(), rng)


def _model_bytes(kind: str, rng: Generator) -> Mutant:
    name, content = _seed(rng)
    return Mutant(kind, name, {"m.onnx": mutate_bytes(content, rng)})


def _model_structure(kind: str, rng: Generator) -> Mutant:
    name, content = _seed(rng)
    model = onnx.ModelProto.FromString(content)
    mutate_model(model, rng)
    content = model.SerializeToString()
    if rng.random() < 0.05:
        content = mutate_bytes(content, rng)
    return Mutant(kind, name, {"m.onnx": content})


def _model_external(kind: str, rng: Generator) -> Mutant:
    """A sound model with external data, then one or two changes of where that lies."""
    name = _any(["own-plain", "own-functions", "own-branches", "own-types"], rng)
    model = onnx.ModelProto.FromString(dict(seeds())[name])
    data, floats = bytearray(), [t for t in model.graph.initializer if t.data_type == 1]
    for tensor in floats:
        raw = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": "w.bin", "offset": str(len(data)), "length": str(len(raw))}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        data += raw
    for _ in range(int(rng.integers(1, 3))):
        tensor = _any([t for t in floats if t.external_data and t.dims] or floats, rng)
        entry = _any(tensor.external_data or [tensor.external_data.add()], rng)
        entry.value = _any(_LOCATIONS if entry.key == "location" else _DIGITS, rng)
        if tensor.dims and rng.random() < 0.2:
            tensor.dims[0] = int(_any(_INTEGERS, rng))
        if rng.random() < 0.2:
            mutate_model(model, rng)
    return Mutant(kind, name, {"m.onnx": model.SerializeToString(), "w.bin": bytes(data)})


def _sound_model() -> bytes:
    return dict(seeds())["own-plain"]


def _npz(kind: str, rng: Generator) -> Mutant:
    arrays: dict[str, Any] = {
        "x": rng.standard_normal((8, 4)).astype(np.float32),
        "target": rng.integers(0, 4, 8),
    }
    for name in list(arrays):
        if rng.random() < 0.2:
            dtype = _any(["<f2", ">f4", "<i1", "<U3", "<c8", "<M8[s]", "?", "O", "<f8"], rng)
            array = np.zeros(_any([(8, 4), (8,), (0, 4), (8, 0), ()], rng), dtype)
            arrays[name] = array
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", _any([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], rng)) as z:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            content = member.getvalue()
            match int(rng.integers(12)):
                case 0:
                    content = mutate_bytes(content, rng)
                case 1:
                    huge = str(_any([10**12, 2**40, -1, 2**70], rng)).encode()
                    content = content.replace(b"(8,", b"(" + huge + b",")
                case 2:
                    depth = int(rng.integers(1, 3000))
                    content = content.replace(b"(8,", b"(" * depth + b"8,")
            member_name = _any([*[name] * 9, "../x", "/x", "x"], rng)
            z.writestr(f"{member_name}.npy", content)
    content = stream.getvalue()
    if rng.random() < 0.3:
        content = mutate_bytes(content, rng)
    return Mutant(kind, "own-plain", {"m.onnx": _sound_model(), "d.npz": content})


def _scales(kind: str, rng: Generator) -> Mutant:
    content: dict[str, Any] = {
        "format": "graph-init/scales",
        "version": 1,
        "scales": {"w": 2.0, "b": 0.5},
        "provenance": {"a": "b"},
    }
    for _ in range(int(rng.integers(0, 3))):
        holder: Any = _any([content, content.get("scales")], rng)
        if isinstance(holder, dict):
            key = _any([*holder, "x", "s", "\x1b[2J", "\ud800"], rng)
            holder[key] = _any(
                [
                    None,
                    True,
                    -1,
                    0,
                    1e400,
                    10**400,
                    float("nan"),
                    "1",
                    [],
                    {},
                    1e-300,
                    2,
                    "\x1b[0m",
                ],
                rng,
            )
    text = json.dumps(content)
    if rng.random() < 0.2:
        text = text.replace("{", _any(["{" * 5000, '{"w":1,"w":2,', "[" * 100_000], rng), 1)
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        raw = mutate_bytes(raw, rng)
    return Mutant(kind, "own-plain", {"m.onnx": _sound_model(), "s.json": raw})


#: TunerSpec → (share, maker).
_KINDS: dict[str, tuple[float, Callable[[str, Generator], Mutant]]] = {
    "model, bytes": (0.25, _model_bytes),
    "model, structure": (0.5, _model_structure),
    "model, external data": (0.15, _model_external),
    "npz": (0.05, _npz),
    "scales": (0.05, _scales),
}


def lay_out(folder: Path) -> None:
    """What external data may point to, in ``folder`` and beside it."""
    (folder / "sub").mkdir(parents=True)
    (folder / "dir").mkdir()
    (folder.parent / "secret.bin").write_bytes(bytes(4096))
    (folder / "sub" / "w.bin").write_bytes(bytes(4096))
    (folder / ".bashrc").write_bytes(bytes(4096))
    (folder / "conftest.py").write_bytes(bytes(4096))
    (folder / "out.onnx").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "sub" / "link").symlink_to("../..")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
