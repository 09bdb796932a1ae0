"""The parts of a page (text, tables, charts) before they are HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graph_init.report import text
from graph_init.report.graph_layout import Piece

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table, named ``key`` in its rows, its charts and its CSV.

    ``form``: ``text``, ``flag``, ``shape``; or of numbers ``number``, ``share``, ``count``,
    ``seconds``, ``memory``.
    """

    key: str
    title: str
    form: str = "text"
    #: Whether rows can be chosen by their text in this column.
    choices: bool = False
    #: Whether its texts are sentences, which need room.
    long: bool = False

    @property
    def numeric(self) -> bool:
        return self.form not in ("text", "flag", "shape")

    def shown(self, row: Row) -> str:
        return text.shown(row.get(self.key), self.form)

    def exact(self, row: Row) -> str | None:
        return text.exact(row.get(self.key), self.form)


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted and saved as CSV; the ``header`` column names them.

    ``open``: shown at once, not behind a line that opens it. ``links`` is the key of the address
    that a row's name leads to.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    header: str
    open: bool = False
    links: str | None = None


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite ``spec`` without data; these are the rows of the table with the id ``table``."""

    id: str
    title: str
    description: str
    spec: Mapping[str, Any]
    table: str
    wide: bool = False


@dataclass(frozen=True)
class Figure:
    """A number that stands for the whole, before and after (or only one)."""

    title: str
    before: str
    after: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Tensor:
    """A scalable tensor beside the drawing of the graph."""

    name: str
    shape: str
    factor: str
    share: float | None
    share_text: str


@dataclass(frozen=True)
class Step:
    """A row of the drawing. ``rest`` says which further tensors it reads."""

    piece: Piece
    height: int
    operators: str
    name: str
    tensors: Sequence[Tensor]
    rest: str


@dataclass(frozen=True)
class Drawing:
    """The graph, drawn beside its rows."""

    caption: str
    width: int
    steps: Sequence[Step]
    #: Whether factors and shares are known.
    figures: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading: sentences, then charts, tables and a drawing."""

    id: str
    title: str
    sentences: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    drawing: Drawing | None = None


@dataclass(frozen=True)
class Page:
    """One model's page. ``content`` is what can be saved as JSON."""

    title: str
    subtitle: str
    figures: Sequence[Figure]
    warnings: Sequence[str]
    sections: Sequence[Section]
    content: Mapping[str, Any] = field(repr=False)
    facts: Sequence[tuple[str, str]] = ()
