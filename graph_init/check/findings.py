"""What a check finds: findings with evidence, and how serious each is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graph_init.deviation.result import finite

ERROR, WARNING, NOTE = "error", "warning", "note"
#: From worst to least.
SEVERITIES = (ERROR, WARNING, NOTE)
#: The page on which every rule is explained.
PAGE = "https://graph-init.readthedocs.io/en/latest/rules.html"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or that is worth to know.

    Attributes:
        id: of the rule, such as ``GI201``.
        severity: ``error``, ``warning`` or ``note``.
        tensor: name of the initializer; empty where it is of the whole network.
        message: a sentence.
        evidence: the numbers that it follows from, by name.
        factor: what the tensor multiplied by would mend it; None where no factor does.
        weight: by which findings of one severity are sorted: how far it is off, as |log factor|.
    """

    id: str
    severity: str
    tensor: str
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    factor: float | None = None
    weight: float = 0.0

    @property
    def help(self) -> str:
        """Where the rule is explained."""
        return page(self.id)

    @property
    def order(self) -> tuple[int, float]:
        """The worst first."""
        return SEVERITIES.index(self.severity), -self.weight

    def to_json(self) -> dict[str, Any]:
        """The entry of ``check --json``; numbers that are not finite are null."""
        return {
            "id": self.id,
            "severity": self.severity,
            "tensor": self.tensor,
            "message": self.message,
            "evidence": {k: finite(float(v)) for k, v in self.evidence.items()},
            "factor": None if self.factor is None else finite(self.factor),
            "help": self.help,
        }


def page(rule: str) -> str:
    """Where the rule of that identifier is explained."""
    return f"{PAGE}#{rule.lower()}"


def distance(factor: float) -> float:
    """|log factor|; a factor of nothing, or without end, is farther than any other."""
    return abs(math.log(factor)) if factor > 0 and math.isfinite(factor) else math.inf
