"""A command that is ended from outside, or whose parent is, leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import psutil
import pytest

from tests import jitter, zoo_runs
from tests.small_models import deep_mlp, plain_cnn

pytest.importorskip("onnxruntime")
if not hasattr(signal, "SIGHUP"):
    pytest.skip("the system has no signal SIGHUP; run on Linux or macOS", allow_module_level=True)

#: Seconds in which something must have happened, on a machine with much to do.
_PATIENCE = 120.0

#: Starts a command as a program does that waits for it, and that nothing protects.
_PARENT = """
import signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)
"""


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextlib.contextmanager
def _started(
    mark: str, *arguments: object, before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The parent of ``graph-init ARGUMENTS``; ``before`` is what runs the command, such as nohup.

    All processes that come of it have ``mark`` in their environment. None is left afterwards.
    """
    environment = {**os.environ, "PYTHONPATH": jitter.python_path(), "GRAPH_INIT_TEST": mark}
    call = [*before, sys.executable, "-m", "graph_init", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, *call],
        start_new_session=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=zoo_runs.ROOT,
    )
    try:
        yield process
    finally:
        for left in _with_mark(mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def _with_mark(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("GRAPH_INIT_TEST") == mark:
                found.append(process)
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _long_model(folder: Path) -> Path:
    onnx.save(deep_mlp(6, 128), folder / "model.onnx")
    return folder / "model.onnx"


def _at_work(parent: int) -> bool:
    """Whether the child of ``parent`` has loaded the engine."""
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(OSError, psutil.Error):
            if "onnxruntime_pybind" in Path(f"/proc/{child.pid}/maps").read_text():
                return True
    return False


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(),
    reason="it reads /proc, which this system does not have; run on Linux",
)


@needs_proc
def test_a_command_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    model, mark = _long_model(tmp_path), str(tmp_path)
    out = tmp_path / "out.onnx"
    with _started(
        mark, "initialize", model, "-o", out, "--tuner", "metainit", "--steps", 100000
    ) as parent:
        _wait(lambda: _at_work(parent.pid), "the command does not begin")
        parent.kill()
        parent.wait()
        _wait(lambda: not _with_mark(mark), "the command goes on without its parent")
    assert os.listdir(tmp_path) == ["model.onnx"]


@needs_proc
@pytest.mark.skipif(
    sys.platform != "linux", reason="it starts commands by setsid and nohup; run on Linux"
)
@pytest.mark.parametrize("before", [("nohup",), ("setsid",)], ids=lambda b: b[0])
def test_a_command_that_is_to_outlive_its_parent_does(
    tmp_path: Path, before: tuple[str, ...]
) -> None:
    model, out, mark = _long_model(tmp_path), tmp_path / "out.onnx", str(tmp_path)
    arguments = ("initialize", model, "-o", out, "--tuner", "metainit", "--steps", 300)
    with _started(mark, *arguments, before=before) as parent:
        _wait(lambda: _at_work(parent.pid), "the command does not begin")
        parent.kill()
        parent.wait()
        _wait(lambda: not _with_mark(mark), "the command does not end")
    assert out.exists()


def _zoo(folder: Path) -> tuple[object, ...]:
    models = folder / "models"
    models.mkdir()
    for k in range(4):
        onnx.save(plain_cnn(8, 8, 16, seed=k), models / f"cnn{k}.onnx")
    return (
        "zoo",
        models,
        "-o",
        folder / "out",
        "--workers",
        2,
        "--tuner",
        "metainit",
        "--steps",
        100000,
    )


def _two_at_work(parent: int) -> bool:
    (runner,) = psutil.Process(parent).children() or (None,)
    return runner is not None and len(zoo_runs.model_processes(runner.pid)) == 2


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux tells a process that its parent has died (PR_SET_PDEATHSIG); run there",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_zoo_run_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    mark = str(tmp_path)
    with _started(mark, *_zoo(tmp_path)) as parent:
        _wait(lambda: _two_at_work(parent.pid), "the run does not begin")
        (runner,) = psutil.Process(parent.pid).children()
        runner.send_signal(number)
        _wait(lambda: not _with_mark(mark), "processes are left")
    assert (tmp_path / "out" / "zoo.json").exists()  # it has said what is not done


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux tells a process that its parent has died (PR_SET_PDEATHSIG); run there",
)
@pytest.mark.parametrize("which", ["parent", "runner"])
def test_a_zoo_run_that_is_killed_leaves_no_process(tmp_path: Path, which: str) -> None:
    mark = str(tmp_path)
    with _started(mark, *_zoo(tmp_path)) as parent:
        _wait(lambda: _two_at_work(parent.pid), "the run does not begin")
        (runner,) = psutil.Process(parent.pid).children()
        (parent if which == "parent" else runner).kill()
        _wait(lambda: not _with_mark(mark), "processes are left")
