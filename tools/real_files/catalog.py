"""The list of files, in ``files.json``: from which package each is, and what it must be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LIST = Path(__file__).parent / "files.json"
#: Files of one package that are taken, so that no package speaks for all.
MOST = 12
#: One in so many files is set aside, by its digest.
ASIDE = 7


@dataclass(frozen=True, order=True)
class RealFile:
    """A file in an archive of the registry; ``path`` is its place there."""

    package: str
    version: str
    archive: str
    path: str
    sha256: str

    @property
    def name(self) -> str:
        """Short, and a file name: the package, and what tells its files apart."""
        plain = re.sub(r"[^\w.-]+", "-", Path(self.path).stem)
        return f"{self.package}--{plain}-{self.sha256[:6]}"

    @property
    def aside(self) -> bool:
        """Whether nobody looks at it while the program is changed: its digest says so."""
        return int(self.sha256[:8], 16) % ASIDE == 0


def read() -> list[RealFile]:
    """All files of the list."""
    if not LIST.exists():
        return []
    return [
        RealFile(**{k: v for k, v in entry.items() if k != "aside"})
        for entry in json.loads(LIST.read_text("utf-8"))
    ]


def write(files: Iterable[RealFile]) -> None:
    """The list anew, sorted; what has been set aside is marked."""
    entries = [{**asdict(f), **({"aside": True} if f.aside else {})} for f in sorted(files)]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    LIST.write_text(f"[\n{lines}\n]\n", "utf-8")


def added(known: Sequence[RealFile], new: Iterable[RealFile]) -> list[RealFile]:
    """``known`` and those of ``new``, files of one package, that are taken.

    Bytes that are there already are left out; of the others the ``MOST`` with the least digests
    are taken, which says nothing about what is in them.
    """
    digests = {f.sha256 for f in known}
    fresh = {f.sha256: f for f in sorted(new, reverse=True) if f.sha256 not in digests}
    return [*known, *(fresh[digest] for digest in sorted(fresh)[:MOST])]


def digest(path: Path) -> str:
    """The SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
