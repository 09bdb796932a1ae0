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

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from graph_init import options as all_options
from graph_init.errors import UsageError, printable, suggestion
from graph_init.options import (
    OTHER_TUNERS,
    TUNERS,
    CheckOptions,
    ComputationOptions,
    InitialWeights,
    LimitOptions,
    ParameterOptions,
    ProblemOptions,
    WritingOptions,
)
from graph_init.options.checks import OneOf, shown
from graph_init.options.fields import Check, of
from graph_init.options.keywords import CheckKeywords
from graph_init.zoo import extra
from graph_init.zoo.records import CHECK, INITIALIZE

FORMAT = "graph-init/zoo"
VERSION = 1
SUFFIXES = (".yaml", ".yml", ".json")
#: Bytes of a manifest, and what it may hold in all: a line of each of a million models is less.
LARGEST, _MOST_ITEMS = 1 << 27, 1 << 22

#: What a model of a zoo can be given, beside the settings of the tuners.
_GROUPS = (
    ProblemOptions,
    ParameterOptions,
    ComputationOptions,
    LimitOptions,
    InitialWeights,
    WritingOptions,
    CheckOptions,
)


def _known() -> dict[str, tuple[str, Check, Any]]:
    """Option → the argument of ``initialize`` that it is, the check of its value, its default."""
    known = {
        option.flag: (argument, option.check, default)
        for kind in _GROUPS
        for argument, (option, default) in of(kind).items()
    }
    known["tuner"] = ("tuner", OneOf(tuple(TUNERS), OTHER_TUNERS), all_options.DEFAULT_TUNER)
    for kind in TUNERS.values():
        for setting, (option, _) in of(kind).items():
            known[option.flag] = (setting, option.check, None)
    return known


OPTIONS = _known()
_NAMES = {argument: name for name, (argument, _, _) in OPTIONS.items()}
#: Arguments that change whether a model is done, and never what comes out.
LIMITS = frozenset({"memory_limit", "time_limit"})
#: Arguments that have no use in the other of the two works.
OF_CHECK_ALONE = frozenset(of(CheckOptions))
OF_INITIALIZE_ALONE = frozenset(_NAMES) - frozenset(CheckKeywords.__annotations__) - LIMITS
#: By work the defaults that differ from those of the options.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {INITIALIZE: {}, CHECK: {"batch_norm": "train"}}


def flag(argument: str) -> str:
    """The option's name on the command line, and in a manifest."""
    return _NAMES[argument]


@dataclass(frozen=True)
class Item:
    """A line of a manifest."""

    source: str
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def checked(
    options: Mapping[str, Any], where: str = "", defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments of ``initialize`` from arguments or options by name, without those at default.

    None, and what is empty, means the default; ``defaults`` are those that differ from
    ``initialize``'s.

    UsageError, which begins with ``where``, for unknown names and values that cannot be.
    """
    found: dict[str, Any] = {}
    for given, value in options.items():
        name = _NAMES.get(given, given)
        if name not in OPTIONS:
            raise UsageError(
                f"{where}there is no option '{printable(given)}'{_hint(name, OPTIONS)}"
            )
        argument, check, default = OPTIONS[name]
        default = (defaults or {}).get(argument, default)
        if value is None:
            continue
        if name == "data" and not isinstance(value, str):
            raise UsageError(f"{where}data: {shown(value)} is not a text")
        try:
            good = check(name, value)
        except UsageError as error:
            raise UsageError(f"{where}{error}") from error
        if good not in ((), {}) and good != default:
            found[argument] = list(good) if isinstance(good, tuple) else good
    return found


def over(general: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The ``general`` arguments and a model's ``own``, which win.

    A model that chooses a tuner of its own does not get the settings of another one.
    """
    chosen = own.get("tuner")
    if chosen in TUNERS:
        foreign = set(all_options.tuner_settings(general)) - set(of(TUNERS[chosen]))
        general = {k: v for k, v in general.items() if k not in foreign}
    return {**general, **own}


def together(
    options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Checked options that are not at their default; UsageError if some exclude each other."""
    found = checked(options, defaults=defaults)
    InitialWeights.of(found)
    own = all_options.tuner_settings(found)
    all_options.tuner(found.get("tuner", all_options.DEFAULT_TUNER), own)
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
        raise UsageError(
            f"{where}it has version {printable(str(tree.get('version')))}; this reads {VERSION}"
        )
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
        raise UsageError(f"{where}name: {shown(name)} is not a relative path such as vision/vgg")
    return Item(model["source"], name, over(defaults, _options(model.get("options"), where)))


def _options(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UsageError(f"{where}options are a mapping of names to values, not {shown(given)}")
    unknown = [k for k in given if k not in OPTIONS]
    if unknown:
        name = str(unknown[0])
        raise UsageError(f"{where}there is no option '{printable(name)}'{_hint(name, OPTIONS)}")
    checked(given, where)
    return {OPTIONS[k][0]: v for k, v in given.items()}


def _only(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in tree:
        if key not in known:
            hint = _hint(str(key), known)
            if key in OPTIONS:
                hint = "; an option of a model stands under 'options'"
            raise UsageError(f"{where}there is no key '{printable(str(key))}' here{hint}")


def _hint(name: str, known: Iterable[str]) -> str:
    near = suggestion(name, known, {"optimizer": "tuner"})
    return near or f"; known: {', '.join(known)}"


def _items(tree: Any, counted: dict[int, int]) -> int:
    """How many items a tree has, also where parts of it are the same: lines of aliases are many."""
    if not isinstance(tree, (dict, list)):
        return 1
    if id(tree) not in counted:
        counted[id(tree)] = _MOST_ITEMS + 1  # as long as it is not known: it may hold itself
        parts = [*tree.keys(), *tree.values()] if isinstance(tree, dict) else tree
        counted[id(tree)] = 1 + sum(_items(part, counted) for part in parts)
    return counted[id(tree)]


def _parse(content: bytes, label: str) -> Any:
    is_json = label.endswith(".json")
    yaml = None if is_json else extra.module("yaml")
    try:
        tree = json.loads(content) if yaml is None else yaml.safe_load(content)
        items = _items(tree, {})
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"manifest {label} is nested too deep") from error
    # Beside YAMLError ValueError: what is no text, a date that there is not, digits without end.
    except Exception as error:
        reason = printable(" ".join(str(error).split()))
        kind = "JSON" if is_json else "YAML"
        raise UsageError(f"manifest {label} is not valid {kind}: {reason}") from error
    if items > _MOST_ITEMS:
        raise UsageError(f"manifest {label} stands for more than {_MOST_ITEMS:,} items (aliases?)")
    return tree
