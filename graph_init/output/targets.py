"""Checks that an output is an ordinary file or folder, or a link to one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from graph_init.errors import OutputError, UsageError

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def file(path: str | os.PathLike[str]) -> Path:
    """Where to write a file called ``path``: links are followed, so that they stay links.

    Raises UsageError for what is no file or has no folder, OutputError for what may not be written.
    """
    target, mode = _resolved(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"output {path} is a folder; give a file name")
    if mode is not None:
        _require_ordinary(path, mode)
        if not os.access(target, os.W_OK):
            raise OutputError(f"cannot write {path}: the file is write-protected")
    _require_writable(path, target.parent)
    return target


def folder(path: str | os.PathLike[str]) -> Path:
    """As :func:`file`, for a folder, which may be there already."""
    target, mode = _resolved(path)
    if mode is None:
        _require_writable(path, target.parent)
        return target
    if stat.S_ISREG(mode):
        raise UsageError(f"'{path}' is a file; -o names a folder here")
    if not stat.S_ISDIR(mode):
        _require_ordinary(path, mode)
    _require_writable(path, target)
    return target


def same(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether both are the same file, or will be."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def require_distinct(paths: Iterable[str | os.PathLike[str] | None]) -> None:
    """UsageError if two outputs are, or will be, the same file; None is no output."""
    for path, other in combinations([p for p in paths if p is not None], 2):
        if same(path, other):
            raise UsageError(f"two outputs are called {other}; give one of them another name")


def moves(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a link into another folder."""
    return os.path.islink(path) and not same(Path(path).parent, Path(os.path.realpath(path)).parent)


def _resolved(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """The real path, and its mode if there is something."""
    try:
        target = Path(os.path.realpath(path))
    except FileNotFoundError:
        raise UsageError(f"output {path}: the working folder has been deleted") from None
    try:
        return target, os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return target, None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _require_ordinary(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        raise UsageError(f"output {path} is a link that leads in a circle")
    kind = next((name for test, name in _KINDS if test(mode)), "no file")
    raise UsageError(f"output {path} is {kind}; give the name of an ordinary file")


def _require_writable(path: str | os.PathLike[str], parent: Path) -> None:
    if not parent.is_dir():
        raise UsageError(f"output folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: the folder {parent} is read-only")
