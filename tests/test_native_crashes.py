"""A crash of native code is one line in every command; all else is as without the process."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from graph_init.model import scales_file
from tests import jitter
from tests.small_models import deep_mlp, plain_cnn

if sys.platform != "linux":
    pytest.skip("commands fork on Linux only; run there", allow_module_level=True)

#: The command line, where {at} runs {how} in place of what it does.
PROGRAM = """
import ctypes, os, resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import {module}
def crash(*args, **options):
    os.write(2, b"terminate called after throwing an instance of 'std::length_error'\\n")
    {how}
{module}.{name} = crash
from graph_init.cli import main
main()
"""
ABORT = "os.abort()"
CHECKER = ("onnx.checker", "check_model")
PATIENCE = 120.0


def crashing(
    *words: object, at: tuple[str, str] = CHECKER, how: str = ABORT
) -> subprocess.CompletedProcess[str]:
    """``graph-init WORDS``, in which native code crashes."""
    program = PROGRAM.format(module=at[0], name=at[1], how=how)
    call = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "graph_init", *map(str, words)]


def state(folder: Path) -> dict[str, bytes]:
    """All files below ``folder``, with their content."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, scales, data and an old output; nothing else is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", jitter.python_path())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    onnx.save(plain_cnn(3), "m.onnx")
    scales_file.write(tmp_path / "s.json", {"head": 2.0}, {})
    np.savez("d.npz", x=np.zeros((20, 3, 8, 8), np.float32), target=np.arange(20) % 10)
    (tmp_path / "o.onnx").write_bytes(b"old")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "comparison.json").write_bytes(b"old")
    return tmp_path


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "m.onnx"),
    "measure": ("measure", "m.onnx"),
    "check": ("check", "m.onnx"),
    "initialize": ("initialize", "m.onnx", "-o", "o.onnx", "--save-scales", "n.json"),
    "apply": ("apply", "s.json", "m.onnx", "-o", "o.onnx"),
    "compare": ("compare", "m.onnx", "--data", "d.npz", "-o", "c"),
    "artifacts": ("artifacts", "m.onnx", "-o", "a"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_abort_is_one_line(name: str, folder: Path) -> None:
    before = state(folder)
    found = crashing(*COMMANDS[name])
    assert found.returncode == 7, found.stderr
    assert found.stderr.startswith("error: m.onnx: native code of onnx or the engine has crashed")
    assert found.stderr.count("\n") == 1 and "terminate" not in found.stderr
    assert found.stdout == "" and state(folder) == before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGBUS)", "SIGBUS"),
        ("os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE"),
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "perhaps because memory ran out"),
    ],
)
def test_every_way_to_crash_is_one_line(how: str, said: str, folder: Path) -> None:
    found = crashing("measure", "m.onnx", how=how)
    assert found.returncode == 7 and said in found.stderr, found.stderr
    assert found.stderr.startswith("error: m.onnx: ") and found.stderr.count("\n") == 1


def test_the_log_has_what_native_code_has_said(folder: Path) -> None:
    found = crashing("inspect", "m.onnx", "--debug", "log")
    told = (folder / "log").read_text()
    assert found.returncode == 7 and "NativeCrashError" in told
    assert "terminate called after throwing" in told
    assert "Fatal Python error: Aborted" in told and "load.py" in told


def test_what_a_crash_leaves_half_written_is_removed(folder: Path) -> None:
    before = state(folder)
    found = crashing(*COMMANDS["apply"], at=("os", "fsync"))
    assert found.returncode == 7, found.stderr
    assert state(folder) == before


def test_temporary_folders_of_a_crash_are_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    how = (
        "import tempfile; from pathlib import Path; from graph_init.output import scratch\n"
        "    Path(tempfile.mkdtemp(prefix=scratch.PREFIX), 'model').write_bytes(b'm')\n"
        "    Path(tempfile.mkdtemp(prefix='graph-init-'), 'other').write_bytes(b'm')\n"
        "    os.abort()"
    )
    assert crashing("inspect", "m.onnx", how=how).returncode == 7
    assert [Path(name).name for name in state(folder / "tmp")] == ["other"]


def test_of_several_files_the_one_is_named(folder: Path) -> None:
    onnx.save(deep_mlp(2), "n.onnx")
    how = "global count; count += 1\n    if count == 2: os.abort()\ncount = 0"
    found = crashing("check", "m.onnx", "n.onnx", how=how)
    assert found.returncode == 7, found.stderr
    assert found.stderr.startswith("error: n.onnx: native code")


def test_trusted_leaves_the_process_out(folder: Path) -> None:
    for name in ("inspect", "measure"):
        found = crashing(*COMMANDS[name], "--trusted")
        assert found.returncode == -signal.SIGABRT
        assert found.stderr.startswith("terminate called")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("inspect", "m.onnx", "--json"), 0),
        (("inspect", "none.onnx"), 3),
        (("initialize", "m.onnx", "-o", "none/o.onnx"), 2),
        (("apply", "s.json", "m.onnx", "-o", "p.onnx"), 0),
    ],
)
def test_all_else_is_as_in_one_process(words: tuple[str, ...], status: int, folder: Path) -> None:
    ends = [
        subprocess.run(command(*words, *more), capture_output=True, timeout=PATIENCE)
        for more in ((), ("--trusted",))
    ]
    assert ends[0].returncode == ends[1].returncode == status, ends[0].stderr
    assert (ends[0].stdout, ends[0].stderr) == (ends[1].stdout, ends[1].stderr)


# -- signals and the terminal --------------------------------------------------------------------


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _child(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    """That which does the work of ``process``, once it has the engine."""
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(OSError, psutil.Error):
            if "onnxruntime_pybind" in Path(f"/proc/{child.pid}/maps").read_text():
                return child
    return None


def _endless(folder: Path) -> list[str]:
    return command(
        *("compare", "m.onnx", "--data", "d.npz", "-o", folder / "new", "--no-tune"),
        *("--updates", 100000000, "--seeds", 1),
    )


def _as_of_a_shell() -> None:
    """What a shell does for a job: a group of its own, and Ctrl-Z."""
    os.setpgrp()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _started(words: list[str], **streams: int) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    process = subprocess.Popen(words, preexec_fn=_as_of_a_shell, **streams)
    _wait(lambda: _child(process) is not None, "the command does not begin")
    child = _child(process)
    assert child is not None
    # A signal that comes in the middle of an import may be lost there: Python ignores what is
    # raised in its own callbacks. So the imports must be over.
    before = child.cpu_times().user
    _wait(lambda: child.cpu_times().user > before + 1, "the command does not go on")
    return process, child


def test_the_work_ends_when_the_command_is_killed(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    process, child = _started(_endless(folder))
    process.kill()
    process.wait()
    _wait(lambda: not child.is_running() or child.status() == "zombie", "the child goes on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_signals_end_both(number: signal.Signals, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    process, child = _started(_endless(folder), stderr=subprocess.PIPE)
    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told.decode()) == (128 + number, f"ended by {number.name}\n")
    assert not child.is_running() and not (folder / "new").exists()


def test_a_stopped_command_stops_its_work_and_goes_on(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    process, child = _started(_endless(folder))
    try:
        process.send_signal(signal.SIGTSTP)
        _wait(lambda: child.status() == psutil.STATUS_STOPPED, "the child does not stop")
        command = psutil.Process(process.pid)
        _wait(lambda: command.status() == psutil.STATUS_STOPPED, "the command does not stop")
        process.send_signal(signal.SIGCONT)
        _wait(lambda: child.status() != psutil.STATUS_STOPPED, "the child does not go on")
    finally:
        process.kill()
        process.wait()


def _in_a_terminal(words: list[str], press: bytes) -> tuple[int, str]:
    """Status and screen of a command in a terminal of its own, in which ``press`` is typed."""
    pid, screen = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(words[0], words)
    shown, typed = b"", not press
    with contextlib.suppress(OSError):  # the terminal is closed at the end
        while block := os.read(screen, 4096):
            shown += block
            if not typed and b"comparing" not in shown and "·".encode() not in shown:
                continue
            if not typed:
                typed = True
                time.sleep(5)
                os.write(screen, press)
    _, status = os.waitpid(pid, 0)
    os.close(screen)
    return os.waitstatus_to_exitcode(status), shown.decode("utf-8", "replace")


def test_the_terminal_is_the_works_own(folder: Path) -> None:
    """Colours, and a bar that is drawn over itself."""
    pytest.importorskip("onnxruntime")
    status, shown = _in_a_terminal(
        command("initialize", "m.onnx", "-o", "n.onnx", "--updates", 2), b""
    )
    assert status == 0, shown
    assert "\x1b[" in shown and "tuning" in shown and "→ n.onnx" in shown


def test_control_c_ends_both_once(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    status, shown = _in_a_terminal(_endless(folder), b"\x03")
    assert status == 1, shown
    assert shown.count("interrupted") == 1 and "Traceback" not in shown
    assert not (folder / "new").exists()


def test_control_c_keeps_the_best_so_far(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    words = command(
        *("initialize", "m.onnx", "-o", "n.onnx", "--tuner", "metainit", "--steps", 1000000)
    )
    status, shown = _in_a_terminal(words, b"\x03")
    assert status == 0 and "the best scales so far were written" in shown, shown
    assert onnx.load(folder / "n.onnx").graph.node
