"""Nothing is deleted that this program has not written, whatever journals or models name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import graph_init
from graph_init.model import load, save
from tests import faults

JOURNAL = ".graph-init.0123456789abcdef.journal"


def _state(folder: Path) -> dict[str, bytes | None]:
    """The content of everything in ``folder``; pipes and links as they are."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def _apply(folder: Path, out: str = "out.onnx") -> None:
    """The command line, which must end by itself, and change nothing but ``out`` and its data."""
    (folder / "s.json").write_text(
        json.dumps({"format": "graph-init/scales", "version": 1, "scales": {"a": 2.0}})
    )
    before = _state(folder)
    words = [sys.executable, "-m", "graph_init", "apply", "s.json", "in.onnx", "-o", out]
    found = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    after = _state(folder)
    assert {k: v for k, v in before.items() if after.get(k, b"gone") != v and k != out} == {}


def _planted(folder: Path) -> dict[str, str]:
    thesis = folder / "thesis.tex"
    thesis.write_text("ten years")
    status = thesis.stat()
    marks = [status.st_ino, status.st_size, status.st_mtime_ns]
    noted = {"model": "none.onnx", "files": {"thesis.tex": marks}}
    older = {"model": "none.onnx", "files": {"thesis.tex": status.st_ino}}
    inodes = {f"{'./' * k}thesis.tex": [k, *marks[1:]] for k in range(1000)}
    # A journal of an earlier version, in which it said what to remove.
    return {
        "as noted": json.dumps(noted),
        "as older versions": json.dumps(older),
        "guessing inodes": json.dumps({"model": "none.onnx", "files": inodes}),
        "nested deeply": "[" * 100_000,
        "an infinite number": '{"model": "m.onnx", "files": {"thesis.tex": Infinity}}',
        "no text": "\xff\x00",
        "nothing": "",
    }


@pytest.mark.parametrize("name", sorted(_planted(Path("/tmp"))) if os.name == "posix" else [])
def test_a_planted_journal_deletes_nothing(name: str, tmp_path: Path) -> None:
    faults.store(tmp_path / "in.onnx", 1, True)
    (tmp_path / JOURNAL).write_text(_planted(tmp_path)[name], encoding="latin-1")
    _apply(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "ten years"


@pytest.mark.parametrize("kind", ["pipe", "link to zeros", "link to a pipe"])
def test_a_journal_that_is_no_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    faults.store(tmp_path / "in.onnx", 1, True)
    if kind == "pipe":
        os.mkfifo(tmp_path / JOURNAL)
    elif kind == "link to zeros":
        (tmp_path / JOURNAL).symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / JOURNAL).symlink_to("pipe")
    _apply(tmp_path)
    assert os.path.lexists(tmp_path / JOURNAL)


@pytest.mark.parametrize("location", ["in.tar.gz", "in.onnx.orig", "sub/in.txt"])
def test_an_old_model_that_names_files_takes_none_with_it(location: str, tmp_path: Path) -> None:
    """The model is written onto itself: what it named begins with its own name."""
    path = tmp_path / location
    path.parent.mkdir(exist_ok=True)
    onnx.save(
        faults.matrix(1),
        tmp_path / "in.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="in.data",
    )
    path.write_bytes((tmp_path / "in.data").read_bytes())
    model = onnx.load(tmp_path / "in.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, tmp_path / "in.onnx")
    _apply(tmp_path, "in.onnx")
    assert path.exists()


def _write(folder: Path, out: str = "out.onnx") -> list[Path]:
    return save(load(folder / "in.onnx"), {}, folder / out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = tmp_path / "models"
    made.mkdir()
    faults.store(made / "in.onnx", 1, True)
    return made


def _data(folder: Path) -> list[str]:
    return sorted(n for n in os.listdir(folder) if n.endswith(".data"))


def test_what_it_has_written_itself_goes(folder: Path) -> None:
    for name in ("out.in.data", "out.in.1.data", "out.in.data"):
        assert _write(folder) == [] and _data(folder) == ["in.data", name]


def test_what_somebody_else_has_put_there_stays_and_is_said(folder: Path) -> None:
    _write(folder)
    content = (folder / "out.in.data").read_bytes()
    (folder / "other").write_bytes(content)
    os.replace(folder / "other", folder / "out.in.data")
    assert _write(folder) == [folder / "out.in.data"]
    assert _data(folder) == ["in.data", "out.in.1.data", "out.in.data"]
    assert (folder / "out.in.data").read_bytes() == content


def test_a_file_that_was_changed_in_place_stays(folder: Path) -> None:
    _write(folder)
    with (folder / "out.in.data").open("r+b") as stream:
        stream.write(b"changed")
    os.utime(folder / "out.in.data", ns=(0, 0))
    assert _write(folder) == [folder / "out.in.data"]


def test_without_a_place_for_notes_nothing_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "in.onnx"))
    _write(folder)
    assert _write(folder) == [folder / "out.in.data"]


@pytest.mark.skipif(
    os.name != "posix", reason="it sets permissions of POSIX systems; run on Linux or macOS"
)
def test_notes_where_others_may_write_say_nothing(folder: Path) -> None:
    _write(folder)
    (folder.parent / "state" / "graph-init" / "written").chmod(0o777)
    assert _write(folder) == [folder / "out.in.data"]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"out.in.data": [Infinity, 1, 1]}', '{"a": 1}', "\xff", "", "[]"]
)
def test_a_note_that_cannot_be_read_says_nothing(folder: Path, content: str) -> None:
    _write(folder)
    (note,) = (folder.parent / "state" / "graph-init" / "written").iterdir()
    note.write_text(content, encoding="latin-1")
    assert _write(folder) == [folder / "out.in.data"]


def test_the_result_says_what_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "in.onnx"))
    result = graph_init.apply(
        {"format": "graph-init/scales", "version": 1, "scales": {"a": 2.0}}, folder / "in.onnx"
    )
    result.save(folder / "out.onnx")
    assert result.notes == []
    result.save(folder / "out.onnx")
    assert len(result.notes) == 1 and "out.in.data" in result.notes[0]
