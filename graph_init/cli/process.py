"""Prepares the process for closed streams, unusual encodings and signals."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from graph_init.errors import UsageError, printable
from graph_init.output.signals import raise_terminated

#: Whether this process is the command's own, not that of a program that calls it.
own: bool = False


def prepare() -> None:
    """Before anything is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened gets this number, and with it what the engine's
            # libraries print on standard error.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the encoding lacks, and bytes of names that are no text, are shown as \\x.. .
            stream.reconfigure(errors="backslashreplace")
    logging.lastResort = _Foreign(logging.WARNING)
    warnings.showwarning = _show_warning
    raise_terminated()
    global own
    own = True


class _Foreign(logging.Handler):
    """What libraries log, in one line: it may quote names in a model."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _tell(record.name, record.getMessage())
        except Exception:
            self.handleError(record)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """What libraries warn of, in one line."""
    _tell(category.__name__, str(message))


def _tell(source: str, words: str) -> None:
    if sys.stderr is not None:
        print(printable(f"warning: {source}: {words.strip()}"), file=sys.stderr)


def require_working_folder() -> None:
    """UsageError in a folder that has been deleted, where libraries abort when they are loaded."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working folder has been deleted; change to another one") from None


def finish() -> None:
    """After the last line: what cannot be flushed must not end in a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        silence()
        sys.exit(1)


def silence() -> None:
    """Nobody reads standard output any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
