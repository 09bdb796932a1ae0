"""Whatever is read by its name is a regular file of a bounded size, or one clear line is said."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from graph_init.errors import GraphInitError, ModelFileError, OutputError, UsageError
from graph_init.files import opening
from graph_init.model import data_files as written_data
from graph_init.model import load, scales_file
from graph_init.output import debug_log, ledger
from graph_init.problem import data_files
from graph_init.zoo import catalog, inputs, isolation, journal, lock, size
from graph_init.zoo.store import Folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices with names are POSIX")

#: What takes the place of a file; the last one has a size, and is a file.
PLANTED: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "link to a pipe": lambda path: (
        os.mkfifo(path.with_name("fifo")),
        path.symlink_to(path.with_name("fifo")),
    ),
    "link to zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


def _held(folder: Path) -> None:
    with lock.held(Folder(str(folder)), "run"):
        pass


def _journal(folder: Path) -> list[str]:
    with journal.opened(Folder(str(folder))) as book:
        return [name for name in ("a",) if name in book]


def _settings(folder: Path) -> object:
    here = Path.cwd()
    os.chdir(folder)
    try:
        return importlib.import_module("graph_init.cli.check").settings()
    finally:
        os.chdir(here)


#: Who reads: the file's name, the call with its folder, and the error or the value that it gives.
READERS: dict[str, tuple[str, Callable[[Path], object], Any]] = {
    "model": ("m.onnx", lambda f: load(f / "m.onnx"), ModelFileError),
    "scales": ("s.json", lambda f: scales_file.read(f / "s.json"), ModelFileError),
    "archive": ("d.npz", lambda f: data_files.read_npz(f / "d.npz"), UsageError),
    "array": ("x.npy", data_files.read_folder, UsageError),
    "settings": ("pyproject.toml", _settings, UsageError),
    "old output": ("m.onnx", lambda f: written_data.own_data_files(f / "m.onnx"), []),
    "debug log": ("log", lambda f: debug_log.begin(str(f / "log")), UsageError),
    "digest": ("m.onnx", lambda f: inputs.digest(str(f / "m.onnx")), None),
    "locations": ("m.onnx", lambda f: len(inputs.bring(str(f / "m.onnx"), f)[1]), 1),
    "manifest": ("z.yaml", lambda f: catalog.collect([f"{f}/z.yaml"], "out", {}), ModelFileError),
    "overview": ("zoo.json", lambda f: Folder(str(f)).read("zoo.json"), ModelFileError),
    "zoo's journal": ("journal.jsonl", _journal, OutputError),
    "zoo's lock": (".lock", _held, OutputError),
    "last words": ("log", lambda f: isolation._last_words(f / "log"), ""),
}
#: These read a file of any size, a piece at a time, or only tell how large it is.
UNBOUNDED = {"digest", "locations", "debug log", "zoo's journal", "zoo's lock", "last words"}
CASES = [
    (reader, kind)
    for reader in READERS
    for kind in PLANTED
    if not (kind == "terabyte" and reader in UNBOUNDED)
    and not (kind == "folder" and reader == "array")
]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """The test ends if the block waits for a pipe, or reads without end."""

    def late(*_: object) -> None:
        pytest.fail(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_what_is_no_regular_file_is_one_line(reader: str, kind: str, tmp_path: Path) -> None:
    name, call, expected = READERS[reader]
    PLANTED[kind](tmp_path / name)
    with within(20):
        if isinstance(expected, type):
            with pytest.raises(expected) as raised:
                call(tmp_path)
            assert isinstance(raised.value, GraphInitError)
            assert "\n" not in str(raised.value) and name in str(raised.value)
        else:
            assert call(tmp_path) == expected


def test_a_model_that_is_no_file_has_no_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with within(20):
        assert [size.of_file(tmp_path / "m.onnx"), size.of_file(Path("/dev/zero"))] == [0, 0]


def test_a_note_of_the_programs_own_that_became_a_pipe_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ledger.write(tmp_path / "m.onnx", {"a": (1, 2, 3)})
    (note,) = (tmp_path / "graph-init" / "written").iterdir()
    note.unlink()
    os.mkfifo(note)
    with within(20):
        assert ledger.read(tmp_path / "m.onnx") == {}


@pytest.mark.parametrize("name", [".lock", "journal.jsonl"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_what_a_run_writes_to_does_not_lead_into_another_file(
    name: str, link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """A link planted in the output's folder would have another file cut, or lines put into it."""
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("ten years")
    (tmp_path / "out").mkdir()
    link(thesis, tmp_path / "out" / name)
    with pytest.raises(OutputError, match=r"it is a link, or a file with another name"):
        (_held if name == ".lock" else _journal)(tmp_path / "out")
    assert thesis.read_text() == "ten years"


def test_a_file_that_grows_while_it_is_read_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"1234")
    real = os.fstat

    def fstat(number: int) -> os.stat_result:
        found = real(number)
        with path.open("ab") as stream:
            stream.write(b"5")
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(OSError, match="it grows while it is read"):
        opening.read(path, 100)


def test_a_line_of_the_journal_without_end_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_LONGEST", 100)
    (tmp_path / "journal.jsonl").write_bytes(bytes(1000) + b'\n{"name": "a"}\n' + b"[" * 90)
    assert _journal(tmp_path) == ["a"]
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"[\n")


def _varint(number: int) -> bytes:
    return bytes([*(number >> 7 * k & 0x7F | 0x80 for k in range(4)), number >> 28])


def _sparse_model(path: Path, size: int) -> None:
    """A model with a tensor of ``size`` bytes, which are a hole, and one with a data file."""
    tail = TensorProto(name="b", data_type=TensorProto.FLOAT, dims=[1])
    tail.data_location = TensorProto.EXTERNAL
    tail.external_data.add(key="location", value="m.b.data")
    tail.external_data.add(key="offset", value="0")
    last = b"\x2a" + _varint(tail.ByteSize()) + tail.SerializeToString()
    held = TensorProto(name="a", data_type=TensorProto.FLOAT, dims=[size // 4]).SerializeToString()
    held += b"\x4a" + _varint(size)
    first = b"\x2a" + _varint(len(held) + size) + held
    graph = b"\x3a" + _varint(len(first) + size + len(last)) + first
    with path.open("wb") as stream:
        stream.write(graph)
        stream.seek(size, os.SEEK_CUR)
        stream.write(last)


def test_a_large_old_output_is_not_read_as_a_whole(tmp_path: Path) -> None:
    _sparse_model(tmp_path / "m.onnx", 1_900_000_000)
    (tmp_path / "m.b.data").write_bytes(bytes(4))
    words = (
        "import resource; from pathlib import Path; from graph_init.model import data_files\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "print(*[p.name for p in data_files.own_data_files(Path('m.onnx'))])"
    )
    found = subprocess.run(
        [sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (found.stdout, found.stderr) == ("m.b.data\n", "")


def test_a_zoo_does_not_write_behind_a_link_in_its_output(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "out"))
    store.create()
    (tmp_path / "away").mkdir()
    (tmp_path / "done" / "deep").mkdir(parents=True)
    (tmp_path / "done" / "deep" / "m.onnx").write_text("new")
    (store.path / "deep").symlink_to(tmp_path / "away")
    with pytest.raises(OutputError, match=r"deep' is, or is behind, a link"):
        store.place(tmp_path / "done", ["deep/m.onnx"])
    (store.path / ".scratch").symlink_to(tmp_path / "away")
    with pytest.raises(OutputError, match=r"\.scratch' is, or is behind, a link"):
        store.begin("run")
    assert list((tmp_path / "away").iterdir()) == []
