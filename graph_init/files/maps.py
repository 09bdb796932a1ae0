"""Maps files into memory, so that one that becomes shorter meanwhile is an error of one line.

A file that becomes shorter while it is mapped ends the process that reads on: the system sends it
SIGBUS. That happens with network file systems, and to whom a download is still running. So what is
small is read, not mapped; and for what is mapped, the signal becomes a line on standard error and
the exit status 3. Nothing in the process can go on then: the access that failed has no value.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import weakref
from contextlib import suppress
from typing import Any

READ = 1 << 28
"""Bytes of the data files of a model, and of those of a folder, that are read and not mapped."""

_EXIT_STATUS = 3  # of graph_init.errors.ModelFileError
#: What each map's file is called.
_watched: weakref.WeakKeyDictionary[mmap.mmap, str] = weakref.WeakKeyDictionary()
_guard: Any = None


def of_file(number: int, shown: str) -> mmap.mmap:
    """The open file ``number``, whole, for reading; ``shown`` is its name, for the error.

    OSError or ValueError if it cannot be mapped; an empty one cannot.
    """
    _install()
    whole = mmap.mmap(number, 0, access=mmap.ACCESS_READ)
    _watched[whole] = shown
    return whole


def _shown() -> int:
    """Standard error as the user sees it: native code may have been given another."""
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.fileno()
    return 2


def _install() -> None:
    """Have the signal handled, unless it is; Python's own handlers run too late for that."""
    global _guard
    if _guard is not None or not hasattr(signal, "SIGBUS"):  # Windows lets no mapped file shrink
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def handle(number: int) -> None:
        try:
            for whole, shown in list(_watched.items()):
                if not whole.closed and whole.size() < len(whole):
                    words = f"error: data file {shown} has become shorter while it was read\n"
                    os.write(_shown(), words.encode("utf-8", "backslashreplace"))
                    os._exit(_EXIT_STATUS)
        finally:
            # Another fault: whoever handled the signal before gets it, as the access is repeated.
            set_handler(number, previous)

    _guard = handler(handle)  # which has to live as long as it may be called
    previous = set_handler(signal.SIGBUS, ctypes.cast(_guard, ctypes.c_void_p))
