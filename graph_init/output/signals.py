"""Signals: none splits what belongs together, and those that end a program unwind it first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What ends a program from outside; the last two are not there on Windows.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come. Like KeyboardInterrupt, no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """That of a program which the signal has ended, as shells have it."""
        return 128 + self.number


def raise_terminated() -> None:
    """From now on SIGTERM and SIGHUP raise :class:`Terminated`, unless they are ignored (nohup)."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    for number in ENDING[1:]:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a program wait until the block has been left."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    # Handlers that Python does not know cannot be put back, and are left alone.
    known = {number: found for number, found in handlers.items() if found is not None}
    try:
        for number in known:
            signal.signal(number, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        for number, found in known.items():
            signal.signal(number, found)
        for number, frame in came[:1]:
            again = known[number]
            if callable(again):
                again(number, frame)
            elif again == signal.SIG_DFL:
                signal.raise_signal(number)
