"""External data is opened once: what has been checked is what is read, whatever takes its name."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, numpy_helper

from graph_init.errors import ModelFileError
from graph_init.model import load, save
from tests.test_hostile import external, weight

SECRET = np.full((4, 4), 7, np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model in a folder of its own, beside which there is a secret of its data's size."""
    (tmp_path / "secret").write_bytes(SECRET.tobytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return external(tmp_path / "in")


def values(path: Path) -> np.ndarray:
    return np.frombuffer((path.parent / "w.bin").read_bytes(), np.float32).reshape(4, 4)


def swap(path: Path) -> None:
    """The data file's name becomes a link to the secret."""
    (path.parent / "w.bin").unlink()
    (path.parent / "w.bin").symlink_to("../secret")


def test_a_link_that_comes_after_the_check_is_not_read(tmp_path: Path, path: Path) -> None:
    own = values(path)
    loaded = load(path)
    swap(path)
    save(loaded, {}, tmp_path / "out" / "out.onnx")
    assert (tmp_path / "out" / "w.bin").read_bytes() == own.tobytes()
    held = loaded.ir.graph.initializers["w"].const_value
    assert held is not None
    np.testing.assert_array_equal(held.numpy(), own)
    assert held.tobytes() == own.tobytes()


def test_a_link_that_comes_and_goes_is_never_followed(tmp_path: Path, path: Path) -> None:
    """The data file and a link to the secret change places all the time."""
    own = values(path)
    folder = path.parent
    (folder / "link").symlink_to("../secret")
    over = threading.Event()

    def change_places() -> None:
        while not over.is_set():
            os.rename(folder / "w.bin", folder / "file")
            os.rename(folder / "link", folder / "w.bin")
            os.rename(folder / "w.bin", folder / "link")
            os.rename(folder / "file", folder / "w.bin")

    other = threading.Thread(target=change_places)
    other.start()
    try:
        for number in range(100):
            out = tmp_path / "out" / f"{number}.onnx"
            try:
                save(load(path), {}, out)
            except ModelFileError:
                continue
            written = onnx.load(out)
            np.testing.assert_array_equal(numpy_helper.to_array(weight(written)), own)
    finally:
        over.set()
        other.join()


def test_more_files_than_are_held_have_to_stay_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph_init.model.opened_data.HELD", 0)
    own = values(path)
    held = load(path).ir.graph.initializers["w"].const_value
    assert isinstance(held, onnx_ir.ExternalTensor)
    np.testing.assert_array_equal(held.numpy(), own)
    (path.parent / "new").write_bytes(SECRET.tobytes())
    os.replace(path.parent / "new", path.parent / "w.bin")
    with pytest.raises(ModelFileError, match=r"w\.bin has been replaced since it was checked"):
        held.tobytes()
    swap(path)
    with pytest.raises(ModelFileError, match=r"w\.bin can no longer be opened"):
        held.tobytes()


def test_hard_links_are_refused_in_one_line(tmp_path: Path, path: Path) -> None:
    (path.parent / "w.bin").unlink()
    os.link(tmp_path / "secret", path.parent / "w.bin")
    with pytest.raises(ModelFileError, match=r"w\.bin has 2 names \(hard links\).*by a copy"):
        load(path)


def test_a_file_that_becomes_shorter_is_an_error_of_one_line(path: Path) -> None:
    held = load(path).ir.graph.initializers["w"].const_value
    assert held is not None
    os.truncate(path.parent / "w.bin", 60)
    with pytest.raises(ModelFileError, match=r"w\.bin has become shorter"):
        held.tobytes()
    with pytest.raises(ModelFileError, match=r"w\.bin has become shorter"):
        held.numpy()


def test_elements_of_half_a_byte_are_unpacked(tmp_path: Path) -> None:
    built = onnx.load(external(tmp_path), load_external_data=False)
    packed = TensorProto(name="packed", data_type=TensorProto.UINT4, dims=[4])
    packed.data_location = TensorProto.EXTERNAL
    packed.external_data.add(key="location", value="p.bin")
    (tmp_path / "p.bin").write_bytes(bytes([0x21, 0x43]))
    built.graph.initializer.append(packed)
    built.opset_import[0].version = 21
    built.ir_version = 10
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    held = load(tmp_path / "m.onnx").ir.graph.initializers["packed"].const_value
    assert isinstance(held, onnx_ir.ExternalTensor)
    np.testing.assert_array_equal(held.numpy().astype(int), [1, 2, 3, 4])
