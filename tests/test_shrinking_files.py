"""A file that becomes shorter while it is read: no signal ends the process without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_init.model import load
from graph_init.problem import data_files
from tests.small_models import model
from tests.test_hostile import external

SIDE = 1024  # so that the matrix has many pages of memory

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGBUS"), reason="Windows lets no file shrink that is mapped"
)

#: The program, with everything mapped that can be; the file shrinks once the weights are mapped.
PROGRAM = """
import os, sys
from graph_init.cli import cli
from graph_init.files import maps
maps.READ = 0
real = maps.of_file
def of_file(number, shown):
    whole = real(number, shown)
    if shown == sys.argv[1]:
        os.truncate(shown, 4096)
    return whole
maps.of_file = of_file
cli(sys.argv[2:])
"""


def _large(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((SIDE, SIDE)).astype(np.float32) / SIDE**0.5
    built = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIDE])],
        [numpy_helper.from_array(matrix, "w")],
    )
    path = folder / "m.onnx"
    onnx.save(built, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def _ends(shrinking: str, *command: str, folder: Path) -> tuple[int, str]:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, shrinking, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return found.returncode, found.stderr


def test_mapped_weights_that_are_cut_off_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _large(tmp_path)
    status, told = _ends("w.bin", "initialize", "m.onnx", "-o", "o.onnx", folder=tmp_path)
    assert (status, told) == (3, "error: data file w.bin has become shorter while it was read\n")
    assert not (tmp_path / "o.onnx").exists()


def test_mapped_arrays_that_are_cut_off_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _large(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("x", "target"):
        np.save(tmp_path / "d" / f"{name}.npy", np.ones((64, SIDE), np.float32))
    status, told = _ends("d/x.npy", "measure", "m.onnx", "--data", "d", folder=tmp_path)
    assert status == 3 and told.endswith("shorter while it was read\n") and "x.npy" in told


def test_a_fault_of_another_kind_ends_the_process_as_it_did(tmp_path: Path) -> None:
    """The signal goes to whoever handled it before: here nobody."""
    (tmp_path / "f").write_bytes(bytes(10))
    words = (
        "import mmap, os, resource; from graph_init.files import maps\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "whole = maps.of_file(os.open('f', os.O_RDWR), 'f')\n"
        "os.truncate('f', 1 << 16); other = mmap.mmap(os.open('f', os.O_RDWR), 1 << 16)\n"
        "whole.close(); os.truncate('f', 10); other[1 << 15]"
    )
    found = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, timeout=60)
    assert found.returncode == -signal.SIGBUS


def test_small_data_are_read_and_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mapped(*_: object) -> None:
        raise AssertionError("it is mapped")

    monkeypatch.setattr("graph_init.files.maps.of_file", mapped)
    held = load(external(tmp_path)).ir.graph.initializers["w"].const_value
    assert held is not None
    values = held.numpy().copy()
    np.save(tmp_path / "x.npy", values)
    arrays = data_files.read_folder(tmp_path)
    os.truncate(tmp_path / "w.bin", 0)
    os.truncate(tmp_path / "x.npy", 0)
    np.testing.assert_array_equal(held.numpy(), values)
    np.testing.assert_array_equal(arrays["x"], values)


def test_what_is_beyond_the_bound_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two arrays the first is read, and the bound holds for their sum."""
    monkeypatch.setattr("graph_init.files.maps.READ", 300)
    first, second = np.arange(30, dtype=np.float32), np.arange(60, dtype=np.float32)
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", np.asfortranarray(second.reshape(6, 10)))
    found = data_files.read_folder(tmp_path)
    assert isinstance(_owner(found["a"]), bytes) and not isinstance(_owner(found["b"]), bytes)
    np.testing.assert_array_equal(found["a"], first)
    np.testing.assert_array_equal(found["b"], second.reshape(6, 10))


def _owner(array: object) -> object:
    while isinstance(array, np.ndarray):
        array = array.base
    return array
