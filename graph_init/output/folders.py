"""Folders whose files take effect together."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graph_init.errors import OutputError
from graph_init.output import scratch, targets
from graph_init.output.signals import undisturbed
from graph_init.output.transaction import Transaction, sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder; the files written there become those of the folder ``path`` at the end.

    If there is none, or one that holds nothing but files of these names, that is one step. Else the
    files are moved one by one, in the order of their names; if one cannot be, none is. Other files
    stay. Raises OutputError if something cannot be written.
    """
    final = targets.folder(path)
    # A folder whose parent is read-only, or another file system, is written from inside.
    inside = final.exists() and not (
        os.access(final.parent, os.W_OK) and final.parent.stat().st_dev == final.stat().st_dev
    )
    parent = final if inside else final.parent
    try:
        with undisturbed():
            for folder in {parent, final}:
                scratch.sweep(folder)
            temporary, lock = scratch.new(parent, is_folder=True)
        try:
            yield temporary
            with undisturbed():
                _publish(temporary, final)
        finally:
            with undisturbed():
                scratch.remove(temporary)
                os.close(lock)
    except OSError as error:
        raise OutputError(f"cannot write folder {path}: {error.strerror or error}") from error


def _publish(temporary: Path, final: Path) -> None:
    written = sorted(temporary.iterdir())
    for file in written:
        _flush(file)
    if not final.exists():
        try:
            os.rename(temporary, final)
        except OSError:
            if not final.exists():  # else somebody was faster
                raise
        else:
            sync(final.parent)
            return
    present = set(os.listdir(final))
    if present <= {file.name for file in written} and not _is_used(final):
        shutil.copymode(final, temporary)
        if _exchange(temporary, final):
            sync(final.parent)
            return
    with Transaction() as transaction:
        for file in written:
            transaction.adopt(file, final / file.name)


def _is_used(folder: Path) -> bool:
    """Whether programs would be left in the folder when another takes its name: this one's own."""
    try:
        return folder.is_mount() or folder.samefile(os.getcwd())
    except OSError:
        return False


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap is None:
        return False
    places = ((_AT_FDCWD, os.fsencode(path)) for path in (a, b))
    return bool(swap(*itertools.chain(*places), ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _flush(file: Path) -> None:
    with file.open("rb") as stream, suppress(OSError):
        os.fsync(stream.fileno())
