"""The overview of a run: a row a model, as JSON and as CSV, and read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from graph_init.deviation.result import FIGURES
from graph_init.errors import ModelFileError
from graph_init.zoo.catalog import OVERVIEW, RESULT, TABLE
from graph_init.zoo.journal import Record
from graph_init.zoo.store import open_store

FORMAT = "graph-init/zoo-overview"
VERSION = 1
DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"


@dataclass(frozen=True)
class Row:
    """One model. ``seconds`` are wall clock, ``peak_memory`` bytes of its process.

    ``status`` is ``done``, ``failed`` (``error`` has ``class``, ``message`` and ``exit_status``) or
    ``unfinished``. ``before`` and ``after`` have the figures of the whole model, None for one that
    is not finite; what there is for each tensor is in the model's own JSON, :meth:`Zoo.result`.
    ``notes`` say what was not as it should be, and what was done about it. ``outputs`` are the
    files written.
    """

    name: str
    source: str
    status: str
    error: dict[str, Any] | None = None
    before: dict[str, float | None] | None = None
    after: dict[str, float | None] | None = None
    elements: int | None = None
    loss_kind: str | None = None
    loss_reason: str | None = None
    steps: int | None = None
    scales: int | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float | None = None
    peak_memory: int | None = None
    attempts: int | None = None
    host: str | None = None
    outputs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


#: What a model's JSON has for its report, beside what ``initialize --json`` tells.
OF_REPORT = ("provenance", "graph")
_KEYS = tuple(f.name for f in fields(Row))


def row(record: Record) -> Row:
    return Row(**{k: record[k] for k in _KEYS if k in record})


@dataclass(frozen=True)
class Zoo:
    """A folder (or address) of results; rows are read when they are first asked for."""

    output: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The overview without its rows: ``models``, ``done``, ``failed``, ``unfinished``, …"""
        return {k: v for k, v in self._content.items() if k != "rows"}

    @cached_property
    def rows(self) -> list[Row]:
        """By name."""
        return [row(r) for r in self._content["rows"]]

    def result(self, row: Row) -> dict[str, Any]:
        """What ``initialize --json`` tells of a model that is done, but for the time it took."""
        raw = open_store(self.output).read(row.name + RESULT)
        if raw is None:
            raise ModelFileError(f"'{self.output}' has no '{row.name + RESULT}'")
        found: dict[str, Any] = json.loads(raw)
        return found

    def save_report(self, path: str) -> None:
        """Write a page that shows all models, and leads to a page of each that is done."""
        from graph_init import report

        counts = {k: f"{self.summary[k]:,}" for k in ("done", "failed", "unfinished")}
        facts = {"folder": self.output, "program": self.summary["program"], **counts}
        rows = [_reported(r) for r in self.rows]
        contents = {r.name: partial(self._report_content, r) for r in self.rows if r.after}
        report.write_zoo(rows, contents, path, "Zoo", facts=facts)

    def _report_content(self, row: Row) -> dict[str, Any]:
        told = self.result(row)
        of_report = {k: told.pop(k) for k in OF_REPORT}
        result = {**told, "seconds": row.seconds, "interrupted": False}
        return {
            "format": "graph-init/report",
            "version": 1,
            "kind": "initialize",
            "model": row.name,
            "result": result,
            **of_report,
        }

    def to_json(self) -> dict[str, Any]:
        return self._content

    @cached_property
    def _content(self) -> dict[str, Any]:
        raw = open_store(self.output).read(OVERVIEW)
        if raw is None:
            raise ModelFileError(
                f"'{self.output}' has no {OVERVIEW}: it is no zoo's output, or its run was killed; "
                "run it again with --resume"
            )
        try:
            found: dict[str, Any] = json.loads(raw)
        except ValueError as error:
            raise ModelFileError(f"'{self.output}/{OVERVIEW}' is not valid: {error}") from error
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            raise ModelFileError(f"'{self.output}/{OVERVIEW}' is not an overview of this version")
        return found


def _reported(row: Row) -> dict[str, Any]:
    """The row as a report has it."""
    error = row.error or {}
    figures = {
        f"{short}_{when}": (getattr(row, when) or {}).get(name)
        for short, name in (
            ("gradient_deviation", "gradient_deviation"),
            ("vanished", "vanished_fraction"),
        )
        for when in ("before", "after")
    }
    return {
        "name": row.name,
        "status": row.status,
        "elements": row.elements,
        "loss_kind": row.loss_kind,
        "loss_reason": row.loss_reason,
        **figures,
        "collapsed": bool(row.warnings) if row.status == DONE else None,
        "seconds": row.seconds,
        "peak_memory": row.peak_memory,
        "reason": error.get("class"),
        "message": error.get("message"),
    }


def read(output: str) -> Zoo:
    """The results in ``output``. ModelFileError if there are none."""
    found = Zoo(str(output))
    _ = found.summary
    return found


def write(folder: Path, rows: Iterable[Row], head: dict[str, Any]) -> list[str]:
    """Write both tables into ``folder``, a row at a time; returns the names of the files."""
    with (
        open(folder / OVERVIEW, "w", encoding="utf-8") as tree,
        open(folder / TABLE, "w", encoding="utf-8", newline="") as table,
    ):
        lines = csv.DictWriter(table, _columns(), lineterminator="\n")
        lines.writeheader()
        tree.write(json.dumps({"format": FORMAT, "version": VERSION, **head}, indent=2)[:-2])
        tree.write(',\n  "rows": [')
        separator = "\n"
        for found in rows:
            tree.write(f"{separator}    {json.dumps(found.to_json())}")
            lines.writerow(_flat(found))
            separator = ",\n"
        tree.write("\n  ]\n}\n")
    return [TABLE, OVERVIEW]


def _columns() -> list[str]:
    return [
        *"name status error_class error elements loss_kind loss_reason steps scales".split(),
        *(f"{when}_{f}" for f in FIGURES for when in ("before", "after")),
        *"seconds peak_memory attempts host warnings source".split(),
    ]


def _flat(found: Row) -> dict[str, Any]:
    plain = (
        "name status elements loss_kind loss_reason steps scales seconds peak_memory attempts host "
        "source".split()
    )
    cells = {k: getattr(found, k) for k in plain}
    error = found.error or {}
    cells |= {"error_class": error.get("class"), "error": error.get("message")}
    cells["warnings"] = " ".join(found.warnings)
    for when in ("before", "after"):
        figures = getattr(found, when) or {}
        cells |= {f"{when}_{f}": figures.get(f) for f in FIGURES}
    return cells
