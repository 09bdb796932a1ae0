"""Prepares the process for closed streams, unusual encodings and signals."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from graph_init.cli import parent
from graph_init.errors import UsageError
from graph_init.output.signals import raise_terminated


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
    raise_terminated()
    parent.end_with_it()


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
