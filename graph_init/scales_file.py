"""The scales file: factors on a model's tensors, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graph_init.errors import ModelFileError, OutputError
from graph_init.output import targets, transaction

FORMAT = "graph-init/scales"
VERSION = 1


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, float]:
    """Factor by name, of a file or of its content. Raises ModelFileError if it is anything else."""
    found = dict(source) if isinstance(source, Mapping) else _read_json(Path(source))
    if found.get("format") != FORMAT or not isinstance(found.get("scales"), Mapping):
        raise ModelFileError(
            f'this is not a scales file: it lacks "format": "{FORMAT}" or "scales"'
        )
    if found.get("version") != VERSION:
        raise ModelFileError(
            f"the scales file has version {found.get('version')}; this program reads {VERSION}"
        )
    for name, factor in found["scales"].items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            raise ModelFileError(f"the scale of '{name}' is {factor!r}, not a positive number")
    return {name: float(factor) for name, factor in found["scales"].items()}


def content(scales: Mapping[str, float], provenance: Mapping[str, str]) -> bytes:
    """What is in the file."""
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "scales": dict(scales),
        "provenance": dict(provenance),
    }
    return (json.dumps(whole, indent=2) + "\n").encode()


def write(
    path: str | os.PathLike[str], scales: Mapping[str, float], provenance: Mapping[str, str]
) -> None:
    """Write the file, whole or not at all; OutputError if that cannot be done."""
    target = targets.file(path)
    try:
        transaction.write(target, content(scales, provenance))
    except OSError as error:
        raise OutputError(f"cannot write file {path}: {error.strerror or error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no scales file '{path}'") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFileError(f"'{path}' is not a readable scales file: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"'{path}' is not a scales file: it is not a JSON object")
    return content
