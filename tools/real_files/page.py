"""docs/real-files.md: a row a file, with shares and causes above."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tools.real_files.catalog import ASIDE, MOST, RealFile
from tools.real_files.runs import MEMORY, TIME, UPDATES, Outcome, Run

PAGE = Path(__file__).parent.parent.parent / "docs" / "real-files.md"
#: Words of the refusals of files that have no float weights to scale: tables of signal processing,
#: trees, whole numbers.
_WEIGHTLESS = ("no trainable parameter", "no layer with weights to tune", "quantized")
#: Files that are named beside a cause.
_NAMED = 3
_FILES = (
    "| file | package | producer | opset | nodes | elements | sizes | measure (s) | initialize (s) "
    "| peak (GB) | what came of it |\n"
    "|---|---|---|---:|---:|---:|---|---:|---:|---:|---|"
)
_SHARES = (
    "| | files | measured | initialised | median (s) | longest (s) | median (processor s) |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)

Results = Sequence[tuple[RealFile, Outcome]]


@dataclass(frozen=True)
class Setting:
    """What the page is about beside the results.

    ``program`` is the state of the program, ``missing`` the number of files of the list without an
    outcome, ``zoo`` what came of all files in one run. What has been set aside is shown with its
    outcome where ``revealed``, else only counted.
    """

    program: str
    missing: int = 0
    zoo: Mapping[str, Any] | None = None
    revealed: bool = False


def text(results: Results, setting: Setting) -> str:
    """The page."""
    packages: dict[str, list[tuple[RealFile, Outcome]]] = defaultdict(list)
    for file, outcome in results:
        packages[file.package].append((file, outcome))
    aside = [(f, o) for f, o in results if f.aside]
    known = [(f, o) for f, o in results if not f.aside]
    wrong = sum(bool(o.differences) for _, o in results)
    ran = sum(o.ran == "ran" for _, o in results)
    made = sum(o.initialize is not None and o.initialize.ok for _, o in results)
    parts = [
        "# Real files",
        "Written by `python -m tools.real_files`; do not edit. "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; "
        f"graph_init/ at git tree {setting.program}.",
        f"ONNX files as packages of the Python registry ship them: {len(results)} files with "
        f"different bytes from {len(packages)} packages, at most {MOST} of one package (those with "
        f"the least digests). `inspect`, `measure` and `initialize --updates {UPDATES}` run on "
        "each, with no other option, each command in a process of its own, which may take "
        f"{TIME} s of a processor and {MEMORY >> 30} GiB. What is written is compared with the "
        "original tensor by tensor by `tools/verify_written.py`, which shares no code with the "
        f"program. About one file in {ASIDE}, chosen by its digest, is set aside: nobody looks at "
        "what comes of it while the program is changed."
        + (
            f" {setting.missing} more files of the list have not been tried, the last by digest."
            if setting.missing
            else ""
        ),
        _SHARES
        + "\n"
        + "\n".join(
            _shares(title, part)
            for title, part in (
                ("all", results),
                ("set aside", aside),
                ("others", known),
                ("all, with weights", _weighted(results)),
                ("set aside, with weights", _weighted(aside)),
                ("others, with weights", _weighted(known)),
            )
        ),
        "*With weights* leaves out what is refused because it has none to scale: tables of signal "
        "processing, trees, whole numbers in place of floats. The section on refusals lists them.",
        f"Of {made} written files {wrong} differ from their original in anything but the tensors "
        f"of the scales file. {ran} could be run beside their original on random inputs. Seconds "
        "are those of `measure`, by the clock and of the processor, with the program's start.",
        *_zoo(setting.zoo, results),
        "## Why files are refused",
        _causes(o.failure for _, o in (results if setting.revealed else known)),
        "## By package",
        _SHARES.replace("| |", "| package |", 1)
        + "\n"
        + "\n".join(_shares(name, packages[name]) for name in sorted(packages)),
        "## Files",
        "Peak is the larger of the two commands'. ◦ marks what is set aside"
        + ("." if setting.revealed else "; what came of it is only counted."),
        _FILES
        + "\n"
        + "\n".join(_row(f, o, setting.revealed) for f, o in sorted(results, key=lambda r: r[0])),
    ]
    return "\n\n".join(parts) + "\n"


def _weighted(results: Results) -> Results:
    """Those that are not refused for having no weights."""
    return [(f, o) for f, o in results if not any(words in o.failure for words in _WEIGHTLESS)]


def _shares(title: str, results: Results) -> str:
    measured = [o for _, o in results if o.measured]
    seconds = [o.measure.seconds for o in measured]
    return (
        f"| {title} | {len(results)} | {_share(results, lambda o: o.measured)} | "
        f"{_share(results, lambda o: o.initialized)} | "
        + (
            f"{median(seconds):.1f} | {max(seconds):.1f} | "
            f"{median(o.measure.processor for o in measured):.1f} |"
            if seconds
            else "| | |"
        )
    )


def _share(results: Results, holds: Callable[[Outcome], bool]) -> str:
    count = sum(holds(o) for _, o in results)
    return f"{count} ({count / len(results):.0%})" if results else "0"


def _zoo(zoo: Mapping[str, Any] | None, results: Results) -> list[str]:
    if zoo is None:
        return []
    alone = {f.name: o.initialize is not None and o.initialize.ok for f, o in results}
    lines = zoo["rows"]
    other = sorted(n for n, ok in alone.items() if n in lines and ok != (not lines[n]))
    words = (
        f"The same files in one `graph-init zoo` run: {zoo['done']} done and {zoo['failed']} "
        f"failed in {zoo['seconds'] / 60:.0f} minutes."
    )
    if other:
        words += " It came to another result for " + ", ".join(f"`{n}`" for n in other) + "."
    return [words]


def _causes(lines: Iterable[str]) -> str:
    """Lines that differ in names and numbers alone are one cause."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line:
            found[cause(line)].append(line)
    if not found:
        return "None is."
    rows = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    table = [
        f"| {len(lines)} | {_cell(Counter(lines).most_common(1)[0][0])} |" for _, lines in rows
    ]
    return "| files | such as |\n|---:|---|\n" + "\n".join(table)


def cause(line: str) -> str:
    """The line without what is of one file: its name, names in quotes, counts, shapes, numbers."""
    line = re.sub(r"^[\w.-]+\.onnx: ", "", line)
    line = re.sub(r"\d+ [A-Z]\w+(, \d+ [A-Z]\w+)*", "…", line)
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
    line = re.sub(r"[(\[][\d, ]*[)\]]", "(…)", line)
    return re.sub(r"\d[\d.,e+-]*", "…", line)


def _row(file: RealFile, outcome: Outcome, revealed: bool) -> str:
    facts, made = outcome.facts, outcome.initialize
    sizes = ", ".join(
        f"{name}[{axis}]={size}"
        for name, axes in outcome.sizes.items()
        for axis, size in axes.items()
    )
    peak = max(outcome.measure.peak, made.peak if made else 0) / 1e9
    result = outcome.failure or f"initialised; {outcome.ran}"
    own = (
        f"{'◦ ' if file.aside else ''}{Path(file.path).name}",
        f"{file.package} {file.version}",
        facts.producer,
        str(facts.opset or ""),
        f"{facts.nodes:,}",
    )
    told = (
        "" if outcome.elements is None else f"{outcome.elements:,}",
        sizes,
        _seconds(outcome.measure),
        _seconds(made),
        f"{peak:.2f}",
        result,
    )
    if file.aside and not revealed:
        told = ("",) * len(told)
    return "| " + " | ".join(_cell(c) for c in (*own, *told)) + " |"


def _seconds(run: Run | None) -> str:
    return "" if run is None else f"{run.seconds:.1f}"


def _cell(content: str) -> str:
    """Text of a file in a table of Markdown, where it means nothing but itself."""
    content = " ".join(content.split())
    for sign in "\\|`*_[]<>&":
        content = content.replace(sign, f"&#{ord(sign)};" if sign in "<>&|" else "\\" + sign)
    return content
