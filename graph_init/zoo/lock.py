"""One run at a time in a folder; what a killed run leaves locked is recognised."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from graph_init.errors import OutputError, UsageError
from graph_init.files import opening
from graph_init.zoo.store import Folder, ObjectStore, Store

LOCK = ".lock"
#: An object store has no locks of its own: the holder renews its mark every so many seconds, and a
#: mark that was not renewed for so long is that of a run that is no more.
RENEWED, STALE = 10.0, 60.0
#: Bytes of a mark.
_LONGEST = 1 << 12


class Held(UsageError):
    """Another run is at work here."""


@contextlib.contextmanager
def held(store: Store, run: str) -> Iterator[None]:
    """Hold ``store`` for ``run``; :class:`Held` if another run does."""
    with _in_folder(store, run) if isinstance(store, Folder) else _in_objects(store, run):  # type: ignore[arg-type]
        yield


def is_current(store: Store, run: str) -> bool:
    """Whether ``run`` was the last to hold ``store``: a stray process of another must not write."""
    return bool(_content(store.read(LOCK)).get("run") == run)


def _mark(run: str, number: int = 0) -> bytes:
    mark = {"run": run, "host": platform.node(), "pid": os.getpid(), "renewed": number}
    return json.dumps(mark).encode()


def _content(raw: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(store: Store, other: dict[str, Any]) -> None:
    raise Held(
        f"'{store.url}' is in use by another run (process {other.get('pid', '?')} on "
        f"{other.get('host', '?')}); wait for it, or stop it"
    )


@contextlib.contextmanager
def _in_folder(store: Folder, run: str) -> Iterator[None]:
    # The system lets go of it when the process ends, however it ends; shared file systems (NFSv4)
    # do so across machines.
    path = store.path / LOCK
    try:
        handle = opening.own(path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(store, _content(os.pread(handle, _LONGEST, 0)))
        # A replaced file would be another one than the locked one.
        os.pwrite(handle, mark := _mark(run), 0)
        os.ftruncate(handle, len(mark))
        os.fsync(handle)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _in_objects(store: ObjectStore, run: str) -> Iterator[None]:
    other = _content(store.read(LOCK))
    if other.get("host") is not None and not _gone(store, other):
        _refuse(store, other)
    stop, number = threading.Event(), 0

    def renew() -> None:
        nonlocal number
        while not stop.wait(RENEWED):
            number += 1
            with contextlib.suppress(Exception):  # the next renewal may succeed
                store.write(LOCK, _mark(run, number))

    store.write(LOCK, _mark(run))
    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        # Kept without a holder, so that a stray process of this run is known as such.
        store.write(LOCK, json.dumps({"run": None}).encode())


def _gone(store: Store, other: dict[str, Any]) -> bool:
    """Whether the holder is no more: by its process here, or as its mark stays as it is."""
    if other.get("host") == platform.node():
        try:
            os.kill(int(other["pid"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, KeyError):
            return False
        return False
    # Clocks of machines differ: what counts is whether the mark changes while this one looks.
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(min(RENEWED, STALE) / 2)
        if _content(store.read(LOCK)) != other:
            return False
    return True
