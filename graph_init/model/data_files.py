"""The data files of a model that is written: copied with their changes, and named."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graph_init.errors import printable
from graph_init.files import maps, opening
from graph_init.model.external_data import (
    drop_entry,
    external_entry,
    external_size,
    is_external,
    set_entry,
    tensors,
)
from graph_init.model.load import LoadedModel
from graph_init.model.locations import safe_location
from graph_init.model.new_values import NewValue, cast, raw_bytes
from graph_init.model.opened_data import Identity
from graph_init.model.protobuf_limits import external_locations
from graph_init.output.transaction import Staged, Transaction

#: Changes left to do in external tensors, by :func:`tensor_key`; holding the message keeps its key
#: valid.
Pending = dict[int, tuple[onnx.TensorProto, NewValue]]

_MAX_FILE = 1 << 31  # bytes of a serialized model: protobuf's limit
_ALIGNMENT = 4096  # of data appended to an external file, so that it can be memory-mapped


def tensor_key(tensor: onnx.TensorProto) -> int:
    """Identity of a tensor of one proto, for as long as its message is referred to.

    Names may be missing or repeated in attributes, so the message itself is the key; protobuf
    gives the same Python object for the same message while that object lives.
    """
    return id(tensor)


def read_external(loaded: LoadedModel, tensor: onnx.TensorProto) -> bytes:
    """The bytes of ``tensor`` in its data file."""
    location = external_entry(tensor, "location") or ""
    offset = int(external_entry(tensor, "offset") or 0)
    return loaded.data_files.read(location, offset, external_size(tensor))


def _by_file(loaded: LoadedModel, proto: onnx.ModelProto) -> dict[str, list[onnx.TensorProto]]:
    """The tensors in each data file, by its first location.

    A model may spell the location of one file in many ways, and each would become a copy.
    """
    spelled: dict[Identity, str] = {}
    groups: dict[str, list[onnx.TensorProto]] = {}
    for tensor in filter(is_external, tensors(proto)):
        location = external_entry(tensor, "location") or ""
        first = spelled.setdefault(loaded.data_files.identity(location), location)
        groups.setdefault(first, []).append(tensor)
    return groups


def stage(
    loaded: LoadedModel,
    proto: onnx.ModelProto,
    pending: Pending,
    target: Path,
    transaction: Transaction,
) -> dict[str, Staged]:
    """Copy each data file to its folder beside ``target`` with the pending changes made."""
    result = {}
    for location, members in _by_file(loaded, proto).items():
        folder = (target.parent / safe_location(location, target.parent)).parent
        transaction.make_folder(folder)
        with transaction.stage(folder) as (stream, staged):
            loaded.data_files.copy(location, stream)
            aliased = _overlapping(members)
            for tensor in members:
                if tensor_key(tensor) in pending:
                    raw = raw_bytes(cast(tensor, pending[tensor_key(tensor)][1]))
                    offset = int(external_entry(tensor, "offset") or 0)
                    if tensor_key(tensor) in aliased:
                        # Another tensor shares these bytes and has to keep its value.
                        end = stream.seek(0, os.SEEK_END)
                        offset = math.ceil(end / _ALIGNMENT) * _ALIGNMENT
                        stream.write(bytes(offset - end))
                        set_entry(tensor, "offset", str(offset))
                    stream.seek(offset)
                    stream.write(raw)
        result[location] = staged
    return result


def place(
    loaded: LoadedModel,
    proto: onnx.ModelProto,
    pending: Pending,
    target: Path,
    transaction: Transaction,
    staged: Mapping[str, Staged],
    own_data: bool,
) -> None:
    """Give the data files names that nobody has, and let the tensors refer to these."""
    taken = {target.name}
    for location, members in _by_file(loaded, proto).items():
        chosen = _choose_location(safe_location(location, target.parent), target, taken, own_data)
        taken.add(chosen)
        staged[location].is_data = True
        transaction.name(staged[location], target.parent / chosen)
        changed = any(tensor_key(tensor) in pending for tensor in members)
        for tensor in members:
            if chosen != external_entry(tensor, "location"):
                set_entry(tensor, "location", chosen)
            if changed:
                drop_entry(tensor, "checksum")
    in_use = {loaded.data_files.identity(location): location for location in staged}
    for path in transaction.data_of(target):
        with suppress(FileNotFoundError):
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in in_use:  # its name goes, and the input may be read once more
                loaded.data_files.keep(in_use[identity])


def _overlapping(members: list[onnx.TensorProto]) -> set[int]:
    """Keys of the tensors whose bytes in the data file another tensor uses too."""
    spans = sorted(
        (start, start + external_size(tensor), tensor_key(tensor))
        for tensor in members
        for start in [int(external_entry(tensor, "offset") or 0)]
    )
    result: set[int] = set()
    furthest, holder = -1, -1
    for start, end, key in spans:
        if start < furthest and start < end:
            result |= {key, holder}
        if end > furthest:
            furthest, holder = end, key
    return result


def own_data_files(model: Path) -> list[Path]:
    """The files that a model refers to and that are called after it; none if it is no model."""
    try:
        with opening.stream(model) as stream:
            if not 0 < os.fstat(stream.fileno()).st_size < _MAX_FILE:
                return []
            with maps.of_file(stream.fileno(), printable(str(model))) as content:
                locations = external_locations(content)
        folder = model.parent.resolve()
        found = {folder / location for location in locations}
        inside = [p for p in sorted(found) if p.is_file() and p.resolve().is_relative_to(folder)]
        return [p for p in inside if p != model and _own_name(p.name, model) is not None]
    except (OSError, DecodeError, TypeError, ValueError):
        return []  # not a model, or one that nobody could have read: text that is no text, say


def _stem(target: Path) -> str:
    """What its data files are called after: a location is text, which a file's name need not be."""
    return re.sub("[\ud800-\udfff]", "_", target.stem)


def _own_name(name: str, target: Path) -> re.Match[str] | None:
    """``stem.name.bin`` and ``stem.name.2.bin`` are of ``stem.onnx``."""
    pattern = rf"{re.escape(_stem(target))}\.(?P<name>.+?)(\.\d+)?(?P<suffix>\.[^.]*)?$"
    return re.match(pattern, name, re.DOTALL)


def _choose_location(location: str, target: Path, taken: set[str], own_data: bool) -> str:
    """A location in ``target``'s folder that no file has: what is there is never replaced."""
    original = PurePosixPath(location)
    stem = _stem(target)
    # Saving in place again and again must not make the name longer each time.
    own = _own_name(original.name, target)
    base = PurePosixPath(own["name"] + (own["suffix"] or "") if own else original.name)
    free = location not in taken and not os.path.lexists(target.parent / location)
    if not own and not own_data and free:
        return location
    suffix = 0
    while True:
        number = f".{suffix}" if suffix else ""
        candidate = str(original.with_name(f"{stem}.{base.stem}{number}{base.suffix}"))
        if candidate not in taken and not os.path.lexists(target.parent / candidate):
            return candidate
        suffix += 1
