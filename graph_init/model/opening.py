"""Opens files for reading: regular ones alone, without waiting, and the one that was checked.

A pipe waits for a writer, a device may have no end, and a name may lead elsewhere a moment after it
has been looked at. So it is the open file that is checked, never its name alone.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # as far as the system has them
    _FLAGS |= getattr(os, _flag, 0)
_NOT_REGULAR = "it is not a regular file"


class OutsideError(OSError):
    """A link leads out of the folder; ``filename`` is where it leads to."""


def beneath(folder: Path, location: str) -> int:
    """A descriptor, to be closed, of the regular file at ``location`` inside of ``folder``.

    A link is followed where it leads to a place inside of the folder. Where it leads is found out
    once; that place is opened part by part from the folder's descriptor, and no part may be a link
    any more, whatever others rename meanwhile.

    Raises OutsideError if it is not in the folder, OSError if it cannot be opened, and RuntimeError
    for a circle of links.
    """
    real, root = (folder / location).resolve(), folder.resolve()
    if not real.is_relative_to(root):
        raise OutsideError(errno.EXDEV, "it is outside of the folder", str(real))
    if os.open not in os.supports_dir_fd:  # Windows
        return _descriptor(str(real), None)
    *parents, name = real.relative_to(root).parts or (".",)
    # To pass through a folder needs no right to list it.
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    at = os.open(folder, flags)
    try:
        for part in parents:
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return _descriptor(name, at)
    finally:
        os.close(at)


def _descriptor(path: str, folder: int | None) -> int:
    # To open a device may do something, so its name is looked at before.
    _require_regular(os.stat(path, dir_fd=folder, follow_symlinks=False), path)
    try:
        opened = os.open(path, _FLAGS | getattr(os, "O_NOFOLLOW", 0), dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket has taken its name
            raise OSError(error.errno, _NOT_REGULAR, path) from error
        raise
    try:
        _require_regular(os.fstat(opened), path)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, _NOT_REGULAR, path)
