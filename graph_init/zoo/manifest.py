"""Options of a model, and the manifest that gives them: YAML or JSON, checked before any runs.

::

    format: graph-init/zoo
    version: 1
    defaults: {scheme: he}
    models:
      - source: vision/            # a file, folder, glob or URL; relative to the manifest
      - source: big/vgg19.onnx
        name: vgg                  # where it goes in the output; for a single file
        options: {batch-size: 4, time-limit: 10m}

Options have the names that they have on the command line. A model's own win over ``defaults``, and
those over the command line's.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from graph_init import api
from graph_init.engine import memory
from graph_init.engine.runtime import ENGINES
from graph_init.errors import UsageError
from graph_init.init import schemes
from graph_init.tuning import registry
from graph_init.zoo import extra

FORMAT = "graph-init/zoo"
VERSION = 1
SUFFIXES = (".yaml", ".yml", ".json")

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class _Wrong(Exception):
    """What a value should have been."""


def _number(kind: type, least: float | None = None) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        whole = kind is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise _Wrong("a whole number" if whole else "a number")
        if least is not None and value < least:
            raise _Wrong(f"a number of at least {least:g}")
        return kind(value)

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("a text")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise _Wrong(f"one of {', '.join(choices)}")
        return str(value)

    return check


def _texts(value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) for i in items):
        raise _Wrong("a text or a list of texts")
    return list(items)


def _patterns(value: Any) -> list[str]:
    for pattern in _texts(value):
        try:
            re.compile(pattern)
        except re.error as error:
            raise _Wrong(f"a regular expression ('{pattern}': {error})") from error
    return _texts(value)


def _sizes(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping) or not all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value.values()
    ):
        raise _Wrong("a mapping of dimensions to positive sizes")
    return {str(k): v for k, v in value.items()}


def _size(value: Any) -> str:
    try:
        memory.parse(str(value))
    except UsageError as error:
        raise _Wrong("a size like 8GB or 500MB") from error
    return str(value)


def seconds(value: Any) -> float:
    """Seconds from ``90``, ``90s``, ``15m``, ``2h`` or ``1d``; UsageError for others."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(value))
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--time-limit '{value}' is not a time like 90s, 15m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def _time(value: Any) -> float:
    try:
        return seconds(value)
    except UsageError as error:
        raise _Wrong("a time like 90s, 15m or 2h") from error


def _gain(value: Any) -> float | str:
    return value if value == "activation" else float(_number(float)(value))


def _scheme(value: Any) -> str:
    schemes.Settings(_text(value)).check()
    return str(value)


def _tuner(value: Any) -> str:
    registry.kind(_text(value))
    return str(value)


#: Option → the argument of ``initialize`` that it is, and what checks its value.
OPTIONS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "data": ("data", _text),
    "batch-size": ("batch_size", _number(int, 1)),
    "seed": ("seed", _number(int)),
    "loss": ("loss", _one_of("auto", "cross-entropy", "binary-cross-entropy", "mse")),
    "output-name": ("output_name", _texts),
    "dim": ("dims", _sizes),
    "trainable": ("trainable", _patterns),
    "freeze": ("freeze", _patterns),
    "batch-norm": ("batch_norm", _one_of("eval", "train")),
    "method": ("method", _one_of("taylor", "finite-difference")),
    "difference-step": ("difference_step", _number(float)),
    "micro-batch": ("micro_batch", _number(int, 1)),
    "device": ("device", _one_of("cpu", "cuda")),
    "engine": ("engine", _one_of(*ENGINES)),
    "memory-limit": ("memory_limit", _size),
    "time-limit": ("time_limit", _time),
    "scheme": ("scheme", _scheme),
    "gain": ("gain", _gain),
    "std": ("std", _number(float, 0)),
    "steps": ("steps", _number(int, 0)),
    "optimizer": ("optimizer", _tuner),
}
_NAMES = {argument: name for name, (argument, _) in OPTIONS.items()}
#: Arguments that change whether a model is done, and never what comes out.
LIMITS = frozenset({"memory_limit", "time_limit"})


@dataclass(frozen=True)
class Item:
    """A line of a manifest."""

    source: str
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def checked(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Arguments of ``initialize`` from arguments or options by name, without those at default.

    None, and what is empty, means the default.

    UsageError, which begins with ``where``, for unknown names and values that cannot be.
    """
    defaults = {k: p.default for k, p in inspect.signature(api.initialize).parameters.items()}
    found: dict[str, Any] = {}
    for given, value in options.items():
        name = _NAMES.get(given, given)
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(OPTIONS)}"
            raise UsageError(f"{where}there is no option '{given}'{hint}")
        argument, check = OPTIONS[name]
        if value is None:
            continue
        try:
            good = check(value)
        except _Wrong as wrong:
            raise UsageError(f"{where}{name}: {value!r} is not {wrong}") from wrong
        except UsageError as error:
            raise UsageError(f"{where}{error}") from error
        if good not in ([], {}) and good != defaults.get(argument):
            found[argument] = good
    return found


def together(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options that are not at their default; UsageError if some exclude each other."""
    found = checked(options)
    schemes.Settings(found.get("scheme", "keep"), found.get("gain"), found.get("std")).check()
    return found


def read(content: bytes, label: str) -> list[Item]:
    """The items of a manifest; UsageError, with ``label``, for what it should not hold."""
    tree = _parse(content, label)
    where = f"manifest {label}: "
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UsageError(
            f"{where}this is no manifest: it lacks 'format: {FORMAT}' (see docs/zoo.md)"
        )
    if tree.get("version") != VERSION:
        raise UsageError(f"{where}it has version {tree.get('version')}; this reads {VERSION}")
    _only(tree, ("format", "version", "defaults", "models"), where)
    defaults = _options(tree.get("defaults"), f"{where}defaults: ")
    models = tree.get("models")
    if not isinstance(models, list) or not models:
        raise UsageError(f"{where}'models' is not a list with at least one model")
    return [_item(m, defaults, f"{where}model {k}: ") for k, m in enumerate(models, 1)]


def _item(model: Any, defaults: dict[str, Any], where: str) -> Item:
    if isinstance(model, str):
        model = {"source": model}
    if not isinstance(model, dict) or not isinstance(model.get("source"), str):
        raise UsageError(f"{where}it lacks 'source', the path or address of the model")
    _only(model, ("source", "name", "options"), where)
    name = model.get("name")
    if name is not None and (
        not isinstance(name, str)
        or not name
        or PurePosixPath(name).is_absolute()
        or any(part in ("", ".", "..") for part in name.split("/"))
    ):
        raise UsageError(f"{where}name: {name!r} is not a relative path such as vision/vgg")
    return Item(model["source"], name, {**defaults, **_options(model.get("options"), where)})


def _options(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UsageError(f"{where}options are a mapping of names to values, not {given!r}")
    unknown = [k for k in given if k not in OPTIONS]
    if unknown:
        near = get_close_matches(str(unknown[0]), OPTIONS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(OPTIONS)}"
        raise UsageError(f"{where}there is no option '{unknown[0]}'{hint}")
    checked(given, where)
    return {OPTIONS[k][0]: v for k, v in given.items()}


def _only(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in tree:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
            if key in OPTIONS:
                hint = "; an option of a model stands under 'options'"
            raise UsageError(f"{where}there is no key '{key}' here{hint}")


def _parse(content: bytes, label: str) -> Any:
    if label.endswith(".json"):
        try:
            return json.loads(content)
        except ValueError as error:
            raise UsageError(f"manifest {label} is not valid JSON: {error}") from error
    yaml = extra.module("yaml")
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"manifest {label} is not valid YAML: {reason}") from error
