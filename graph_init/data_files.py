"""Real data as users have it: ``.npz`` files, folders of ``.npy`` files, mappings, iterables."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graph_init.builder import Array
from graph_init.errors import UsageError

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
            raise UsageError(f"--data: there is no file or folder '{path}'")
        return read_folder(path) if path.is_dir() else read_npz(path)
    if isinstance(data, Iterable):
        return data
    raise UsageError(
        f"--data cannot be {type(data).__name__}; give a .npz file, a folder of .npy files, a "
        "mapping of arrays, or an iterable of batches"
    )


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an ``.npz`` file; pickles are refused."""
    file = Path(path)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(f"--data: '{file}' is not a readable .npz file: {error}") from error


def read_folder(folder: Path) -> dict[str, Array]:
    """``NAME.npy`` for every input and target, mapped into memory; pickles are refused."""
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UsageError(f"--data: the folder '{folder}' holds no .npy file")
    arrays: dict[str, Array] = {}
    for file in files:
        try:
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"--data: '{file}' is not a readable .npy file: {error}") from error
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
