"""Notes which data files this program has written for a model, where only its user can write.

A model's data files get new names each time that it is written, and the old ones are removed. That
a model, or a file beside it, names a file proves nothing: both may come from anybody. What is
removed is what is noted here, in the user's own state folder, if it is still the same file: by its
place on the disk, its size and the time of its last change.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from graph_init.files import opening

#: Of a file: inode, bytes, nanoseconds since 1970 of its last change.
Marks = tuple[int, int, int]

#: Bytes of a note; a model with more data files than fit has none.
_LONGEST = 1 << 20


def marks(path: Path) -> Marks | None:
    """Those of a regular file; None if there is none of that name."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read(model: Path) -> dict[str, Marks]:
    """The data files noted for ``model``, by their names in its folder."""
    try:
        note = _note(model)
        if note is None:
            return {}
        content = json.loads(opening.read(note, _LONGEST))
        return {str(name): (int(a), int(b), int(c)) for name, (a, b, c) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}


def write(model: Path, files: Mapping[str, Marks]) -> None:
    """Note ``files`` for ``model``, in place of what was noted; nothing where that is impossible.

    Then those files stay when the model is written again.
    """
    with suppress(OSError):
        note = _note(model, make=True)
        content = json.dumps(files).encode()
        if note is None or len(content) > _LONGEST:
            return
        if not files:
            note.unlink(missing_ok=True)
            return
        fresh = note.with_name(f"{note.name}.{secrets.token_hex(8)}")
        try:
            opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(opened, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, note)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


def _note(model: Path, make: bool = False) -> Path | None:
    """The file with the note; None where there is no folder that only this user writes to."""
    # Where programs keep what should outlive a restart: XDG Base Directory Specification.
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    folder = state / "graph-init" / "written"
    if not folder.is_absolute():
        return None
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        return None
    place = os.fsencode(os.path.realpath(model))
    return folder / hashlib.sha256(place).hexdigest()
