"""``graph-init zoo``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from graph_init.check.findings import SEVERITIES
from graph_init.cli.check import FOUND, settings
from graph_init.cli.options import (
    FILE,
    declared,
    fail_on_option,
    measuring,
    report_option,
    starting,
)
from graph_init.cli.terminal import err, examples, guarded, out, print_json
from graph_init.errors import UsageError
from graph_init.options import CheckOptions, LimitOptions

if TYPE_CHECKING:
    from graph_init.zoo import Figures, Row, Zoo

#: Names of a group of failures that are shown.
_SHOWN = 5


@click.command(
    short_help="Do initialize or check over many models.",
    epilog=examples(
        "graph-init zoo models/ -o initialised/",
        "graph-init zoo models/ -o initialised/ --resume --retry failed",
        "graph-init zoo models/ -o findings/ --check --fail-on warning",
        "graph-init zoo zoo.yaml -o initialised/ --workers 8 --memory-limit 8GB --time-limit 15m",
        "graph-init zoo 's3://bucket/models/**/*.onnx' -o s3://bucket/out --scheduler tcp://host:8786",
    ),
)
@click.argument("sources", type=FILE, nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o", "--output", type=FILE, required=True, metavar="DIR", help="Folder or address to write to."
)
@click.option("--resume", is_flag=True, help="Continue an earlier run in DIR.")
@click.option("--retry", metavar="failed", help="With --resume: repeat the models that failed.")
@click.option(
    "--check", "checking", is_flag=True, help="Check every model instead; no model is written."
)
@fail_on_option
@declared(CheckOptions)
@click.option("--workers", type=int, metavar="N", help="Models at a time [as many as cores].")
@click.option("--threads", type=int, metavar="N", help="Threads of each model [cores / workers].")
@declared(LimitOptions)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Work on a cluster of dask.distributed: tcp://…"
)
@measuring
@starting
@report_option
@guarded
def zoo(
    sources: tuple[str, ...],
    output: str,
    checking: bool,
    fail_on: str | None,
    as_json: bool,
    report_file: str | None,
    **options: Any,
) -> None:
    """Initialise, or check, every model of SOURCE..., each in a process of its own, into DIR.

    A SOURCE is a file, a folder, a glob, a manifest (YAML or JSON), or an address like s3://….
    Limits of memory and time are those of each model. The exit status is 1 if a model failed, and
    otherwise 6 if a check has found what --fail-on names.
    """
    from graph_init import report
    from graph_init import zoo as zoos

    if report_file:
        report.require(report_file)
    if checking:
        fail_on = _of_check(options, fail_on)
    elif fail_on:
        raise UsageError("--fail-on is of a check: give --check, or leave it out")
    if options["data"] is not None:
        options["data"] = os.path.abspath(options["data"])
    with _Terminal() if err.is_terminal else _Lines() as view:
        begin = zoos.check if checking else zoos.run
        found = begin(sources, output, view=view, **options)
    if report_file:
        found.save_report(report_file)
    if as_json:
        print_json(found.to_json())
    else:
        _report(found)
    summary = found.summary
    if summary["interrupted"]:
        err.print(
            Text(
                f"interrupted with {summary['unfinished']} of {summary['models']} models to do; "
                "the same command with --resume goes on"
            )
        )
    if summary["failed"] or summary["unfinished"]:
        sys.exit(1)
    if checking and fail_on != "never" and found.fails(fail_on or "error"):
        sys.exit(FOUND)


def _of_check(options: dict[str, Any], fail_on: str | None) -> str:
    """What a check fails on; into ``options`` go a check's defaults, and pyproject.toml's."""
    defaults = settings()
    options["ignore"] = [*options["ignore"], *defaults.get("ignore", ())]
    source = click.get_current_context().get_parameter_source("batch_norm")
    if source is ParameterSource.DEFAULT:
        options["batch_norm"] = None
    found: str = fail_on or defaults.get("fail-on", "error")
    return found


def _findings(rows: Sequence[Row]) -> None:
    """A table of the models in which something was found, the worst first."""
    found = [(tuple(row.count(s) for s in SEVERITIES), row) for row in rows if row.findings]
    if not found:
        return
    table = Table("model", *(f"{s}s" for s in SEVERITIES), "the worst")
    for counts, row in sorted(found, key=lambda f: f[0], reverse=True):
        table.add_row(Text(row.name), *map(str, counts), Text(row.worst))
    out.print(table)


def _report(found: Zoo) -> None:
    from graph_init.zoo.summary import failures

    _findings(found.rows)
    groups = failures(found.rows)
    if groups:
        table = Table("models", "why", "which")
        for group in groups:
            names = ", ".join(group.names[:_SHOWN])
            more = len(group.names) - _SHOWN
            table.add_row(
                str(len(group.names)),
                Text(f"{group.kind}: {group.message}"),
                Text(names + (f" and {more} more" if more > 0 else "")),
            )
        out.print(table)
    summary = found.summary
    kept = f" ({summary['kept']} of them earlier)" if summary["kept"] else ""
    counts = f"{summary['done']} done, {summary['failed']} failed{kept}"
    if summary["unfinished"]:
        counts += f", {summary['unfinished']} not done"
    if "findings" in summary:
        counts += f"; found: {_counted(summary['findings'])}"
    out.print(
        Text(f"{summary['models']} models: {counts}, {summary['seconds']:.1f} s → {found.output}"),
        soft_wrap=True,
    )


def _line(row: Row) -> str:
    if row.error is not None:
        return f"{row.name}: {row.error.kind}: {row.error.message}"
    took = f"{row.seconds or 0:.1f} s, {(row.peak_memory or 0) / 1e6:.0f} MB"
    if row.findings is not None:
        return f"{row.name}: {_counted({s: row.count(s) for s in SEVERITIES})}, {took}"
    assert row.before is not None and row.after is not None
    deviations = " → ".join(_deviation(m) for m in (row.before, row.after))
    return f"{row.name}: GD {deviations}, {took}"


def _counted(findings: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {s}{'' if n == 1 else 's'}" for s, n in findings.items())


def _deviation(figures: Figures) -> str:
    found = figures.gradient_deviation
    return "not finite" if found is None else f"{found:.4g}"


class _Lines:
    """A line a model, where there is no terminal."""

    def __init__(self) -> None:
        self._models = self._done = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begins(self, models: int) -> None:
        self._models = models

    def news(self, name: str, what: str) -> None: ...

    def finished(self, row: Row, kept: bool) -> None:
        self._done += 1
        if not kept:
            err.print(Text(f"[{self._done}/{self._models}] {_line(row)}"), soft_wrap=True)


class _Terminal:
    """A bar for all, and a line for each model at work; what has failed stays above."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", markup=False),
            console=err,
            transient=True,
        )
        self._guard = threading.Lock()
        self._working: dict[str, Any] = {}

    def __enter__(self) -> _Terminal:
        self._bars.start()
        self._all = self._bars.add_task("models", total=None, what="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begins(self, models: int) -> None:
        self._bars.update(self._all, total=models)

    def news(self, name: str, what: str) -> None:
        with self._guard:
            if what == "ended":
                self._end(name)
            elif name not in self._working:
                self._working[name] = self._bars.add_task(f"  {name}", total=None, what=what)
            else:
                self._bars.update(self._working[name], what=what)

    def finished(self, row: Row, kept: bool) -> None:
        if row.error is not None and not kept:
            self._bars.console.print(Text(_line(row), style="red"), soft_wrap=True)
        self._bars.advance(self._all)

    def _end(self, name: str) -> None:
        task = self._working.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
