"""Real data as users have it: ``.npz`` files, folders of ``.npy`` files, mappings, iterables."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graph_init.engine import memory
from graph_init.errors import UsageError, printable
from graph_init.files import maps, opening
from graph_init.ir import Array, Shape

#: Arrays of all rows by input name, a file or folder of such, or batches: each a mapping, or a
#: sequence of the inputs in the model's order and the target, as PyTorch's DataLoader gives.
Data = str | os.PathLike[str] | Mapping[str, Array] | Iterable[Any]


def read(data: Data, limit: int | None = None) -> dict[str, Array] | Iterable[Any]:
    """The arrays behind ``data``, or ``data`` itself if it is an iterable of batches.

    An archive's arrays may take ``limit`` bytes of memory; None: what there is.
    """
    if isinstance(data, Mapping):
        return {str(k): np.asarray(v) for k, v in data.items()}
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        try:
            is_folder = path.is_dir()
        except (OSError, ValueError):  # which is told when the file is opened
            is_folder = False
        return read_folder(path) if is_folder else read_npz(path, limit)
    if isinstance(data, Iterable):
        return data
    raise UsageError(
        f"--data cannot be {type(data).__name__}; give a .npz file, a folder of .npy files, a "
        "mapping of arrays, or an iterable of batches"
    )


def read_npz(path: str | os.PathLike[str], limit: int | None = None) -> dict[str, Array]:
    """The arrays of an ``.npz`` file; pickles are refused, and what would not fit into memory.

    That is ``limit`` bytes, or what there is.
    """
    file = Path(path)
    shown = printable(str(file))
    try:
        with _opened(file) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError("it has two arrays with the same name")
            need = sum(entry.file_size for entry in entries)
            room = memory.available() if limit is None else limit
            if room is not None and need > room:
                raise ValueError(
                    f"its arrays take {need / 1e9:.1f} GB, and {room / 1e9:.1f} GB is "
                    f"{'available' if limit is None else 'allowed by --memory-limit'}; "
                    "give a folder of .npy files, which are mapped into memory"
                )
            for entry in entries:
                with archive.open(entry) as content:
                    _header(content, entry.file_size, entry.filename)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return {k: arrays[k] for k in arrays.files}
    except UsageError:
        raise
    # Damaged archives make zipfile, zlib and NumPy raise errors of many kinds.
    except (Exception, RecursionError) as error:
        reason = printable(str(error)) or type(error).__name__
        raise UsageError(f"--data: '{shown}' is not a readable .npz file: {reason}") from error


def _opened(file: Path) -> BinaryIO:
    """A stream from a regular file; UsageError if it cannot be read."""
    shown = printable(str(file))
    try:
        return opening.stream(file)
    except FileNotFoundError as error:
        raise UsageError(f"--data: there is no file or folder '{shown}'") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = printable(getattr(error, "strerror", None) or str(error))
        raise UsageError(f"--data: '{shown}' cannot be read: {reason}") from error


def _header(stream: Any, size: int, name: str) -> tuple[Shape, bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the array in an ``.npy`` file.

    ``stream`` is left where the array begins. ValueError unless the file of ``size`` bytes holds
    the array that its header says: NumPy takes the memory for it before it reads.
    """
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"'{name}' has the .npy version {version}; 1.0 and 2.0 can be read")
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects, not numbers")
    held = size - stream.tell()
    if any(dim < 0 for dim in shape) or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"'{name}' says it has the shape {shape} of {dtype}, but has {held} bytes")
    return shape, fortran, dtype


def read_folder(folder: Path) -> dict[str, Array]:
    """``NAME.npy`` for every input and target; pickles are refused.

    The first `maps.READ` bytes are read, files beyond are mapped into memory.
    """
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UsageError(f"--data: the folder '{printable(str(folder))}' holds no .npy file")
    arrays: dict[str, Array] = {}
    left = maps.READ
    for file in files:
        shown = printable(str(file))
        try:
            with _opened(file) as stream:
                arrays[file.stem], left = _array(stream, file, left)
        except UsageError:
            raise
        except (Exception, RecursionError) as error:  # of many kinds, as above
            reason = printable(str(error)) or type(error).__name__
            raise UsageError(f"--data: '{shown}' is not a readable .npy file: {reason}") from error
    return arrays


def _array(stream: BinaryIO, file: Path, left: int) -> tuple[Array, int]:
    """The array of the ``.npy`` file, and how many bytes of ``left`` are left that may be read."""
    size = os.fstat(stream.fileno()).st_size
    shape, fortran, dtype = _header(stream, size, file.name)
    start = stream.tell()
    if size > left:
        whole = maps.of_file(stream.fileno(), printable(str(file)))
        flat = np.frombuffer(whole, dtype, math.prod(shape), start)
    else:
        left -= size
        flat = np.frombuffer(stream.read(size - start), dtype)
    return flat.reshape(shape, order="F" if fortran else "C"), left


def as_batch(item: Any, inputs: Sequence[str], target: str) -> dict[str, Array]:
    """One batch of an iterable by name; a sequence is the inputs in order, then the target."""
    if isinstance(item, Mapping):
        return {str(k): np.asarray(v) for k, v in item.items()}
    if isinstance(item, (tuple, list)) and len(item) == len(inputs) + 1:
        named = zip([*inputs, target], item, strict=True)
        return {k: np.asarray(v) for k, v in named}
    raise UsageError(
        f"--data: a batch is a mapping, or a sequence of {', '.join(inputs)} and {target}; got "
        f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
    )
