"""The log that --debug names: what an error's one line leaves out, whole.

It begins with what is needed to understand it elsewhere: the command and the versions. Errors are
appended, each with its traceback and its causes, among which is what the engine has said.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from importlib import metadata

from graph_init.errors import OutputError, UsageError
from graph_init.files import opening
from graph_init.version import __version__

_FIRST = "graph-init debug log\n"
_PACKAGES = tuple(
    "onnxruntime-training-cpu onnxruntime-training onnxruntime torch onnx numpy".split()
)

_path: str | None = None
_subject = ""


def begin(path: str | None) -> None:
    """Begin the log at ``path``, in place of an earlier one; with None there is none.

    Raises UsageError if another kind of file is there, and OutputError if it cannot be written.
    """
    global _path
    _path = None
    if path is None:
        return
    try:
        if os.path.lexists(path) and not _is_log(path):
            raise UsageError(f"--debug {path}: another file is there; give a name of its own")
        with os.fdopen(opening.writable(path, os.O_CREAT), "wb") as stream:
            stream.truncate()
            stream.write((_FIRST + _header()).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"--debug {path}: {error.strerror}") from error
    _path = os.path.abspath(path)


def go_on(path: str | None, subject: str) -> None:
    """Append to the log at ``path``, in a process that works on ``subject``; None: there is none.

    A log that is not there (on another machine than the command's) is left alone.
    """
    global _path, _subject
    _path, _subject = path, subject


def path() -> str | None:
    """That of the log, absolute; None without --debug."""
    return _path


def write(error: BaseException) -> None:
    """Append ``error`` with its traceback and causes, if there is a log."""
    note("".join(traceback.format_exception(error)))


def note(text: str) -> None:
    """Append ``text``, if there is a log."""
    if _path is not None:
        add(_path, _subject, text)


def add(path: str, subject: str, text: str) -> None:
    """Append ``text``, which is about ``subject``, to the log at ``path``, if it is there."""
    head = f"\n{subject}\n" if subject else "\n"
    try:
        # All at once at the end of the file: several processes may write.
        number = opening.writable(path, os.O_APPEND)
        with open(number, "wb", buffering=0) as stream:
            stream.write((head + text).encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # it must not hide the error itself


def _is_log(path: str) -> bool:
    try:
        with opening.stream(path) as stream:
            return stream.read(len(_FIRST)) in (_FIRST.encode(), b"")
    except opening.NotRegularError:
        return False


def _header() -> str:
    lines = [f"graph-init {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join([*lines, f"arguments: {sys.argv[1:]}", ""])
