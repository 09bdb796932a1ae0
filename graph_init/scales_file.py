"""The scales file: factors on a model's tensors, as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graph_init.errors import ModelFileError, UsageError

FORMAT = "graph-init/scales"
VERSION = 1


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, float]:
    """Factor by name, of a file or of its content. Raises ModelFileError if it is anything else."""
    content = dict(source) if isinstance(source, Mapping) else _read_json(Path(source))
    if content.get("format") != FORMAT or not isinstance(content.get("scales"), Mapping):
        raise ModelFileError(
            f'this is not a scales file: it lacks "format": "{FORMAT}" or "scales"'
        )
    if content.get("version") != VERSION:
        raise ModelFileError(
            f"the scales file has version {content.get('version')}; this program reads {VERSION}"
        )
    for name, factor in content["scales"].items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            raise ModelFileError(f"the scale of '{name}' is {factor!r}, not a positive number")
    return {name: float(factor) for name, factor in content["scales"].items()}


def write(
    path: str | os.PathLike[str], scales: Mapping[str, float], provenance: Mapping[str, str]
) -> None:
    """Atomic: a temporary file beside the target, then a rename."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "scales": dict(scales),
        "provenance": dict(provenance),
    }
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"'{target}' cannot be written: {error.strerror}") from error


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
