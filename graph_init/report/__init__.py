"""Reports: one HTML file that shows a result and needs nothing else, not even a network.

A result becomes JSON (``content``), that a page (``view``, filled by ``initialize``, ``check``,
``compare`` and ``zoo``), and that a document (``document``, with ``templates/``, ``style.css`` and
``script.js``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graph_init.errors import OutputError
from graph_init.output import targets
from graph_init.output.transaction import Transaction
from graph_init.report.content import gather

__all__ = ["gather", "rendered", "require", "write", "write_zoo"]


def require(path: str | os.PathLike[str]) -> None:
    """Raises unless a report can be made, and written to ``path``: to be known before the work."""
    from graph_init.report import document

    targets.file(path)
    document.require()


def write(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page of ``content``, which a result's ``report_content()`` gives."""
    require(path)
    _write(path, _pieces(content))


def rendered(content: Mapping[str, Any]) -> bytes:
    """The page of ``content``, as :func:`write` has it."""
    return "".join(_pieces(content)).encode()


def _pieces(content: Mapping[str, Any]) -> Iterable[str]:
    from graph_init.report import check, compare, document, initialize

    pages = {"initialize": initialize.page, "check": check.page, "compare": compare.page}
    return document.single(pages[content["kind"]](content))


def write_zoo(
    rows: Sequence[Mapping[str, Any]],
    contents: Mapping[str, Callable[[], Mapping[str, Any]]],
    path: str | os.PathLike[str],
    title: str = "Models",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page of many models.

    ``rows`` have the keys of :data:`graph_init.report.zoo.KEYS`; ``contents`` gives, for the names
    that have one, what an initialisation's or a check's ``report_content()`` gave. It is called
    one at a time.
    """
    require(path)
    from graph_init.report import document, zoo

    page = zoo.overview(rows, contents.__contains__, title, facts or {})
    pages = zoo.pages(contents, lambda name: contents[name]())
    _write(path, document.many(page, pages))


def _write(path: str | os.PathLike[str], pieces: Iterable[str]) -> None:
    """Whole or not at all."""
    target = targets.file(path)
    try:
        with Transaction() as transaction, transaction.file(target) as stream:
            for piece in pieces:
                stream.write(piece.encode())
    except OSError as error:
        raise OutputError(f"cannot write report {path}: {error.strerror or error}") from error
