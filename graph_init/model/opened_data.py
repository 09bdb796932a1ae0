"""The data files of a model, opened once: what has been checked is what is read."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnx_ir

from graph_init.errors import ModelFileError, printable
from graph_init.files import maps, opening
from graph_init.ir import Array

#: Files that stay open; a model with more of them than this has the others opened again.
HELD = 200
_PIECE = 1 << 22  # bytes that are copied at once

#: What tells a file from others: device and inode.
Identity = tuple[int, int]


class _Descriptor:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, number)

    def read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.number, size, offset)
        with self._lock:
            os.lseek(self.number, offset, os.SEEK_SET)
            return os.read(self.number, size)


@dataclass
class _File:
    size: int
    identity: Identity
    names: int
    held: _Descriptor | None = None
    mapped: mmap.mmap | None = None


@dataclass
class DataFolder:
    """The folder ``path`` of a model, whose data files are found by their locations in it.

    The first use of a location opens its file, and from then on that very file is read, whatever
    has its name. Of more than `HELD` files the others are opened again for each use, in the same
    way, and have to be the same files.
    """

    path: Path
    _files: dict[str, _File] = field(default_factory=dict, repr=False)
    _same: dict[Identity, _File] = field(default_factory=dict, repr=False)
    _taken: int = 0  # bytes of arrays that were read, not mapped

    def size(self, location: str) -> int:
        """Bytes of the file when it was first opened; OSError as `opening.beneath`."""
        return self._file(location).size

    def identity(self, location: str) -> Identity:
        """The same for two locations of one file."""
        return self._file(location).identity

    def names(self, location: str) -> int:
        """Number of hard links: names of the file, here or elsewhere."""
        return self._file(location).names

    def keep(self, location: str) -> None:
        """The file can be read even after it has been removed or replaced."""
        file = self._file(location)
        file.held = file.held or self._again(location, file)

    def read(self, location: str, offset: int, length: int) -> bytes:
        """These bytes of the file; ModelFileError if it no longer has them."""
        descriptor = self._descriptor(location)
        content = bytearray()
        while len(content) < length:
            piece = descriptor.read(offset + len(content), min(_PIECE, length - len(content)))
            if not piece:
                raise self._changed(location, "has become shorter")
            content += piece
        return bytes(content)

    def copy(self, location: str, stream: IO[bytes]) -> None:
        """Write the file's bytes to ``stream``; ModelFileError if it has become shorter."""
        size = self.size(location)
        for start in range(0, size, _PIECE):
            stream.write(self.read(location, start, min(_PIECE, size - start)))

    def array(self, location: str, offset: int, length: int) -> Array:
        """These bytes as uint8, shape [length].

        Of all arrays the first `maps.READ` bytes are read; others are mapped if the file is held.
        """
        file = self._file(location)
        if file.held is None or self._taken + length <= maps.READ:
            self._taken += length
            return np.frombuffer(self.read(location, offset, length), np.uint8)
        if os.fstat(file.held.number).st_size < offset + length:
            raise self._changed(location, "has become shorter")
        if file.mapped is None:
            file.mapped = maps.of_file(file.held.number, printable(str(self.path / location)))
        return np.frombuffer(file.mapped, np.uint8, length, offset)

    def _file(self, location: str) -> _File:
        if location not in self._files:
            descriptor = _Descriptor(opening.beneath(self.path, location))
            status = os.fstat(descriptor.number)
            identity = (status.st_dev, status.st_ino)
            if identity not in self._same:
                held = descriptor if len(self._same) < HELD else None
                self._same[identity] = _File(status.st_size, identity, status.st_nlink, held)
            self._files[location] = self._same[identity]
        return self._files[location]

    def _descriptor(self, location: str) -> _Descriptor:
        file = self._file(location)
        return file.held or self._again(location, file)

    def _again(self, location: str, file: _File) -> _Descriptor:
        try:
            descriptor = _Descriptor(opening.beneath(self.path, location))
        except (OSError, RuntimeError) as error:
            raise self._changed(location, "can no longer be opened") from error
        status = os.fstat(descriptor.number)
        if (status.st_dev, status.st_ino) != file.identity:
            raise self._changed(location, "has been replaced")
        return descriptor

    def _changed(self, location: str, how: str) -> ModelFileError:
        shown = self.path / printable(location)
        return ModelFileError(
            f"data file {shown} {how} since it was checked; run it again when nobody writes there"
        )


class _DataTensor(onnx_ir.ExternalTensor):
    """A tensor in a data file that is open, instead of one that is opened by its name."""

    __slots__ = ("_folder", "_values")

    def __init__(self, tensor: onnx_ir.ExternalTensor, folder: DataFolder, name: str) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=name,
            base_dir=folder.path,
        )
        self._folder = folder
        self._values: Array | None = None

    def renamed(self, name: str) -> _DataTensor:
        """A tensor of the same data called ``name``."""
        return _DataTensor(self, self._folder, name)

    def numpy(self) -> Array:
        """The values, mapped into memory where they can be; ModelFileError if the file changed."""
        if self._values is None:
            raw = self._folder.array(str(self.location), self.offset or 0, self.nbytes)
            self._values = self._decoded(raw)
        return self._values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found = self.numpy()
        return found if dtype is None else found.astype(dtype)

    def tobytes(self) -> bytes:
        """The bytes as they are in the file."""
        return self._folder.read(str(self.location), self.offset or 0, self.nbytes)

    def tofile(self, file: Any) -> None:
        """Write the bytes to the stream ``file``."""
        file.write(self.tobytes())

    def _decoded(self, raw: Array) -> Array:
        shape = self.shape.numpy()
        if self.dtype.bitwidth < 8:  # several elements in a byte, which are unpacked
            proto = onnx.TensorProto(data_type=int(self.dtype), dims=shape, raw_data=raw.tobytes())
            return np.asarray(onnx_ir.serde.TensorProtoTensor(proto).numpy())
        kind = np.dtype(self.dtype.numpy()).newbyteorder("<")
        return np.frombuffer(raw, kind).reshape(shape) if len(raw) else np.empty(shape, kind)


def bind(graph: onnx_ir.Graph, folder: DataFolder) -> None:
    """Let the external tensors of ``graph`` and its subgraphs be read from ``folder``'s files."""
    for scope in [graph, *graph.subgraphs()]:
        for value in scope.initializers.values():
            if isinstance(value.const_value, onnx_ir.ExternalTensor):
                value.const_value = _bound(value.const_value, folder)
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            held = None if attribute.is_ref() else attribute.value
            if isinstance(held, onnx_ir.ExternalTensor):
                node.attributes[name] = onnx_ir.AttrTensor(name, _bound(held, folder))
            elif attribute.type == onnx_ir.AttributeType.TENSORS and held is not None:
                node.attributes[name] = onnx_ir.AttrTensors(name, [_bound(t, folder) for t in held])


def renamed(tensor: Any, name: str | None) -> Any:
    """A tensor of the same data called ``name``.

    Always a new object: several copies of a function body share one, and a tensor that wraps a
    message of the user's model would write the name into that model.
    """
    if isinstance(tensor, _DataTensor):
        return tensor.renamed(name or "")
    return onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=name)


def _bound(tensor: Any, folder: DataFolder) -> Any:
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return _DataTensor(tensor, folder, tensor.name or "")
    return tensor
