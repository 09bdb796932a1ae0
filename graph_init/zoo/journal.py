"""The journal of a run: one line for each model that was done, on the disk before it counts.

In a folder the journal is one file, ``journal.jsonl``, to which lines are appended. Objects of an
object store cannot be appended to, so there each write makes one: ``journal/NUMBER.jsonl``. If a
model has several lines, the last one counts. A line that is cut short, because the run was killed
while it was written, is left out when the journal is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from graph_init.errors import OutputError
from graph_init.files import opening
from graph_init.zoo.catalog import JOURNAL
from graph_init.zoo.records import Record
from graph_init.zoo.store import Folder, ObjectStore, Store

_END = ".jsonl"
#: Bytes of a line: one of a model with 200,000 data files has less. A longer one is none of ours.
_LONGEST = 1 << 26


class Journal:
    """Records by the name of the model. Only their places in the file are kept in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._copy: Path | None = None
        self._parts = 0
        if isinstance(store, Folder):
            self._path = store.path / f"{JOURNAL}{_END}"
        else:
            assert isinstance(store, ObjectStore)
            self._copy = Path(tempfile.mkdtemp(prefix="graph-init-journal-"))
            self._path = self._copy / f"{JOURNAL}{_END}"
            parts = store.names(JOURNAL)
            with self._path.open("wb") as stream:
                for part in parts:
                    stream.write(store.read(part) or b"")
            self._parts = max((int(Path(p).name.removesuffix(_END)) for p in parts), default=0)
        self._places: dict[str, int] = {}
        try:
            self._file = os.fdopen(opening.own(self._path), "r+b")
        except OSError as error:
            raise OutputError(f"cannot write journal {self._path}: {error.strerror}") from error
        self._index()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Record:
        self._file.seek(self._places[name])
        return Record.from_json(json.loads(self._file.readline()))

    def get(self, name: str) -> Record | None:
        try:
            return self[name]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None  # none, or none that this program has written

    def append(self, records: Sequence[Record]) -> None:
        """On the disk, or in the object store, when this returns."""
        if not records:
            return
        lines = [json.dumps(r.to_json(), separators=(",", ":")).encode() + b"\n" for r in records]
        at = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            if self._copy is None:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write journal {self._path}: {error.strerror}") from error
        if self._copy is not None:
            self._parts += 1
            self._store.write(f"{JOURNAL}/{self._parts:08d}{_END}", b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self._places[record.row.name] = at
            at += len(line)

    def close(self) -> None:
        self._file.close()
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)

    def _index(self) -> None:
        self._file.seek(0)
        at, line = 0, b"\n"
        while piece := self._file.readline(_LONGEST):
            line = piece
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                self._places[json.loads(line)["name"]] = at
            at += len(line)
        if not line.endswith(b"\n"):
            # What comes next must not be joined to a line that was cut short.
            self._file.seek(at)
            self._file.write(b"\n")
            self._file.flush()


@contextlib.contextmanager
def opened(store: Store) -> Iterator[Journal]:
    """The journal of ``store``, closed at the end."""
    journal = Journal(store)
    try:
        yield journal
    finally:
        journal.close()
