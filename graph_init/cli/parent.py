"""Ends a command when the program that started it ends, unless it was started to outlive it.

A parent that is killed (a time limit, a job that is cancelled, a connection that breaks) would
leave a command at work that nobody waits for. Its end is a hang-up: the command gets SIGHUP, and
unwinds as it does when a terminal is closed. How it was started says whether that is wanted.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time

#: Seconds between two looks where the system cannot wait for another process to end.
_LOOK = 1.0


def end_with_it() -> None:
    """From now on the end of the parent sends SIGHUP to this process, if it is tied to it."""
    parent = os.getppid()
    if hasattr(signal, "SIGHUP") and _is_tied(parent):
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()


def _is_tied(parent: int) -> bool:
    """Whether nothing says that this process is to outlive ``parent``.

    ``nohup`` ignores SIGHUP; a script's ``&`` ignores SIGINT; ``setsid`` and services make a
    process the leader of a session; a terminal tells its own jobs when it is closed, and leaves
    those in the background that its shell lets go.
    """
    ignored = (signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGHUP, signal.SIGINT))
    if any(ignored) or parent <= 1 or os.getsid(0) == os.getpid():
        return False
    with contextlib.suppress(OSError):
        terminal = os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY)
        try:
            foreground = os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
        return foreground and os.getsid(0) != parent
    return True  # there is no terminal


def _watch(parent: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # not on this system, or it has ended
        handle = os.pidfd_open(parent)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if os.getppid() == parent:
            poll.poll()
        os.close(handle)
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGHUP)
