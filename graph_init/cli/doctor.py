"""``graph-init doctor``."""

from __future__ import annotations

import sys

import click
from rich.table import Table
from rich.text import Text

from graph_init.cli.options import json_option
from graph_init.cli.terminal import examples, guarded, out, print_json


@click.command(
    short_help="Say whether this installation can work.",
    epilog=examples(
        "graph-init doctor",
    ),
)
@json_option
@guarded
def doctor(as_json: bool) -> None:
    """Say whether this installation can work, and what to run if not."""
    from graph_init.engine.doctor import EXTRAS, check

    findings = check()
    healthy = all(f.ok for f in findings)
    if as_json:
        rows = [f.to_json() for f in findings]
        print_json({"ok": healthy, "findings": rows, "extras": dict(EXTRAS)})
    else:
        table = Table("", "", "found", "run this")
        for f in findings:
            table.add_row("ok" if f.ok else "bad", f.name, Text(f.detail), Text(f.remedy))
        out.print(table)
        meanings = Table("extra", "what it is for")
        for name, meaning in EXTRAS.items():
            meanings.add_row(Text(f"graph-init[{name}]"), meaning)
        out.print(meanings)
    if not healthy:
        sys.exit(1)
