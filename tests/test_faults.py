"""Whatever goes wrong in writing: the old output is there, or the new one, and a reason."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

import graph_init
from graph_init.errors import OutputError, UsageError
from graph_init.model import load, save, scales_file
from graph_init.output import folders, signals, transaction
from tests import jitter
from tests.faults import (
    CASES,
    fail_everywhere,
    kill_everywhere,
    listing,
    store,
    strays,
    values,
)
from tests.small_models import deep_mlp, plain_cnn

ROOT = Path(__file__).parent.parent
is_root = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="it mounts file systems, which only root may do; run the tests as root",
)


def double(source: Path, out: Path, factor: float = 2) -> None:
    loaded = load(source)
    new = {n: np.full((3, 3), factor, np.float32) for n in loaded.ir.graph.initializers}
    save(loaded, new, out)


def command(*arguments: Any, **environment: str | None) -> list[Any]:
    """The command line in a process of its own: arguments, and variables (None: unset)."""
    inherited = {**os.environ, "PYTHONPATH": jitter.python_path(), **environment}
    env = {k: v for k, v in inherited.items() if v is not None}
    return [[sys.executable, "-m", "graph_init", *map(os.fsdecode, arguments)], env]


def run(*arguments: Any, cwd: Path | None = None, **environment: str | None) -> Any:
    words, env = command(*arguments, **environment)
    return subprocess.run(words, env=env, capture_output=True, cwd=cwd, timeout=120)


def shell(script: str, *arguments: Any) -> Any:
    """``script`` in a shell in which ``$@`` is the command line."""
    words, env = command(*arguments)
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], env=env, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_fails_changes_nothing(name: str, tmp_path: Path) -> None:
    found = fail_everywhere(CASES[name], tmp_path / "w")
    assert found.faults > 5
    assert (found.lost, found.left, found.unclear) == (0, 0, 0)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_process_leaves_the_old_or_the_new(name: str, tmp_path: Path) -> None:
    found = kill_everywhere(CASES[name], tmp_path / "w")
    assert found.faults > 5
    assert (found.lost, found.left) == (0, 0)
    if name not in ("model and scales", "folder with another file"):
        assert found.between == 0


def test_a_pair_that_a_kill_has_parted_is_made_whole_by_apply(tmp_path: Path) -> None:
    source, out, scales = (tmp_path / n for n in ("in.onnx", "out.onnx", "s.json"))
    onnx.save(plain_cnn(3), source)
    result = graph_init.initialize(source, updates=2)
    result.save(out, scales=scales)
    whole = values(out)
    onnx.save(plain_cnn(3, seed=1), out)  # as if the model had not been written
    graph_init.apply(scales, source).save(out)
    assert values(out) == whole
    with pytest.raises(UsageError, match="the model itself"):
        result.save(out, scales=source)
    with pytest.raises(UsageError, match="the model itself"):
        result.save(out, scales=out)


def test_an_interrupt_waits_for_what_belongs_together(tmp_path: Path) -> None:
    out = tmp_path / "out"
    double_interrupt = False
    with pytest.raises(KeyboardInterrupt):
        with signals.undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            double_interrupt = True
    assert double_interrupt
    with pytest.raises(KeyboardInterrupt):
        with transaction.Transaction() as t, t.file(out) as stream:
            stream.write(b"half")
            os.kill(os.getpid(), signal.SIGINT)
    assert not listing(tmp_path)


def test_two_runs_at_once(tmp_path: Path) -> None:
    """Four processes write one output again and again; data files are never mixed up."""
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    store(source, 1, external=True)
    rounds = 12
    children = []
    for factor in range(2, 6):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(rounds):
                    double(source, out, factor)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    whole = [[np.full((3, 3), f, np.float32).tobytes()] * 2 for f in range(2, 6)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert values(out) in whole
    assert not strays(tmp_path)


def in_child(action: Callable[[], None]) -> str:
    """What ``action`` raises in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = "nothing"
        try:
            action()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as stream:
        return stream.read()


@pytest.mark.parametrize("limit", [0, 1, 100, 4096, 20000])
def test_a_file_that_may_not_grow(limit: int, tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(plain_cnn(10), source)
    store(out, 1, external=False)
    before = listing(tmp_path)

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(load(source), {}, out)

    assert "OutputError" in in_child(write) and source.stat().st_size > 20000
    assert listing(tmp_path) == before


@is_root
@pytest.mark.parametrize("option", ["size=16k", "ro"])
def test_a_full_disk_and_a_read_only_one(option: str, tmp_path: Path) -> None:
    disk, source = tmp_path / "disk", tmp_path / "in.onnx"
    disk.mkdir()
    onnx.save(plain_cnn(10), source)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("mount was refused although this is root; run where CAP_SYS_ADMIN is granted")
    try:
        words = "No space left on device" if option != "ro" else "read-only"
        with pytest.raises(OutputError, match=words):
            graph_init.apply(
                {"format": "graph-init/scales", "version": 1, "scales": {}}, source
            ).save(disk / "out.onnx")
        for model in (source, deep_mlp(1, 64)):  # the checkpoint is written by the engine
            with pytest.raises(
                OutputError, match=words if model is source else f"{words}|MB are free"
            ):
                graph_init.write_artifacts(model, disk / "training")
        assert not listing(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_another_file_system_than_the_input(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(
            "it writes to a second file system, /dev/shm, which is absent, read-only or that of "
            "the temporary folder; give pytest another --basetemp"
        )
    source, out = tmp_path / "in.onnx", elsewhere / f"graph-init-{tmp_path.name}.onnx"
    store(source, 1, external=False)
    try:
        double(source, out)
        assert values(out) == [np.full((3, 3), 2, np.float32).tobytes()] * 2
    finally:
        out.unlink(missing_ok=True)


def test_what_an_output_may_not_be(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    store(source, 1, external=True)
    os.mkfifo(tmp_path / "pipe")
    os.symlink("circle", tmp_path / "circle")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere" / "real.onnx", tmp_path / "link.onnx")
    before = listing(tmp_path)
    for out, word in (
        (tmp_path / "pipe", "is a pipe"),
        ("/dev/null", "is a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "circle", "in a circle"),
        (tmp_path / "none" / "out.onnx", "does not exist"),
        (tmp_path / "in.data", "the input's external data"),
        (tmp_path / "link.onnx", "beside the link"),
    ):
        with pytest.raises(UsageError, match=word):
            double(source, Path(out))
    with pytest.raises(OutputError, match="File name too long"):
        double(source, tmp_path / f"{'n' * 300}.onnx")
    with pytest.raises(UsageError, match="is a file"):
        with folders.replaced(source):
            pass
    assert listing(tmp_path) == before


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    source, real, link = (tmp_path / n for n in ("in.onnx", "real.onnx", "link.onnx"))
    store(source, 1, external=False)
    os.symlink("real.onnx", link)
    for factor in (2, 3):  # it leads nowhere at first
        double(source, link, factor)
        assert link.is_symlink() and not real.is_symlink()
        assert values(real) == [np.full((3, 3), factor, np.float32).tobytes()] * 2


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    store(source, 1, external=False)
    old = os.umask(0o027)
    try:
        double(source, out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o640
        out.chmod(0o664)
        double(source, out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o664
        with folders.replaced(tmp_path / "new") as at:
            (at / "file").write_text("")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
        (tmp_path / "new").chmod(0o775)
        with folders.replaced(tmp_path / "new") as at:
            (at / "file").write_text("")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o775
    finally:
        os.umask(old)


@is_root
def test_write_protected_for_others_than_root(tmp_path: Path) -> None:
    source, out, locked = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "locked"
    store(source, 1, external=False)
    out.write_bytes(b"mine")
    out.chmod(0o444)
    locked.mkdir()
    locked.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o777)

    def write(to: Path) -> Callable[[], None]:
        def action() -> None:
            loaded = load(source)
            os.setuid(65534)
            save(loaded, {}, to)

        return action

    assert "out.onnx: the file is write-protected" in in_child(write(out))
    assert f"the folder {locked} is read-only" in in_child(write(locked / "out.onnx"))
    assert out.read_bytes() == b"mine" and not listing(locked)


@pytest.mark.parametrize("name", ["-模 型\n.onnx".encode(), b"\xff\xfe.onnx"])
def test_names_of_all_kinds(name: bytes, tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / os.fsdecode(name)
    scales = tmp_path / "s.json"
    store(source, 1, external=True)
    scales_file.write(scales, {"a": 2.0}, {})
    found = run("apply", scales, source, "-o", out, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert found.returncode == 0, found.stderr
    assert found.stdout.isascii() and b"1 tensors scaled" in found.stdout
    twice, once = (np.full((3, 3), f, np.float32).tobytes() for f in (2, 1))
    assert values(out) == [twice, once]
    missing = run("inspect", os.fsencode(out) + b"x", PYTHONIOENCODING="ascii")
    assert missing.returncode == 3 and b"No such file" in missing.stderr


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ('"$@" | head -1', 0, b""),
        ('"$@" --json | true; exit ${PIPESTATUS[1]}', 0, b""),
        ('"$@" > /dev/full', 1, b"cannot write to standard output: No space left on device"),
        ('"$@" >&-', 0, b""),
        ('"$@" >&- 2>&- <&-', 0, b""),
        ('mkdir -p "$0.d"; cd "$0.d"; rmdir "$PWD"; "$@"', 2, b"working folder has been deleted"),
    ],
)
def test_streams_that_are_closed_or_full(
    script: str, status: int, said: bytes, tmp_path: Path
) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(plain_cnn(60), source)  # more lines than a pipe holds
    found = shell(script.replace("$0.d", str(tmp_path / "gone")), "inspect", source)
    assert found.returncode == status, found.stderr
    assert said in found.stderr and (said or not found.stderr), found.stderr
    assert b"Traceback" not in found.stderr and b"Exception ignored" not in found.stderr


def test_closed_streams_do_not_get_into_the_output(tmp_path: Path) -> None:
    source, out, scales = (tmp_path / n for n in ("in.onnx", "out.onnx", "s.json"))
    store(source, 1, external=False)
    scales_file.write(scales, {"a": 2.0}, {})
    found = shell('"$@" >&- 2>&- <&-', "apply", scales, source, "-o", out)
    assert found.returncode == 0
    twice, once = (np.full((3, 3), f, np.float32).tobytes() for f in (2, 1))
    assert values(out) == [twice, once]
    clash = run("apply", scales, source, "-o", scales)
    assert clash.returncode == 2 and b"is the scales file" in clash.stderr


def engine_is_loaded(pid: int) -> bool:
    """Whether the process ``pid``, or one that it has started, is at work."""
    with contextlib.suppress(OSError, psutil.Error):
        found = psutil.Process(pid)
        each = (p.pid for p in (found, *found.children(recursive=True)))
        return any("onnxruntime_pybind" in Path(f"/proc/{p}/maps").read_text() for p in each)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_and_leaves_the_old_output(number: int, tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(plain_cnn(3), source)
    out.write_bytes(b"mine")
    # A comparison that would take hours; in tuning, an interrupt keeps the best so far.
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3, 8, 8), np.float32), target=np.arange(20) % 10)
    before = listing(tmp_path)
    words, env = command(
        "compare",
        source,
        "--data",
        tmp_path / "d.npz",
        "-o",
        tmp_path / "c",
        "--no-tune",
        "--updates",
        "100000000",
        "--seeds",
        "1",
    )
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not engine_is_loaded(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    expected = {signal.SIGINT: (1, b"interrupted")}.get(
        number, (128 + number, b"ended by " + signal.Signals(number).name.encode())
    )
    assert (process.returncode, said.strip()) == expected
    assert listing(tmp_path) == before


def test_clocks_that_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(plain_cnn(2), source)
    graph_init.initialize(source, updates=2).save(tmp_path / "a.onnx")
    now = [1e9]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    for _ in range(2):
        graph_init.initialize(source, updates=2).save(tmp_path / "b.onnx")
        os.utime(tmp_path / "b.onnx", (4e9, 4e9))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_no_home_and_no_folder_for_temporary_files(tmp_path: Path) -> None:
    source, data = tmp_path / "in.onnx", tmp_path / "d.npz"
    onnx.save(plain_cnn(2), source)
    np.savez(data, x=np.zeros((40, 3, 8, 8), np.float32), target=np.arange(40) % 10)
    found = run(
        "compare",
        source,
        "--data",
        data,
        "-o",
        tmp_path / "c",
        "--updates",
        "2",
        "--seeds",
        "1",
        "--scheme",
        "he",
        "--no-tune",
        HOME=None,
        TMPDIR=str(tmp_path / "none"),
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "c" / "curves.png").stat().st_size > 1000
