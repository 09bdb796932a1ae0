"""Temporary files and folders: named alike, locked while they are in use, swept when they are not.

A lock (flock) is the system's, which drops it when the process ends in whatever way. So a temporary
file that nobody has locked is of a run that was killed. No clock and no process number is asked.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing swept
    fcntl = None

#: Whether there are locks; without them, nothing need be kept open.
LOCKS = fcntl is not None
_NAME = re.compile(r"\.graph-init\.[0-9a-f]{16}\.tmp")
_RUN = secrets.token_hex(8)
#: What the names of temporary folders begin with: of this process and those that it has forked.
PREFIX = f"graph-init-{_RUN}-"
#: So long a folder may be locked by others, who hold it for a few renames.
_PATIENCE = 30.0  # seconds


def new(folder: Path, *, is_folder: bool = False) -> tuple[Path, int]:
    """An empty temporary file, or folder, and what keeps it from being swept: close it at last."""
    while True:
        path = folder / f".graph-init.{secrets.token_hex(8)}.tmp"
        if is_folder:
            path.mkdir()
            if fcntl is None:
                return path, os.open(os.devnull, os.O_RDONLY)
            try:
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                remove(path)
                raise
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            lock = os.open(path, flags, 0o666)
        if _take(lock) is not False and _is(lock, path):
            return path, lock
        os.close(lock)  # somebody has swept it between the two calls


def _take(lock: int) -> bool | None:
    """Whether the lock was free; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(opened: int, path: Path) -> bool:
    try:
        return fcntl is None or os.path.samestat(os.fstat(opened), os.lstat(path))
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a temporary file or folder, as far as that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs have left in ``folder``."""
    if fcntl is None:
        return
    try:
        found = [folder / n for n in sorted(os.listdir(folder)) if _NAME.fullmatch(n)]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            mode = os.lstat(path).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                continue  # none of ours
            # Over a network, only what is open for writing can be locked.
            flags = os.O_RDONLY if stat.S_ISDIR(mode) else os.O_RDWR
            # Without waiting, should a pipe have taken the name meanwhile.
            lock = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _take(lock) and _is(lock, path):
                    remove(path)
            finally:
                os.close(lock)


def sweep_temporary() -> None:
    """Remove what processes that this one has forked have left in the system's temporary folder."""
    with suppress(OSError):
        folder = Path(tempfile.gettempdir())
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                remove(folder / name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other run takes names in ``folder``, where the file system knows locks.

    Raises OSError if others do not let go of it.
    """
    if fcntl is None:
        yield
        return
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a folder may be writable and not readable
        yield
        return
    try:
        deadline = time.monotonic() + _PATIENCE
        while _take(lock) is False:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another program has locked the folder")
            time.sleep(0.01)
        yield
    finally:
        os.close(lock)
