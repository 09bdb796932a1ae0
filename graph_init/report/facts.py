"""The list of a page that says which model, options and versions a result comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "graph_init."
_NAMES = {
    "source_sha256": "SHA-256 of the model",
    "loss": "loss function",
    "loss_kind": "loss function",
    "loss_reason": "why this loss function",
}


def facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance and settings, each once."""
    found: dict[str, str] = {"model": content["model"]}
    for key, value in content["provenance"].items():
        found[key.removeprefix(_PREFIX)] = str(value)
    result = content["result"]
    for key, value in result.get("settings", {}).items():
        found.setdefault(key, _words(value))
    if result.get("after"):
        found["loss_reason"] = str(result["after"].get("loss_reason", ""))
    if result.get("output"):
        found["output"] = str(result["output"])
    return [(_NAMES.get(k, k.replace("_", " ")), v) for k, v in found.items() if v]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return "" if value is None else str(value)
