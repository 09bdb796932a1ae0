"""Opens files: regular ones alone, without waiting, and the one that was checked.

A pipe waits for a writer, a device may have no end, and a name may lead elsewhere a moment after it
has been looked at. So it is the open file that is checked, never its name alone.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_FLAGS = 0
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # as far as the system has them
    _FLAGS |= getattr(os, _flag, 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NOT_REGULAR = "it is not a regular file"


class OutsideError(OSError):
    """A link leads out of the folder; ``filename`` is where it leads to."""


class NotRegularError(OSError):
    """What has the name is a folder, pipe, device or socket."""


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Links are followed. Raises OSError, whose ``strerror`` says why, for what is no regular file,
    is larger, grows meanwhile or cannot be read.
    """
    with stream(path) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has more than {_shown(most)}", os.fspath(path))
        content = opened.read(size)
        if opened.read(1):  # so much would be read that no bound would hold
            raise OSError(errno.EFBIG, "it grows while it is read", os.fspath(path))
        return content


def stream(path: str | os.PathLike[str]) -> BinaryIO:
    """A stream from a regular file. Links are followed; OSError as :func:`read`."""
    return os.fdopen(_descriptor(path), "rb")


def writable(path: str | os.PathLike[str], more: int = 0) -> int:
    """A descriptor, to be closed, to read and write a regular file, with ``more`` flags.

    Links are followed. Raises OSError as :func:`read`.
    """
    return _descriptor(path, flags=os.O_RDWR | more)


def own(path: Path) -> int:
    """As :func:`writable`, for a file ``path`` of the program's own, which is made if it is new.

    It has no other name: a link, symbolic or hard, would lead the program to write into a file that
    is not its own. OSError for that, too.
    """
    opened = _descriptor(path, flags=os.O_RDWR | os.O_CREAT | _NO_LINK)
    if os.fstat(opened).st_nlink > 1:
        os.close(opened)
        raise _is_link(path)
    return opened


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
        return _descriptor(str(real), flags=os.O_RDONLY | _NO_LINK)
    *parents, name = real.relative_to(root).parts or (".",)
    # To pass through a folder needs no right to list it.
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
    at = os.open(folder, flags)
    try:
        for part in parents:
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        return _descriptor(name, at, flags=os.O_RDONLY | _NO_LINK)
    finally:
        os.close(at)


def _descriptor(
    path: str | os.PathLike[str], folder: int | None = None, flags: int = os.O_RDONLY
) -> int:
    """The file ``path`` of the open ``folder``, opened with ``flags``."""
    # To open a device may do something, so its name is looked at before.
    with suppress(FileNotFoundError):
        looked = os.stat(path, dir_fd=folder, follow_symlinks=not flags & _NO_LINK)
        _require_regular(looked, path)
    try:
        opened = os.open(path, _FLAGS | flags, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket has taken its name
            raise NotRegularError(error.errno, _NOT_REGULAR, os.fspath(path)) from error
        raise
    try:
        _require_regular(os.fstat(opened), path)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _is_link(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, _NOT_REGULAR, os.fspath(path))


def _is_link(path: str | os.PathLike[str]) -> OSError:
    words = "it is a link, or a file with another name (a hard link)"
    return NotRegularError(errno.EMLINK, words, os.fspath(path))


def _shown(size: int) -> str:
    return f"{size >> 20} MiB" if size < 1 << 30 else f"{size >> 30} GiB"
