"""Files that are written under temporary names and take effect together, the last one last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from graph_init.output import ledger, scratch
from graph_init.output.signals import undisturbed


@dataclass
class Staged:
    """A file that is written, and what it will be called."""

    temporary: Path
    final: Path | None = None
    is_data: bool = False  # of a model that is written after it


class Transaction:
    """Stages files; when the block ends well, all of them replace what had their names.

    They do so in the order in which they were named, each by one rename. If anything fails before
    the last of them has, all is as it was. What cannot be undone (a killed process) leaves a
    prefix of them in effect: so the file that refers to the others comes last.
    """

    def __init__(self) -> None:
        self._staged: list[Staged] = []
        self._order: list[Staged] = []
        self._created: list[Path] = []
        self._backups: list[tuple[Path, Path]] = []  # (backup, final)
        self._folders: list[Path] = []
        self._swept: set[Path] = set()
        self._model: Path | None = None
        self._noted: dict[str, ledger.Marks] = {}
        self._open = ExitStack()

    def __enter__(self) -> Transaction:
        return self

    # -- before ---------------------------------------------------------------------------------

    def make_folder(self, folder: Path) -> None:
        """Create ``folder`` with its parents; removed again on failure."""
        missing = [path for path in [folder, *folder.parents] if not path.exists()]
        for path in reversed(missing):
            with undisturbed():
                path.mkdir()
                self._folders.append(path)

    @contextmanager
    def stage(self, folder: Path) -> Iterator[tuple[IO[bytes], Staged]]:
        """A binary stream to a new file of ``folder``; it is on the disk when the block ends."""
        with undisturbed():
            if folder not in self._swept:
                self._swept.add(folder)
                scratch.sweep(folder)
            path, lock = scratch.new(folder)
            staged = Staged(path)
            self._staged.append(staged)
            if scratch.LOCKS:
                self._open.callback(os.close, lock)
                lock = os.dup(lock)
        with os.fdopen(lock, "r+b") as stream:
            yield stream, staged
            stream.flush()
            os.fsync(stream.fileno())

    @contextmanager
    def file(self, final: Path) -> Iterator[IO[bytes]]:
        """A binary stream to what will be ``final``."""
        with self.stage(final.parent) as (stream, staged):
            yield stream
        self.name(staged, final)

    def adopt(self, written: Path, final: Path) -> None:
        """A file that is on the disk already becomes ``final``."""
        staged = Staged(written)
        self._staged.append(staged)
        self.name(staged, final)

    def lock(self, folder: Path) -> None:
        """Until the end, no other run takes names in ``folder``."""
        self._open.enter_context(scratch.locked(folder))

    def name(self, staged: Staged, final: Path) -> None:
        """The file becomes ``final``, after those that were named before it.

        An existing file's permissions, and its owner where that may be set, stay what they are.
        """
        staged.final = final
        self._order.append(staged)
        with suppress(FileNotFoundError):
            old = os.stat(final)
            new = os.stat(staged.temporary)
            if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                with suppress(OSError):
                    os.chown(staged.temporary, old.st_uid, old.st_gid)
            with suppress(OSError):
                os.chmod(staged.temporary, old.st_mode & 0o7777)

    def data_of(self, model: Path) -> list[Path]:
        """``model``, the last file, refers to the others, which are its data.

        Returns the data files that this program has written for it before. They are removed at the
        end, and if this run is killed, at the end of the next one.
        """
        self._model = model
        self._noted = ledger.read(model)
        return [p for n, m in self._noted.items() if ledger.marks(p := model.parent / n) == m]

    # -- the end --------------------------------------------------------------------------------

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with undisturbed(), self._open:
            if kind is not None:
                self._roll_back()
                return
            try:
                old = self._commit()
            except BaseException:
                self._roll_back()
                raise
            for path in [*(b.parent for b, _ in self._backups), *old]:
                scratch.remove(path)
            if self._model is not None:
                ledger.write(self._model, self._new_data(self._model))

    def _commit(self) -> list[Path]:
        """Returns the old data files of the model, which nothing refers to any more."""
        old: list[Path] = []
        if self._model is not None:
            old = self.data_of(self._model)  # again: now that nobody else takes names
            new = self._new_data(self._model)
            old = [path for path in old if os.path.relpath(path, self._model.parent) not in new]
            ledger.write(self._model, {**self._noted, **new})
        for staged in self._order[:-1]:
            assert staged.final is not None
            if os.path.lexists(staged.final):
                self._back_up(staged.final)
            else:
                self._created.append(staged.final)
            os.replace(staged.temporary, staged.final)
        folders = {s.final.parent for s in self._order if s.final is not None}
        for folder in folders:  # what the last file refers to is there before it is
            sync(folder)
        for staged in self._order[-1:]:
            assert staged.final is not None
            os.replace(staged.temporary, staged.final)
            # Nothing may fail from here on.
            sync(staged.final.parent)
        return old

    def _new_data(self, model: Path) -> dict[str, ledger.Marks]:
        """What is to be noted of the files to which ``model`` refers."""
        found = {}
        for s in self._order[:-1]:
            if s.final is not None and s.is_data:
                at = ledger.marks(s.temporary) or ledger.marks(s.final)
                if at is not None:
                    found[os.path.relpath(s.final, model.parent)] = at
        return found

    def _back_up(self, final: Path) -> None:
        """Keep what is called ``final`` under another name, too."""
        folder, lock = scratch.new(final.parent, is_folder=True)
        self._open.callback(os.close, lock)
        self._backups.append((folder / "backup", final))
        try:
            os.link(final, folder / "backup")
        except OSError:  # a file system without hard links
            shutil.copy2(final, folder / "backup")

    def _roll_back(self) -> None:
        for path in [*(s.temporary for s in self._staged), *self._created]:
            scratch.remove(path)
        for backup, final in self._backups:
            with suppress(OSError):
                os.replace(backup, final)
            scratch.remove(backup.parent)
        for folder in reversed(self._folders):
            with suppress(OSError):
                if not any(folder.iterdir()):
                    folder.rmdir()


def sync(folder: Path) -> None:
    """A rename in ``folder`` survives a loss of power, where the system can promise that."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write(path: Path, content: bytes) -> None:
    """One file, whole or not at all."""
    with Transaction() as transaction, transaction.file(path) as stream:
        stream.write(content)
