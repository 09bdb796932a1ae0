"""Real data as users have it: ``.npz`` files, folders of ``.npy`` files, mappings, iterables."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graph_init.engine import memory
from graph_init.errors import UsageError, printable
from graph_init.ir import Array

#: Arrays of all rows by input name, a file or folder of such, or batches: each a mapping, or a
#: sequence of the inputs in the model's order and the target, as PyTorch's DataLoader gives.
Data = str | os.PathLike[str] | Mapping[str, Array] | Iterable[Any]


def read(data: Data) -> dict[str, Array] | Iterable[Any]:
    """The arrays behind ``data``, or ``data`` itself if it is an iterable of batches."""
    if isinstance(data, Mapping):
        return {str(k): np.asarray(v) for k, v in data.items()}
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if not path.exists():
            raise UsageError(f"--data: there is no file or folder '{printable(str(path))}'")
        return read_folder(path) if path.is_dir() else read_npz(path)
    if isinstance(data, Iterable):
        return data
    raise UsageError(
        f"--data cannot be {type(data).__name__}; give a .npz file, a folder of .npy files, a "
        "mapping of arrays, or an iterable of batches"
    )


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an ``.npz`` file; pickles are refused, and what would not fit into memory."""
    file = Path(path)
    shown = printable(str(file))
    if not file.is_file():
        raise UsageError(f"--data: '{shown}' is not a regular file")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError("it has two arrays with the same name")
            need, room = sum(entry.file_size for entry in entries), memory.available()
            if room is not None and need > room:
                raise ValueError(
                    f"its arrays take {need / 1e9:.1f} GB, and {room / 1e9:.1f} GB is available; "
                    "give a folder of .npy files, which are mapped into memory"
                )
            for entry in entries:
                with archive.open(entry) as stream:
                    _check_header(stream, entry.file_size, entry.filename)
        with np.load(file, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in arrays.files}
    # Damaged archives make zipfile, zlib and NumPy raise errors of many kinds.
    except (Exception, RecursionError) as error:
        reason = printable(str(error)) or type(error).__name__
        raise UsageError(f"--data: '{shown}' is not a readable .npz file: {reason}") from error


def _check_header(stream: Any, size: int, name: str) -> None:
    """ValueError unless an ``.npy`` file of ``size`` bytes holds the array that its header says.

    NumPy takes the memory for it before it reads.
    """
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"'{name}' has the .npy version {version}; 1.0 and 2.0 can be read")
    shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects, not numbers")
    held = size - stream.tell()
    if any(dim < 0 for dim in shape) or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"'{name}' says it has the shape {shape} of {dtype}, but has {held} bytes")


def read_folder(folder: Path) -> dict[str, Array]:
    """``NAME.npy`` for every input and target, mapped into memory; pickles are refused."""
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UsageError(f"--data: the folder '{printable(str(folder))}' holds no .npy file")
    arrays: dict[str, Array] = {}
    for file in files:
        shown = printable(str(file))
        if not file.is_file():
            raise UsageError(f"--data: '{shown}' is not a regular file")
        try:
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (Exception, RecursionError) as error:  # of many kinds, as above
            reason = printable(str(error)) or type(error).__name__
            raise UsageError(f"--data: '{shown}' is not a readable .npy file: {reason}") from error
    return arrays


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
