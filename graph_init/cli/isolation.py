"""A command's work in a process of its own, so that native code that crashes is one line.

onnx and the engines are written in C++. A file at which they abort, or read where nothing is, ends
the process that they are in, with words of their own. So a command forks before it reads anything.
The child does the work, on the same terminal and streams; this process hands on the signals that
it gets, waits, and ends as the child does. What native code prints on standard error goes to the
log of ``--debug``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import mmap
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from graph_init.cli import parent
from graph_init.engine import memory
from graph_init.errors import EngineError, NativeCrashError, escaped
from graph_init.output import debug_log, scratch
from graph_init.output.signals import ENDING

#: Elsewhere frameworks of the system do not survive a fork (macOS), or there is none (Windows).
POSSIBLE = sys.platform == "linux"

#: How a process ends when native code fails in it, and what that says.
_CRASHES = {
    "SIGABRT": "it has aborted",
    "SIGSEGV": "it has used memory that it does not have",
    "SIGBUS": "it has used memory that is not there",
    "SIGFPE": "it has divided by zero",
    "SIGILL": "it has met an instruction that this processor does not know",
    "SIGTRAP": "it has aborted",
    "SIGSYS": "it has made a call that the system forbids",
}
#: Options that name what a command writes.
_OUTPUTS = ("output", "save_scales", "report_file")
#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
#: Bytes of the end of what native code has printed that are kept.
_TAIL = 1 << 16
#: Bytes for the name of the file that is worked on.
_PAGE = 1 << 13
#: Seconds to wait for the last of what was printed, should a third process hold the pipe.
_PATIENCE = 1.0

#: Shared by both processes; None where there is only one.
_subject: mmap.mmap | None = None


def working_on(file: str) -> None:
    """From now on ``file`` is what a crash is about."""
    if _subject is not None:
        name = os.fsencode(file)[: _PAGE - 2]
        _subject[:] = (len(name).to_bytes(2, "little") + name).ljust(_PAGE, b"\0")


def _worked_on() -> str:
    assert _subject is not None
    return os.fsdecode(_subject[2 : 2 + int.from_bytes(_subject[:2], "little")])


def enter(file: str, options: Mapping[str, object]) -> None:
    """Go on in a child of this process, which works on ``file``; ``options`` are the command's.

    Returns in the child only. This process ends with the child's status. It raises NativeCrashError
    if the child has crashed, and removes what that had begun to write; EngineError if there can be
    no child.
    """
    global _subject
    _subject = mmap.mmap(-1, _PAGE)
    working_on(file)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    gc.freeze()  # a collection in the child would copy every page it looks at
    said, says = os.pipe()
    guard = os.getpid()
    # Signals wait until both processes know what to do with them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        with warnings.catch_warnings():
            # Threads of libraries that have only been imported wait for work, and hold no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(said)
            _begin(guard, says)
            return
        os.close(says)
        _hand_on(child)
    except OSError as error:
        raise EngineError(
            f"no process can be started for the work: {error.strerror}; --trusted goes without one"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _end_as(child, said, options)


# -- in the child --------------------------------------------------------------------------------


def _begin(guard: int, says: int) -> None:
    """Have this process end when ``guard`` does, and native code write to ``says``."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it had ended before it could be asked for that
        os._exit(1)
    # A group of its own: else Ctrl-C would come from the terminal and once more by the guard.
    os.setpgid(0, 0)
    for number in (signal.SIGTTIN, signal.SIGTTOU):  # the terminal is for the group of the guard
        signal.signal(number, signal.SIG_IGN)
    shown = os.dup(2)
    os.dup2(says, 2)
    os.close(says)
    if sys.stderr is not None:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(shown, "w")),
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
    faulthandler.enable(file=2)  # the log gets to know where it was


# -- in the process that waits -------------------------------------------------------------------


def _hand_on(child: int) -> None:
    """Signals that end or stop a program go to ``child``."""

    def end(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    def stop(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # until somebody sends SIGCONT
        signal.signal(number, stop)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, stop)


def _end_as(child: int, said: int, options: Mapping[str, object]) -> NoReturn:
    noise = bytearray()

    def listen() -> None:
        while block := os.read(said, _TAIL):
            noise.extend(block)
            del noise[:-_TAIL]

    listening = threading.Thread(target=listen, daemon=True, name="noise")
    listening.start()
    parent.end_with_it()
    _, status = os.waitpid(child, 0)
    listening.join(_PATIENCE)
    words = bytes(noise).decode("utf-8", "replace")
    if words:
        debug_log.note(f"native code wrote on standard error:\n{words}")
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)  # nothing is left to do: the child has tidied up, and flushed its streams
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    if name not in _CRASHES and name != "SIGKILL":
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        sys.exit(128 + number)  # it does not end processes
    for output in filter(None, map(options.get, _OUTPUTS)):
        place = Path(str(output)).absolute()
        for folder in (place, place.parent):
            scratch.sweep(folder)
    scratch.sweep_temporary()
    raise NativeCrashError(_described(name, options))


def _described(name: str, options: Mapping[str, object]) -> str:
    file = escaped(_worked_on())
    if name == "SIGKILL":
        free = memory.available()
        room = "" if free is None else f" ({free / 1e9:.1f} GB are free now)"
        bounds = "; lower --batch-size or --memory-limit" if "memory_limit" in options else ""
        return (
            f"{file}: the process at work on it was killed (SIGKILL), perhaps because memory ran "
            f"out{room}{bounds}"
        )
    others = "another --engine" if "engine" in options else "another version of onnx"
    return (
        f"{file}: native code of onnx or the engine has crashed on it ({name}: {_CRASHES[name]}); "
        f"the file may be damaged: export it again, or try {others}; --debug FILE tells where that "
        "was"
    )
