"""Known ways to attack programs that read and write ONNX files: each comes to nothing.

The names are those of the CVE list, of GitHub's advisories and of issues, for onnx and onnxruntime.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import GraphInitError, ModelFileError
from graph_init.model import load, save
from tests.small_models import model
from tests.test_hostile import RED, external, ints, layers, node, product, tensor, weight

#: As many bytes as the weights have, so that nothing but where they lie could be wrong.
SECRET = b"S" * 64


def _model(folder: Path, location: str = "w.bin", **entries: str) -> Path:
    """A model in ``folder`` of which the weights are said to lie at ``location``."""
    return external(folder, location=location, **entries)


def _final_link(folder: Path) -> Path:
    (folder / "link.bin").symlink_to("../secret")
    return _model(folder, "link.bin")


def _link_of_a_folder(folder: Path) -> Path:
    (folder / "sub").symlink_to("..")
    return _model(folder, "sub/secret")


def _deep_link(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "a" / "b").symlink_to("../..")
    return _model(folder, "a/b/secret")


def _chain_of_links(folder: Path) -> Path:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("../secret")
    return _model(folder, "one")


def _hard_link(folder: Path) -> Path:
    path = _model(folder)
    (folder / "w.bin").unlink()
    os.link(folder.parent / "secret", folder / "w.bin")
    return path


def _moved(tensor: TensorProto, location: str = "../secret") -> TensorProto:
    """``tensor`` with its data at ``location``."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _stored(folder: Path, built: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(built.SerializeToString())
    return path


def _constant(name: str = "k") -> onnx.NodeProto:
    found = node("Constant", [], [name], value=tensor("c"))
    _moved(found.attribute[0].t)
    return found


def _in_a_constant(folder: Path) -> Path:
    return _stored(folder, layers(_constant(), node("MatMul", ["x", "k"], ["y"])))


def _in_a_branch(folder: Path) -> Path:
    def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "branch", [], [out])

    yes = branch(_constant(), node("MatMul", ["x", "k"], ["b"]))
    no = branch(node("MatMul", ["x", "w"], ["b"]))
    condition = numpy_helper.from_array(np.array(True), "on")
    built = layers(node("If", ["on"], ["y"], then_branch=yes, else_branch=no), more=(condition,))
    return _stored(folder, built)


def _in_a_body(folder: Path) -> Path:
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["on"]),
            node("MatMul", ["at", "k"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("at", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        initializer=[_moved(tensor("k"))],
    )
    times = numpy_helper.from_array(np.array(2, np.int64), "times")
    built = layers(node("Loop", ["times", "", "x"], ["y"], body=body), more=(times,))
    return _stored(folder, built)


def _in_a_function(folder: Path) -> Path:
    nodes = [_constant(), node("MatMul", ["a", "k"], ["b"])]
    opset = helper.make_opsetid("", 17)
    built = layers(node("F", ["x"], ["y"], domain="local"))
    built.opset_import.append(helper.make_opsetid("local", 1))
    function = helper.make_function("local", "F", ["a"], ["b"], nodes=nodes, opset_imports=[opset])
    built.functions.append(function)
    return _stored(folder, built)


def _in_a_sparse_initializer(folder: Path) -> Path:
    """Also where the file is in the folder; it was looked for in the working folder."""
    built = product()
    values = _moved(numpy_helper.from_array(np.ones(16, np.float32), "w"))
    sparse = helper.make_sparse_tensor(values, ints("indices", *range(16)), [4, 4])
    del built.graph.initializer[:]
    built.graph.sparse_initializer.append(sparse)
    return _stored(folder, built)


def _in_the_indices_of_a_sparse_initializer(folder: Path) -> Path:
    built = product()
    values = numpy_helper.from_array(np.ones(8, np.float32), "w")
    sparse = helper.make_sparse_tensor(values, _moved(ints("indices", *range(8))), [4, 4])
    del built.graph.initializer[:]
    built.graph.sparse_initializer.append(sparse)
    return _stored(folder, built)


OUTSIDE, LINK = "is not inside the model's folder", "outside of the model's folder"
SPARSE = "sparse tensor .* has external data, which cannot be read"
#: What is attacked, how the model is laid out, and what is said of it.
READ: list[tuple[str, Callable[[Path], Path], str]] = [
    ("CVE-2022-25882", lambda f: _model(f, "../secret"), OUTSIDE),
    ("CVE-2022-25882, absolute", lambda f: _model(f, str(f.parent / "secret")), OUTSIDE),
    ("CVE-2024-27318", lambda f: _model(f, "a/../../secret"), OUTSIDE),
    ("CVE-2024-27318, no folder", lambda f: _model(f, "none/../../secret"), OUTSIDE),
    ("GHSA, a drive of Windows", lambda f: _model(f, "C:secret"), OUTSIDE),
    ("GHSA, a path of Windows", lambda f: _model(f, "..\\secret"), OUTSIDE),
    ("GHSA, a share of Windows", lambda f: _model(f, "\\\\host\\share\\secret"), OUTSIDE),
    ("CVE-2026-27489", _final_link, LINK),
    ("CVE-2026-34447, a link in a row", _chain_of_links, LINK),
    ("CVE-2026-34447, a parent", _link_of_a_folder, LINK),
    ("CVE-2026-34447, a parent deep inside", _deep_link, LINK),
    ("CVE-2026-34446", _hard_link, "has 2 names"),
    ("CVE-2026-34445, length", lambda f: _model(f, length="9" * 18), "its shape .* needs 64"),
    ("CVE-2026-34445, offset", lambda f: _model(f, offset="9" * 18), "are outside of data file"),
    ("a Constant's attribute", _in_a_constant, OUTSIDE),
    ("a branch of If", _in_a_branch, OUTSIDE),
    ("a body of Loop", _in_a_body, OUTSIDE),
    ("a function", _in_a_function, OUTSIDE),
    ("a sparse initializer", _in_a_sparse_initializer, SPARSE),
    ("its indices", _in_the_indices_of_a_sparse_initializer, SPARSE),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder beside a file that is none of the model's business."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize(("case", "lay_out", "words"), READ, ids=[c for c, _, _ in READ])
def test_nothing_outside_of_the_folder_is_read(
    case: str, lay_out: Callable[[Path], Path], words: str, folder: Path
) -> None:
    path = lay_out(folder)
    with pytest.raises(ModelFileError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelFileError, match=words):
        graph_init.inspect(path)


def test_unknown_keys_of_external_data_set_nothing(folder: Path) -> None:
    """CVE-2026-34445: keys became attributes of an object, whichever they were."""
    path = _model(folder, __class__="int", basepath="..", file_size="9" * 18, nbytes="0")
    read = load(path).ir.graph.initializers["w"].const_value
    assert read is not None
    np.testing.assert_array_equal(read.numpy(), numpy_helper.to_array(weight(product())))


@pytest.mark.parametrize(
    "location", ["../target", "a/../../target", "/tmp/graph-init-target", "link/target", "C:\\t"]
)
def test_nothing_outside_of_the_folder_is_written(location: str, folder: Path) -> None:
    """CVE-2025-51480: a location led the writer out of the output's folder.

    The model has passed the reader with another location, as one in memory may have.
    """
    loaded = load(_model(folder))
    out = folder.parent / "out"
    out.mkdir()
    (out / "link").symlink_to("..")
    known = loaded.data_files
    known._files[location] = known._file("w.bin")
    weight(loaded.proto).external_data[0].value = location
    before = _listed(folder.parent)
    written = save(loaded, {}, out / "o.onnx")
    assert written == []
    changed = {name for name in _listed(folder.parent) ^ before if not name.startswith("out/")}
    assert changed == set() and not Path("/tmp/graph-init-target").exists()
    again = load(out / "o.onnx").ir.graph.initializers["w"].const_value
    assert again is not None
    np.testing.assert_array_equal(again.numpy(), numpy_helper.to_array(weight(product())))


def _listed(folder: Path) -> set[str]:
    found = set()
    for here, _, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(here, file), folder) for file in files}
    return found


def test_long_names_in_the_checkers_message(folder: Path) -> None:
    """CVE-2024-27319: a message that did not fit into its buffer was read beyond its end."""
    for length in (2047, 2048, 2049, 100_000):
        built = layers(node("Conv", ["x", "w"], ["y"], "n" * length, kernel_shape="a" * length))
        with pytest.raises(GraphInitError) as raised:
            load(_stored(folder, built))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 2000


def test_archives_are_not_unpacked() -> None:
    """CVE-2024-5187 and CVE-2026-28500: onnx' downloader, which nothing here imports."""
    program = Path(graph_init.__file__).parent
    used = [p.name for p in program.rglob("*.py") if "tarfile" in p.read_text("utf-8")]
    used += [p.name for p in program.rglob("*.py") if "onnx.hub" in p.read_text("utf-8")]
    assert used == []


# -- what ends native processes ------------------------------------------------------------------


def _image(*nodes: onnx.NodeProto, weights: tuple[int, ...] = (4, 4, 3, 3)) -> onnx.ModelProto:
    """x of 4 channels → ``nodes`` → y, with the weights w of this shape."""
    return model(
        list(nodes),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor("w", weights)],
    )


CONV = node("Conv", ["x", "w"], ["c"])
#: Models that ended the engine, onnx, or this program with other words than its own.
ABORTING: dict[str, onnx.ModelProto] = {
    "a stride below zero": _image(node("ConvTranspose", ["x", "w"], ["y"], strides=[-1, -1])),
    "a dilation of 2^62": _image(
        CONV, node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], dilations=[2**62, 2**62])
    ),
    "a dilation of 2^40": _image(
        CONV, node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], dilations=[2**40, 2**40])
    ),
    "Conv with contradicting ranks (onnxruntime 28731)": _image(
        node("Conv", ["x", "w"], ["y"]), weights=(4, 4)
    ),
    "an axis twice": _image(CONV, node("Transpose", ["c"], ["y"], perm=[0, 0, 2, 3])),
    "an endless Resize": model(
        [CONV, node("Resize", ["c", "", "scales"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            tensor("w", (4, 4, 3, 3)),
            numpy_helper.from_array(np.array([1, 1, 1e9, 1e9], np.float32), "scales"),
        ],
    ),
    "a size below zero": layers(
        node("MatMul", ["x", "w"], ["h"]),
        node("Reshape", ["h", "s"], ["y"]),
        more=(ints("s", -2, 4),),
    ),
    "a size of 2^62": layers(
        node("MatMul", ["x", "w"], ["h"]),
        node("Reshape", ["h", "s"], ["y"]),
        more=(ints("s", 2**62, 4),),
    ),
    "padding without end": layers(
        node("MatMul", ["x", "w"], ["h"]),
        node("Pad", ["h", "s"], ["y"]),
        more=(ints("s", 0, 2**62, 0, 2**62),),
    ),
    "groups that do not divide": _image(node("Conv", ["x", "w"], ["y"], f"a\n{RED}", group=3)),
    "an index out of range": layers(
        node("Gather", ["w", "s"], ["g"], f"a\n{RED}\u2028"),
        node("MatMul", ["x", "g"], ["y"]),
        more=(ints("s", 0, 1, 2, 99),),
    ),
}


@pytest.mark.parametrize("case", ABORTING)
def test_what_ended_processes_is_one_line(case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _stored(tmp_path, ABORTING[case])
    words = [sys.executable, "-m", "graph_init", "measure", "m.onnx"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode in (3, 4), found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert not set(found.stderr) & set("\x1b\r\u2028\x07") and "unexpected" not in found.stderr


def test_what_libraries_log_and_warn_of_is_one_line_each() -> None:
    """Names of a model came out of a library's logging as they are."""
    words = (
        "import logging, warnings; from graph_init.cli import process; process.prepare()\n"
        r"name = 'a\nerror: fake\r\n\x1b[31m\u202e\x9b\u2028'" + "\n"
        "logging.getLogger('onnx_ir.serde').warning('no value %s in any scope', name)\n"
        "warnings.warn(name)"
    )
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, timeout=60)
    told = found.stderr.decode().replace("\r\n", "\n")  # as Windows ends lines
    assert told.count("\n") == 2 and told.startswith("warning: onnx_ir.serde: no value a\\n")
    assert not set(told) & set("\x1b\r\u202e\x9b\u2028")
