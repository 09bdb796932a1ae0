"""A model's files: brought here if they are elsewhere, and their digests."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graph_init.errors import GraphInitError, ModelFileError
from graph_init.files import opening
from graph_init.model.external_data import external_entry, is_external, tensors
from graph_init.model.protobuf_limits import MAX_MESSAGE, check_field_count
from graph_init.zoo import catalog
from graph_init.zoo.records import Input

#: A file with what tells whether it has changed; None if it was not there.


def digest(path: str) -> str | None:
    """SHA-256 of a local file's content, or of what a remote one's store says of it.

    None if there is no such file, or if it cannot be read: as a pipe or a device, for one.
    """
    if catalog.is_remote(path):
        try:
            fs, inside = catalog.filesystem(path)
            fs.invalidate_cache()
            return str(fs.ukey(inside))
        except GraphInitError:
            raise
        except Exception:  # a file system raises what it likes
            return None
    found = hashlib.sha256()
    try:
        with opening.stream(path) as stream:
            while block := stream.read(1 << 22):
                found.update(block)
    except OSError:
        return None
    return found.hexdigest()


def unchanged(inputs: Iterable[Input]) -> bool:
    """Whether every file is there, or not there, as it was."""
    return all(digest(i["path"]) == i["digest"] for i in inputs)


def bring(source: str, folder: Path) -> tuple[Path, list[Input]]:
    """A local path to the model with its data beside it, and all that it consists of.

    Local models stay where they are. What a broken model refers to is left to the loader, which
    says what is wrong with it. Raises ModelFileError if a remote file cannot be read.
    """
    remote = catalog.is_remote(source)
    path = folder / posixpath.basename(source) if remote else Path(source)
    if remote:
        _fetch(source, path)
    found = [source]
    base = source.rpartition("/")[0]
    for location in _locations(path):
        where = f"{base}/{location}"
        found.append(where)
        if remote:
            target = path.parent / location
            target.parent.mkdir(parents=True, exist_ok=True)
            if digest(where) is not None:
                _fetch(where, target)
    return path, [{"path": f, "digest": digest(f)} for f in found]


def of_data(data: str) -> list[Input]:
    """The files behind ``--data``."""
    path = Path(data)
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    return [{"path": str(f), "digest": digest(str(f))} for f in files]


def _locations(path: Path) -> list[str]:
    """Data files that the model at ``path`` refers to, inside its folder."""
    proto = onnx.ModelProto()
    try:
        content = opening.read(path, MAX_MESSAGE)
        check_field_count(content, str(path))
        proto.ParseFromString(content)
    except (OSError, DecodeError, ModelFileError, ValueError):
        return []
    found = {external_entry(t, "location") or "" for t in tensors(proto) if is_external(t)}
    normal = {posixpath.normpath(f.replace("\\", "/")) for f in found}
    return sorted(
        f for f in normal if f not in (".", "..") and not f.startswith("../") and f[:1] != "/"
    )


def _fetch(source: str, target: Path) -> None:
    fs, path = catalog.filesystem(source)
    try:
        fs.get_file(path, str(target))
    except Exception as error:
        raise ModelFileError(f"cannot read {source}: {catalog.reason(error)}") from error
