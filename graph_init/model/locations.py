"""Where the data files of a written model go: in its folder, and never under a telling name."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

#: Endings of names that no program runs, imports or reads as its settings.
_DATA_SUFFIXES = frozenset(
    ".bin .dat .data .onnx_data .params .pb .raw .tensor .weight .weights".split()
)
_LONGEST = 120  # characters of a name, to which a prefix and a suffix may be added


def safe_location(location: str, folder: Path) -> str:
    """A location like ``location``, from a model, that is safe to write in ``folder``.

    The model's author must not choose what the user's folder gets: no part is hidden, ``..``, or
    has characters beside letters, digits and ``_.+@-``; the name ends as data files do, so that it
    is no script, module or setting; and no link leads out of the folder. Plain locations, such as
    ``weights/model.bin``, stay as they are.
    """
    parts = [part for part in location.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    *folders, name = map(_plain, parts or ["weights"])
    if PurePosixPath(name).suffix.lower() not in _DATA_SUFFIXES:
        name += ".data"
    found = posixpath.join(*folders, name)
    if not (folder / found).parent.resolve().is_relative_to(folder.resolve()):
        return name
    return found


def _plain(part: str) -> str:
    plain = re.sub(r"[^\w.+@-]", "_", part)
    plain = re.sub(r"^[.-]", "_", plain)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST // 2] + plain[-_LONGEST // 2 :]
