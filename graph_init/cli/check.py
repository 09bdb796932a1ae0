"""``graph-init check``."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from graph_init.cli import isolation
from graph_init.cli.options import (
    FILE,
    LEVELS,
    choose_parameters,
    declared,
    fail_on_option,
    json_option,
    report_option,
)
from graph_init.cli.terminal import echo, examples, isolated, out, print_json, warn
from graph_init.errors import UsageError, escaped, printable
from graph_init.files import opening
from graph_init.options import CheckOptions, ComputationOptions, ProblemOptions
from graph_init.output import targets

if TYPE_CHECKING:
    from graph_init import CheckResult

_FORMATS = ("table", "json", "sarif", "junit")
#: Exit status where a finding reaches ``--fail-on``.
FOUND = 6
_SETTINGS = Path("pyproject.toml")
_LARGEST = 1 << 24  # bytes of it


@click.command(
    short_help="Find weights that are wrong, and why.",
    epilog=examples(
        "graph-init check model.onnx",
        "graph-init check model.onnx --fail-on warning --format sarif > findings.sarif",
        "graph-init check model.onnx --ignore GI304 --fix -o mended.onnx",
        "graph-init check exported/*.onnx",
        "graph-init check model.onnx --report check.html",
    ),
)
@click.argument("models", metavar="MODEL...", type=FILE, nargs=-1, required=True)
@fail_on_option
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="table",
    show_default=True,
    help="What is printed.",
)
@declared(CheckOptions)
@click.option("--fix", is_flag=True, help="Write OUT with the factors that findings name.")
@click.option("-o", "--output", type=FILE, metavar="OUT", help="The file that --fix writes.")
@declared(ProblemOptions, defaults={"batch_norm": "train"})
@choose_parameters
@declared(ComputationOptions, only=("device", "engine", "memory_limit"))
@json_option
@report_option
@isolated
def check(
    models: tuple[str, ...],
    fail_on: str | None,
    form: str,
    fix: bool,
    output: str | None,
    as_json: bool,
    report_file: str | None,
    **options: Any,
) -> None:
    """Findings on the weights of every MODEL, from worst to least.

    The table [tool.graph-init.check] of pyproject.toml may give fail-on and ignore. Of several
    files there are tables only; `graph-init zoo --check` has the findings of many in one place.
    """
    import graph_init
    from graph_init import report

    form = "json" if as_json else form
    if len(models) > 1 and (fix or report_file or form != "table"):
        raise UsageError(
            "--fix, --report and formats other than a table are of one file; give one MODEL, or "
            "have them checked by `graph-init zoo --check`"
        )
    if report_file:
        report.require(report_file)
    if fix != (output is not None):
        raise UsageError("--fix writes the file that -o names: give both, or neither")
    if output is not None:
        targets.file(output)
    defaults = settings()
    fail_on = fail_on or defaults.get("fail-on", "error")
    options["ignore"] = [*options["ignore"], *defaults.get("ignore", ())]
    failed = False
    for model in models:
        if len(models) > 1:
            out.print(Text(model, style="bold"))
        isolation.working_on(model)
        found = graph_init.check(model, **options)
        if output is not None:
            found.save(output)
        if report_file:
            found.save_report(report_file)
        warn(found.notes)
        _print(found, form, model, fail_on)
        if output is not None and form == "table":
            out.print(Text(f"{len(found.factors)} tensors multiplied by their factors → {output}"))
        failed |= fail_on != "never" and found.fails(fail_on)
    if failed:
        sys.exit(FOUND)


def settings() -> Mapping[str, Any]:
    """``[tool.graph-init.check]`` of the working folder's pyproject.toml; UsageError if bad."""
    if not _SETTINGS.exists():
        return {}
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content = toml.loads(opening.read(_SETTINGS, _LARGEST).decode())
    except (OSError, RecursionError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"pyproject.toml cannot be read: {printable(reason)}") from error
    where, table = "pyproject.toml, [tool.graph-init.check]", content
    for part in ("tool", "graph-init", "check"):
        table = table.get(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"{where}: '{part}' is no table")
    for key in table:
        if key not in ("fail-on", "ignore"):
            raise UsageError(f"{where}: there is no '{escaped(key)}'; known: fail-on, ignore")
    if table.get("fail-on", "error") not in LEVELS:
        raise UsageError(f"{where}: fail-on is one of {', '.join(LEVELS)}")
    ignored = table.get("ignore", [])
    if not isinstance(ignored, list) or not all(isinstance(i, str) for i in ignored):
        raise UsageError(f"{where}: ignore is a list of identifiers, such as ['GI304']")
    return dict(table)


def _print(found: CheckResult, form: str, model: str, fail_on: str) -> None:
    if form == "json":
        print_json(found.to_json())
    elif form == "sarif":
        from graph_init.check.sarif import sarif

        echo(json.dumps(sarif(found.findings, Path(model).as_posix()), indent=2))
    elif form == "junit":
        from graph_init.check.junit import junit

        echo(junit(found.findings, model, fail_on))
    else:
        _table(found)


def _table(found: CheckResult) -> None:
    if found.findings:
        table = Table("rule", "severity", "tensor", "finding", "factor")
        for f in found.findings:
            factor = "" if f.factor is None else f"{f.factor:.4g}"
            table.add_row(f.id, f.severity, Text(f.tensor), Text(f.message), factor)
        out.print(table)
    more = "else " if found.findings else ""
    out.print(Text(f"Nothing {more}was found in {found.tensors} tensors."))
