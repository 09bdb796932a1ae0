"""What a run is asked for: the work, the sources, the output, and how many models at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graph_init.errors import UsageError
from graph_init.zoo import catalog, manifest
from graph_init.zoo.catalog import Entry
from graph_init.zoo.records import CHECK, INITIALIZE, Row


class View(Protocol):
    """Who watches a run. Calls come from several threads."""

    def begins(self, models: int) -> None: ...

    def news(self, name: str, what: str) -> None:
        """``what`` is ``started``, ``ended``, or says how far the model is."""

    def finished(self, row: Row, kept: bool) -> None:
        """``kept``: it had been done before, and nothing has changed since."""


class Blind:
    """Nobody."""

    def begins(self, models: int) -> None: ...

    def news(self, name: str, what: str) -> None: ...

    def finished(self, row: Row, kept: bool) -> None: ...


#: The options that each work has no use for, and why.
_STRANGE: Mapping[str, tuple[frozenset[str], str]] = {
    INITIALIZE: (manifest.OF_CHECK_ALONE, "is of a check: give --check, or leave it out"),
    CHECK: (
        manifest.OF_INITIALIZE_ALONE,
        "is of an initialisation, and --check does none: leave it out",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of :func:`graph_init.zoo.run`; UsageError if they cannot be.

    ``work`` is ``initialize`` or ``check``, and ``options`` those of that function.
    """

    work: str
    sources: Sequence[str]
    output: str
    options: Mapping[str, Any]
    resume: bool = False
    retry: str | None = None
    workers: int | None = None
    threads: int | None = None
    scheduler: str | None = None
    view: View = field(default_factory=Blind)

    def __post_init__(self) -> None:
        if self.retry not in (None, "failed"):
            raise UsageError(f"--retry has one choice, failed, not {self.retry}")
        if self.retry and not self.resume:
            raise UsageError("--retry failed belongs to --resume")
        for name, given in (("--workers", self.workers), ("--threads", self.threads)):
            if given is not None and given < 1:
                raise UsageError(f"{name} must be at least 1, not {given}")
        if self.scheduler is not None and self.workers is not None:
            raise UsageError(
                "--workers counts the models at a time on this machine; with --scheduler, start "
                "each dask worker with the --nthreads that it shall have"
            )

    def entries(self) -> list[Entry]:
        """The models, by name; see :func:`graph_init.zoo.catalog.collect` for the errors."""
        defaults = manifest.DEFAULTS[self.work]
        given = manifest.checked(self.options, defaults=defaults)
        strange, why = _STRANGE[self.work]
        for argument in sorted(strange & set(given)):
            raise UsageError(f"--{manifest.flag(argument)} {why}")
        return catalog.collect(self.sources, self.output, given, defaults)

    def own(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a model's options that the work has a use for."""
        return {k: v for k, v in options.items() if k not in _STRANGE[self.work][0]}
