"""The scales file: factors on a model's tensors, as JSON."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph_init.errors import ModelFileError, OutputError, printable
from graph_init.files import opening
from graph_init.output import targets, transaction

FORMAT = "graph-init/scales"
VERSION = 1

#: Bytes of a scales file, and commas and colons in it; one of a million tensors has less.
_LARGEST, _MOST = 1 << 26, 1 << 22


@dataclass(frozen=True)
class Scales:
    """Factor by name, and the scheme whose weights they belong to; ``keep``: the model's own."""

    factors: dict[str, float]
    scheme: str


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> Scales:
    """What a file holds, or its content. Raises ModelFileError if it is anything else."""
    found = dict(source) if isinstance(source, Mapping) else _read_json(Path(source))
    if found.get("format") != FORMAT or not isinstance(found.get("scales"), Mapping):
        raise ModelFileError(
            f'this is not a scales file: it lacks "format": "{FORMAT}" or "scales"'
        )
    if found.get("version") != VERSION:
        raise ModelFileError(
            f"the scales file has version {printable(str(found.get('version')))}; this program "
            f"reads {VERSION}"
        )
    factors = {str(name): _factor(name, given) for name, given in found["scales"].items()}
    told = found.get("provenance")
    scheme = told.get("graph_init.scheme") if isinstance(told, Mapping) else None
    return Scales(factors, scheme if isinstance(scheme, str) else "keep")


def _factor(name: object, given: object) -> float:
    """``given`` as a float, if it is a positive number that one can hold."""
    try:
        factor = float(given) if isinstance(given, int | float) else math.nan
    except OverflowError:
        factor = math.inf
    if isinstance(given, bool) or not 0 < factor < math.inf:
        shown = printable(repr(given)) if isinstance(given, int | float | str) else _kind(given)
        raise ModelFileError(
            f"the scale of '{printable(str(name))}' is {shown}, not a positive number"
        )
    return factor


def _kind(given: object) -> str:
    return f"of type {type(given).__name__}"


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
    shown = printable(str(path))
    try:
        text = opening.read(path, _LARGEST).decode()
        if text.count(",") + text.count(":") > _MOST:  # an object takes many times its text
            raise ValueError(f"it holds more than {_MOST:,} items")
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no scales file '{shown}'") from error
    # ValueError: not UTF-8, not JSON, a number of thousands of digits, or one of the two below.
    except (OSError, ValueError) as error:
        reason = printable(getattr(error, "strerror", None) or str(error))
        raise ModelFileError(f"'{shown}' is not a readable scales file: {reason}") from error
    except (RecursionError, MemoryError) as error:
        raise ModelFileError(f"'{shown}' is not a scales file: it is nested too deep") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"'{shown}' is not a scales file: it is not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counted.items() if count > 1)
        raise ValueError(f"the key '{twice}' occurs twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
