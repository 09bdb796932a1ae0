"""Groups the models that failed by their reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from graph_init.zoo.records import Row


@dataclass
class Group:
    """Models that failed for the same reason; ``message`` is that of the first."""

    kind: str
    message: str
    names: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"class": self.kind, "message": self.message, "names": self.names}


def failures(rows: Iterable[Row]) -> list[Group]:
    """The largest group first."""
    groups: dict[tuple[str, str], Group] = {}
    for row in rows:
        if row.error is not None:
            kind, message = row.error.kind, row.error.message
            key = kind, _pattern(message, row)
            groups.setdefault(key, Group(kind, message)).names.append(row.name)
    return sorted(groups.values(), key=lambda g: -len(g.names))


def _pattern(message: str, row: Row) -> str:
    """``message`` without what differs from model to model: its path, names, numbers."""
    general = message.replace(row.source, "").replace(row.source.rpartition("/")[0], "")
    return re.sub(r"'[^']*'|/[^\s:;,]+|\d+(\.\d+)?", "…", general)
