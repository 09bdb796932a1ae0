"""The overview of a run, one row for each model: written as JSON and as CSV, and read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from graph_init.check import SEVERITIES
from graph_init.deviation.result import FIGURES
from graph_init.errors import ModelFileError, printable
from graph_init.zoo.catalog import OVERVIEW, RESULT, TABLE
from graph_init.zoo.records import CHECK, INITIALIZE, Row, require
from graph_init.zoo.store import open_store

FORMAT = "graph-init/zoo-overview"
VERSION = 1
#: What a model's JSON has for its report, beside what ``initialize --json`` tells.
OF_REPORT = ("provenance", "graph", "profile")
#: What the overview has beside its rows, as far as it is used.
_HEAD = {"program": str, **dict.fromkeys(("models", "done", "failed", "unfinished"), int)}


@dataclass(frozen=True)
class Zoo:
    """A folder, or an address, of results; the overview is read when it is first asked for."""

    output: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The overview without its rows: how many models there are, are done, have failed ….

        The keys are those of ``zoo.json``.
        """
        return {k: v for k, v in self._content[0].items() if k != "rows"}

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each model, sorted by name."""
        return self._content[1]

    def fails(self, severity: str) -> bool:
        """Whether a check found something of this severity, or a worse one, in any model."""
        found = self.summary.get("findings", {})
        return any(found.get(s, 0) for s in SEVERITIES[: SEVERITIES.index(severity) + 1])

    def result(self, row: Row) -> dict[str, Any]:
        """What the command's ``--json`` tells of a model that is done, but for the time it took."""
        raw = open_store(self.output).read(row.name + RESULT)
        if raw is None:
            raise ModelFileError(f"'{self.output}' has no '{row.name + RESULT}'")
        found = self._tree(raw, row.name + RESULT)
        if not isinstance(found, dict):
            raise ModelFileError(f"'{self.output}/{row.name + RESULT}' is no result of a model")
        return found

    def save_report(self, path: str) -> None:
        """Write a page that shows all models, and leads to a page of each that is done."""
        from graph_init import report

        counts = {k: f"{self.summary[k]:,}" for k in ("done", "failed", "unfinished")}
        facts = {"folder": self.output, "program": self.summary["program"], **counts}
        rows = [_reported(r) for r in self.rows]
        contents = {r.name: partial(self._report_content, r) for r in self.rows if r.outputs}
        report.write_zoo(rows, contents, path, "Zoo", facts=facts)

    def _report_content(self, row: Row) -> dict[str, Any]:
        told = self.result(row)
        of_report = {k: told.pop(k) for k in OF_REPORT if k in told}
        result = {**told, "seconds": row.seconds, "interrupted": False}
        return {
            "format": "graph-init/report",
            "version": 1,
            "kind": self.summary.get("work", INITIALIZE),
            "model": row.name,
            "result": result,
            **of_report,
        }

    def to_json(self) -> dict[str, Any]:
        return self._content[0]

    @cached_property
    def _content(self) -> tuple[dict[str, Any], list[Row]]:
        """The overview as it is, and its rows."""
        raw = open_store(self.output).read(OVERVIEW)
        if raw is None:
            raise ModelFileError(
                f"'{self.output}' has no {OVERVIEW}: it is no zoo's output, or its run was killed; "
                "run it again with --resume"
            )
        found = self._tree(raw, OVERVIEW)
        known = isinstance(found, dict) and (found.get("format"), found.get("version"))
        if known != (FORMAT, VERSION):
            raise ModelFileError(f"'{self.output}/{OVERVIEW}' is not an overview of this version")
        try:
            require(found, _HEAD)
            return found, [Row.from_json(r) for r in found["rows"]]
        except (KeyError, TypeError, ValueError) as error:
            missing = isinstance(error, KeyError)
            words = printable(f"{error} is missing" if missing else str(error))
            raise ModelFileError(f"'{self.output}/{OVERVIEW}' is not valid: {words}") from error

    def _tree(self, raw: bytes, name: str) -> Any:
        """What the JSON of the file says."""
        try:
            return json.loads(raw)
        except (RecursionError, ValueError) as error:
            words = printable(str(error))
            raise ModelFileError(f"'{self.output}/{name}' is not valid: {words}") from error


def _reported(row: Row) -> dict[str, Any]:
    """The row as a report has it."""
    figures = {
        f"{short}_{when}": getattr(figures, name, None)
        for short, name in (
            ("gradient_deviation", "gradient_deviation"),
            ("vanished", "vanished_fraction"),
        )
        for when, figures in (("before", row.before), ("after", row.after))
    }
    return {
        "name": row.name,
        "status": row.status,
        "elements": row.elements,
        "loss_kind": row.loss_kind,
        "loss_reason": row.loss_reason,
        **figures,
        "collapsed": bool(row.warnings) if row.after else None,
        **{f"{s}s": None if row.findings is None else row.count(s) for s in SEVERITIES},
        "worst": row.worst,
        "seconds": row.seconds,
        "peak_memory": row.peak_memory,
        "reason": row.error and row.error.kind,
        "message": row.error and row.error.message,
    }


def read(output: str) -> Zoo:
    """The results in ``output``. ModelFileError if there are none."""
    found = Zoo(str(output))
    _ = found.summary
    return found


def write(folder: Path, rows: Iterable[Row], head: dict[str, Any]) -> list[str]:
    """Write both tables into ``folder``, a row at a time; returns the names of the files."""
    with (
        (folder / OVERVIEW).open("w", encoding="utf-8") as tree,
        (folder / TABLE).open("w", encoding="utf-8", newline="") as table,
    ):
        columns = _COLUMNS[head["work"]].split()
        lines = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
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


#: Of the table, by the run's work.
_COLUMNS = {
    INITIALIZE: "name status error_class error elements loss_kind loss_reason steps scales "
    + " ".join(f"{when}_{f}" for f in FIGURES for when in ("before", "after"))
    + " seconds peak_memory attempts host warnings source",
    CHECK: "name status error_class error elements errors warnings notes findings seconds "
    "peak_memory attempts host source",
}


def _flat(found: Row) -> dict[str, Any]:
    plain = (
        "name status elements loss_kind loss_reason steps scales seconds peak_memory attempts host "
        "source".split()
    )
    cells = {k: getattr(found, k) for k in plain}
    if found.error is not None:
        cells |= {"error_class": found.error.kind, "error": found.error.message}
    if found.findings is None:
        cells["warnings"] = " ".join(found.warnings)
    else:
        cells |= {f"{severity}s": found.count(severity) for severity in SEVERITIES}
        cells["findings"] = "; ".join(f"{f['id']} {f['tensor']}".strip() for f in found.findings)
    for when, figures in (("before", found.before), ("after", found.after)):
        cells |= {f"{when}_{f}": getattr(figures, f, None) for f in FIGURES}
    return cells
