"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graph_init.check.evidence import Evidence
from graph_init.check.findings import Finding


@dataclass(frozen=True)
class Rule:
    """One thing to look for.

    Attributes:
        id: its identifier.
        title: what is wrong, in a few words.
        severity: of most of its findings; what is less sure, or does less harm, has a lower one.
        why: what it does to training, in sentences.
        remedy: what would mend it.
        look: the findings.
        of_trained: whether it also judges files that look trained.
    """

    id: str
    title: str
    severity: str
    why: str
    remedy: str
    look: Callable[[Evidence], Iterable[Finding]]
    of_trained: bool = False
