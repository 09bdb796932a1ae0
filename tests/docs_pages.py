"""The documentation's code blocks, run as a reader would run them.

The blocks of a page are run in order, in one folder that is empty at first. ``sh`` blocks are run
by bash, which stops at the first command that fails; ``python`` blocks share their names, and one
that begins with a comment such as ``# train.py`` is the content of that file (``toml`` likewise).
A ``diff`` is applied. A ``text`` block right behind one of these is what it prints: words are
compared, numbers to a tenth (and absolutely to :data:`NEAR_ZERO`), and ``…`` stands for anything.
A table's rules may be of any width, which follows from what stands in its cells.
Comments of HTML, which readers do not see, say what is different:

    <!-- needs: model.onnx torch -->   what :mod:`tests.docs_fixtures` puts there first
    <!-- exit: 2 -->                   the exit status of the block that follows

All else (``toml`` without a name, ``json``, ``text`` that stands alone) is not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import jitter

ROOT = Path(__file__).parent.parent

#: Puts things into the folder (the current one) or among the names of Python's blocks; what it
#: returns is called when the next block has been run, and fails if that has not done its work.
Fixture = Callable[[dict[str, Any]], Callable[[], None] | None]

RUN = frozenset({"sh", "python", "diff"})
NEAR_ZERO = 0.02
SECONDS = 300

_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml|json))\n")
_FENCE = re.compile(r"( *)```(\w*)")
_COMMENT = re.compile(r"<!-- (needs|exit): (.*?) -->")
_RULE = re.compile(r"([━─═-])\1+")  # a table's rule, or a part of it
_NUMBER = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass
class Block:
    """A fenced block: what it is in, what stands before it, and what it should print."""

    page: str
    line: int
    language: str
    code: str
    needs: tuple[str, ...] = ()
    status: int = 0
    output: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file whose content this is."""
        found = _FILE.match(self.code)
        return found[1] if found and self.language in ("python", "toml", "json") else None


def pages() -> list[str]:
    """Everything that readers are given, by path."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(f.relative_to(ROOT)) for f in files]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of ``page``, in order."""
    return list(_blocks(page, (ROOT / page).read_text("utf-8").split("\n")))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    needs: tuple[str, ...] = ()
    status, last, at = 0, None, 0
    while at < len(lines):
        line = lines[at]
        comment, fence = _COMMENT.match(line), _FENCE.match(line)
        if comment and comment[1] == "needs":
            needs += tuple(comment[2].split())
        elif comment:
            status = int(comment[2])
        elif line.strip() and not fence:
            last = None  # prose: a text block behind it stands alone
        if fence:
            indent, language = fence[1], fence[2]
            end = next(k for k in range(at + 1, len(lines)) if lines[k].strip() == "```")
            code = "".join(f"{x.removeprefix(indent)}\n" for x in lines[at + 1 : end])
            if language == "text" and last is not None:
                last.output, last = code, None
            else:
                block = Block(
                    page=page, line=at + 1, language=language, code=code, needs=needs, status=status
                )
                needs, status = (), 0
                yield block
                last = block if language in RUN else None
            at = end
        at += 1


def save(block: Block, folder: Path) -> None:
    """Write a block that is a file's content."""
    assert block.file is not None
    path = folder / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.code, "utf-8")


def run(
    page: str, fixtures: Mapping[str, Fixture], skipped: Callable[[Block], bool] = lambda b: False
) -> None:
    """Run a page's blocks in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if skipped(block):
            continue
        checks = [fixtures[need](names) for need in block.needs]
        if block.file is not None:
            save(block, Path.cwd())
        elif block.language in RUN:
            printed = _RUNNERS[block.language](block, names)
            if block.output is not None:
                difference = unlike(block.output, printed)
                assert not difference, f"{block.where} prints otherwise: {difference}\n{printed}"
        for check in checks:
            if check is not None:
                check()


def _python(block: Block, names: dict[str, Any]) -> str:
    printed = io.StringIO()
    padded = "\n" * block.line + block.code  # so that a traceback names the page's line
    with contextlib.redirect_stdout(printed):
        exec(compile(padded, block.page, "exec"), names)
    return printed.getvalue()


def _sh(block: Block, names: dict[str, Any]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS,
        env=environment(Path.cwd()),
        check=False,
    )
    assert done.returncode == block.status, (
        f"{block.where} ends with {done.returncode}, not {block.status}:\n{done.stdout[-4000:]}"
    )
    return done.stdout


def _diff(block: Block, names: dict[str, Any]) -> str:
    """As ``git apply`` does, but lines may have moved."""
    done = subprocess.run(
        ["patch", "--strip=1", "--no-backup-if-mismatch", "--fuzz=0"],
        input=block.code,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.where} cannot be applied:\n{done.stdout}"
    return ""


_RUNNERS: Mapping[str, Callable[[Block, dict[str, Any]], str]] = {
    "diff": _diff,
    "python": _python,
    "sh": _sh,
}


def environment(folder: Path) -> dict[str, str]:
    """That of a reader who has installed this repository, in a terminal of 100 columns."""
    ours = (jitter.NOISE, jitter.SHIFT)
    given = {k: v for k, v in os.environ.items() if k in ours or not k.startswith("GRAPH_INIT")}
    return {
        **given,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": jitter.python_path(folder, folder / "frontends"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def unlike(expected: str, found: str) -> str:
    """Where ``found`` differs from what a page shows; empty if it does not."""
    wanted, got = (_RULE.sub(r"\1\1", text).split() for text in (expected, found))
    pattern = "".join(_pattern(word) for word in wanted)
    match = re.fullmatch(pattern, "".join(f"{word} " for word in got), re.DOTALL)
    if match is None:
        return _first_difference(wanted, got)
    shown = [n for word in wanted for n in _NUMBER.findall(word)]
    for one, other in zip(shown, match.groups(), strict=True):
        if not _close(_float(one), _float(other)):
            return f"{other} in place of {one}"
    return ""


def _pattern(word: str) -> str:
    """A word with its space; numbers become groups, and ``…`` anything."""
    if word == "…":
        return ".*?"
    parts, at = [], 0
    for number in _NUMBER.finditer(word):
        parts += [_literal(word[at : number.start()]), f"({_NUMBER.pattern})"]
        at = number.end()
    return "".join(parts) + _literal(word[at:]) + " "


def _literal(text: str) -> str:
    return re.escape(text).replace("…", ".*?")


def _first_difference(wanted: list[str], got: list[str]) -> str:
    for k in range(1, len(wanted) + 1):
        pattern = "".join(_pattern(word) for word in wanted[:k])
        if re.match(pattern, "".join(f"{word} " for word in got), re.DOTALL) is None:
            return f"'{' '.join(wanted[max(0, k - 6) : k])}' is not there"
    return "there is more than the page shows"


def _float(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= max(0.1 * abs(one), NEAR_ZERO)
