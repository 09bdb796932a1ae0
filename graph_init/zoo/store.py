"""The folder that a run writes to: on a file system, or in an object store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from graph_init.errors import ModelFileError, OutputError, UsageError
from graph_init.files import opening
from graph_init.zoo import catalog

#: Unfinished work, by run; hidden, and never read.
SCRATCH = ".scratch"
#: Bytes of a file that is read back: the overview has some 2 KB for each model.
LARGEST = 1 << 30


class Store(Protocol):
    """Names are relative, with slashes. Whatever is written is there as a whole or not at all."""

    url: str

    def is_empty(self) -> bool: ...

    def exists(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def place(self, folder: Path, names: Sequence[str]) -> None:
        """Take the files ``names`` out of the local ``folder``, in this order."""

    def scratch(self, run: str) -> Path:
        """Where a run keeps unfinished work, on this machine."""

    def begin(self, run: str) -> None:
        """Make ready for ``run``: what other runs left unfinished on this machine goes."""

    def end(self) -> None:
        """Nothing unfinished is left."""


def open_store(url: str) -> Store:
    """The store at a path or an address, which need not exist yet."""
    return ObjectStore(url) if catalog.is_remote(url) else Folder(url)


class Folder:
    """On a file system, which several machines may share."""

    def __init__(self, path: str) -> None:
        self.path: Path = Path(path).absolute()
        self.url: str = str(self.path)

    def create(self) -> None:
        """UsageError if there can be no such folder."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"'{self.path}' cannot be written to: {error.strerror}") from error

    def is_empty(self) -> bool:
        try:
            return not any(self.path.iterdir())
        except FileNotFoundError:
            return True
        except OSError as error:
            raise UsageError(f"'{self.path}' is not a folder to write to: {error.strerror}") from (
                error
            )

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes | None:
        try:
            return opening.read(self.path / name, LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ModelFileError(f"cannot read '{self.path / name}': {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        target = self.path / name
        temporary = self.path / SCRATCH / f"{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"'{target}' cannot be written: {error.strerror}") from error

    def place(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            target = self.path / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._require_inside(target.parent)
                (folder / name).replace(target)
            except OSError as error:
                raise OutputError(f"'{target}' cannot be written: {error.strerror}") from error

    def scratch(self, run: str) -> Path:
        return self.path / SCRATCH / run

    def begin(self, run: str) -> None:
        _clean(self.path / SCRATCH)
        self._require_inside(self.path / SCRATCH)
        self.scratch(run).mkdir(parents=True)

    def _require_inside(self, folder: Path) -> None:
        """OutputError if a link, which somebody has put there, leads out of the output."""
        if not folder.resolve().is_relative_to(self.path.resolve()):
            raise OutputError(f"'{folder}' is, or is behind, a link that leads out of the output")

    def end(self) -> None:
        _clean(self.path / SCRATCH)


class ObjectStore:
    """What fsspec writes to; unfinished work lies in this machine's temporary folder."""

    def __init__(self, url: str) -> None:
        self.url: str = url.rstrip("/")
        self._fs, self._path = catalog.filesystem(self.url)
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        self._local = Path(tempfile.gettempdir()) / f"graph-init-zoo-{digest}"

    def _guarded(self, name: str, action: Any) -> Any:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:
            raise OutputError(f"{self.url}/{name}: {catalog.reason(error)}") from error

    def is_empty(self) -> bool:
        def listed() -> bool:
            self._fs.invalidate_cache()
            return not self._fs.exists(self._path) or not self._fs.find(self._path, maxdepth=1)

        try:
            return bool(self._guarded("", listed))
        except FileNotFoundError:
            return True

    def exists(self, name: str) -> bool:
        def look() -> bool:
            self._fs.invalidate_cache()
            return bool(self._fs.exists(f"{self._path}/{name}"))

        return bool(self._guarded(name, look))

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._guarded(name, lambda: self._fs.cat_file(f"{self._path}/{name}")))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._guarded(name, lambda: self._fs.pipe_file(f"{self._path}/{name}", content))

    def names(self, prefix: str) -> list[str]:
        """Names that begin with ``prefix``, a folder."""

        def find() -> list[str]:
            self._fs.invalidate_cache()
            return sorted(self._fs.find(f"{self._path}/{prefix}"))

        try:
            found = self._guarded(prefix, find)
        except FileNotFoundError:
            return []
        return [f.removeprefix(self._path).lstrip("/") for f in found]

    def place(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            put = lambda name=name: self._fs.put_file(str(folder / name), f"{self._path}/{name}")  # noqa: E731
            self._guarded(name, put)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._guarded(name, lambda: self._fs.rm_file(f"{self._path}/{name}"))

    def scratch(self, run: str) -> Path:
        return self._local / run

    def begin(self, run: str) -> None:
        _clean(self._local)
        self.scratch(run).mkdir(parents=True)

    def end(self) -> None:
        _clean(self._local)


def _clean(folder: Path) -> None:
    """Remove ``folder``. A process of the run that left it may still be at work there."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
