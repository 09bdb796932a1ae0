"""What MkDocs is told beyond mkdocs.yml: pages from the root, links, commands, formulas.

README.md, CONTRIBUTING.md, CHANGELOG.md and SECURITY.md lie at the root, where everybody looks for
them, and are pages of the site too; links between them and ``docs/`` work in both places. The
reference of commands is what ``--help`` prints. Formulas become MathML when the site is built, so
that no page loads a script for them.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import click
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

#: Files at the root, by the page that they are.
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
_NAMES = {file: page for page, file in PAGES.items()}

#: Where the reference of commands goes, and how wide it is.
_COMMANDS = "<!-- every command's help -->"
_COLUMNS = 96

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the root."""
    for page, name in PAGES.items():
        file = ROOT / name
        if file.exists():
            text = _LINK.sub(lambda m: _from_root(m[1]), file.read_text("utf-8"))
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links out of ``docs/`` to the files of the root."""
    up = "../" * page.file.src_uri.count("/")
    linked = _LINK.sub(lambda m: _to_root(m[1], up), markdown)
    return linked.replace(_COMMANDS, _commands()) if _COMMANDS in linked else linked


def on_page_content(html: str, **kwargs: Any) -> str:
    """Formulas as MathML."""
    return _FORMULA.sub(_mathml, html)


def _commands() -> str:
    """The help of ``graph-init`` and of each of its commands, under a heading each."""
    from graph_init.cli import cli

    root = click.Context(cli, info_name="graph-init", terminal_width=_COLUMNS)
    sections = [("graph-init", cli.get_help(root))]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        with click.Context(command, parent=root, info_name=name) as context:
            sections.append((f"graph-init {name}", command.get_help(context)))
    return "\n\n".join(f"## {title}\n\n```text\n{text}\n```" for title, text in sections)


def _from_root(target: str) -> str:
    return _NAMES.get(target, target.removeprefix("docs/"))


def _to_root(target: str, up: str) -> str:
    name = target.removeprefix(f"../{up}")
    return f"{up}{_NAMES[name]}" if target.startswith(f"../{up}") and name in _NAMES else target


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == "[" else "inline"
    formula = convert(html.unescape(found[3]).strip(), display=display)
    return f'<{found[1]} class="arithmatex">{formula}</{found[1]}>'
