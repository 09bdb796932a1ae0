"""The page of many models: an overview with a link to the page of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from graph_init.report import charts, check, initialize
from graph_init.report.text import finite, megabytes
from graph_init.report.view import Chart, Column, Figure, Page, Section, Table

Row = Mapping[str, Any]

#: Keys of a row. Each is optional but ``name`` and ``status``; ``elements`` are those of trainable
#: tensors, ``peak_memory`` is in bytes, ``collapsed`` says whether the state after tuning looks so,
#: ``errors``, ``warnings`` and ``notes`` count what a check found, ``worst`` says the worst of it,
#: and ``reason`` is what failures are grouped by.
KEYS = (
    "name",
    "status",
    "elements",
    "loss_kind",
    "loss_reason",
    "gradient_deviation_before",
    "gradient_deviation_after",
    "vanished_before",
    "vanished_after",
    "collapsed",
    "errors",
    "warnings",
    "notes",
    "worst",
    "seconds",
    "peak_memory",
    "reason",
    "message",
)
DONE = "done"
#: Columns of models that were initialised, and of such that were checked.
_FIGURES = (
    Column("gradient_deviation_before", "GD before", "number"),
    Column("gradient_deviation_after", "GD after", "number"),
    Column("vanished_before", "vanished before", "share"),
    Column("vanished_after", "vanished after", "share"),
    Column("collapsed", "looks collapsed", "flag", choices=True),
)
_LOSS = (
    Column("loss_kind", "loss function", choices=True),
    Column("loss_reason", "why this loss function", long=True),
)
_FOUND = (
    Column("errors", "errors", "count"),
    Column("warnings", "warnings", "count"),
    Column("notes", "notes", "count"),
    Column("worst", "the worst finding", long=True),
)


def address(name: str) -> str:
    """The part of a page's address that says which model it shows."""
    return quote(name, safe="", errors="replace")


def overview(
    rows: Sequence[Row], has_page: Callable[[str], bool], title: str, facts: Mapping[str, str]
) -> Page:
    """``has_page`` says of a model's name whether there is a page to lead to."""
    rows = finite([{key: row.get(key) for key in KEYS} for row in rows])
    failed = [row for row in rows if row["status"] != DONE]
    shown = [
        {
            **row,
            "reason": row["reason"] or "",
            "message": row["message"] or "",
            "loss_kind": row["loss_kind"] or "",
            "loss_reason": row["loss_reason"] or "",
            "collapsed": row["collapsed"] if row["status"] == DONE else None,
            "worst": row["worst"] or "",
            "memory": None if row["peak_memory"] is None else row["peak_memory"] / 2**20,
            "page": f"#/{address(row['name'])}" if has_page(row["name"]) else None,
        }
        for row in rows
    ]
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    peak = max((row["peak_memory"] or 0 for row in rows), default=0)
    return Page(
        title,
        f"{len(rows):,} models, {len(rows) - len(failed):,} done, {len(failed):,} not",
        figures=[
            Figure("Models", f"{len(rows):,}"),
            Figure("Done", f"{len(rows) - len(failed):,}"),
            Figure("Not done", f"{len(failed):,}"),
            Figure("Time of all models", f"{seconds:,.1f} s"),
            Figure("Largest peak memory", megabytes(peak) if peak else "–"),
        ],
        warnings=[],
        sections=[*_failures(failed), _models(shown), *_spread(rows)],
        content={"format": "graph-init/zoo-report", "version": 1, "kind": "zoo", "rows": rows},
        facts=list(facts.items()),
    )


def pages(
    names: Iterable[str], content: Callable[[str], Mapping[str, Any]]
) -> Iterator[tuple[str, Page]]:
    """Every model's page by its address, one at a time; ``content`` gives what it is made of."""
    for name in names:
        made = {**content(name), "model": name}
        yield address(name), (check.page if made["kind"] == "check" else initialize.page)(made)


def _failures(failed: Sequence[Row]) -> list[Section]:
    if not failed:
        return []
    counts = Counter(row["reason"] or row["status"] for row in failed)
    groups = [
        {
            "reason": reason,
            "count": count,
            "example": next(r for r in failed if (r["reason"] or r["status"]) == reason)["name"],
            "message": next(r for r in failed if (r["reason"] or r["status"]) == reason)["message"],
        }
        for reason, count in counts.most_common()
    ]
    columns = [
        Column("reason", "reason"),
        Column("count", "models", "count"),
        Column("example", "for example", long=True),
        Column("message", "what it says", long=True),
    ]
    table = Table(
        "failures",
        "Why models are not done",
        columns=columns,
        rows=groups,
        header="reason",
        open=True,
    )
    return [Section("not-done", "Not done", tables=[table])]


def _models(rows: Sequence[Row]) -> Section:
    failed = any(row["status"] != DONE for row in rows)
    checked = any(row["errors"] is not None for row in rows)
    columns = [
        Column("name", "model"),
        Column("status", "status", choices=True),
        *([Column("reason", "reason", choices=True)] if failed else []),
        Column("elements", "elements", "count"),
        *(_FOUND if checked else _FIGURES),
        Column("seconds", "seconds", "seconds"),
        Column("memory", "peak MiB", "memory"),
        *([] if checked else _LOSS),
        *([Column("message", "message", long=True)] if failed else []),
    ]
    table = Table(
        "models", "Models", columns=columns, rows=rows, header="name", open=True, links="page"
    )
    return Section(
        "all-models",
        "Models",
        ["A model’s name leads to its page." + ("" if checked else " GD is gradient deviation.")],
        tables=[table],
    )


def _spread(rows: Sequence[Row]) -> list[Section]:
    done = [r for r in rows if r["gradient_deviation_after"] is not None]
    if len(done) < 2:
        return []
    return [
        Section(
            "spread",
            "Before and after",
            ["Models in the order of their numbers, before and after each for itself."],
            [
                Chart(
                    "spread-deviation",
                    "Gradient deviation",
                    description=f"Gradient deviation of {len(done)} models by rank, before and "
                    "after",
                    spec=charts.spread("gradient_deviation", "gradient deviation", True),
                    table="models",
                ),
                Chart(
                    "spread-vanished",
                    "Vanished fraction",
                    description=f"Vanished fraction of {len(done)} models by rank, before and "
                    "after",
                    spec=charts.spread("vanished", "vanished fraction", False),
                    table="models",
                ),
            ],
        )
    ]
