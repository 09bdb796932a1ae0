"""The summary of a graph, with what was found about its tensors, as a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.report import graph_layout, text
from graph_init.report.graph_summary import INPUT
from graph_init.report.view import Drawing, Step, Tensor

#: So many scalable tensors of a row have a line of their own.
_LINES = 4
#: So many operators of a row are named.
_OPERATORS = 6

_FOLDED = {
    "chains": "chains of nodes that read no scalable tensor are one row with the node before them",
    "tensors": "each row that reads a scalable tensor holds what follows it up to the next",
    "runs": "neighbours are folded into rows so that the drawing stays readable",
}


def draw(
    graph: Mapping[str, Any],
    tensors: Sequence[Mapping[str, Any]],
    factors: Mapping[str, float] | None,
) -> Drawing:
    """``tensors`` are the rows of the table of tensors, ``factors`` None where there are none."""
    by_name = {t["name"]: t for t in tensors}
    scalable = {t["name"] for t in tensors if t["scalable"]}
    listed = [[n for n in row["tensors"] if n in scalable] for row in graph["rows"]]
    heights = [
        graph_layout.HEIGHT * max(1, min(len(names), _LINES) + (len(names) > _LINES))
        for names in listed
    ]
    pieces, width = graph_layout.draw([row["inputs"] for row in graph["rows"]], heights)
    largest = max((t.get("share_after") or 0.0 for t in tensors), default=0.0) or 1.0
    steps = [
        Step(
            piece,
            height,
            operators=_operators(row, graph["folded"]),
            name=row["name"] + (f" and {row['nodes'] - 1} more" if row["nodes"] > 1 else ""),
            tensors=[_tensor(by_name[n], factors, largest) for n in names[:_LINES]],
            rest=_rest(row["tensors"], names),
        )
        for row, names, piece, height in zip(graph["rows"], listed, pieces, heights, strict=True)
    ]
    count = len(steps)
    caption = (
        f"{graph['nodes']:,} nodes, {graph['computing']:,} of them between inputs and outputs, in "
        f"{count:,} rows: {_FOLDED[graph['folded']]}. The longest path has {graph['depth']:,} "
        f"nodes; {graph['joins']:,} rows join branches."
    )
    return Drawing(caption, width, steps, factors is not None)


def operators(graph: Mapping[str, Any]) -> str:
    """The operators with their counts, the commonest first."""
    return ", ".join(f"{op} {count:,}" for op, count in graph["operators"].items())


def _operators(row: Mapping[str, Any], folded: str) -> str:
    """What a row does: its operators, and of an input its name."""
    names = [op if count == 1 else f"{op} ×{count}" for op, count in row["operators"]]
    if names[0] == INPUT:
        names[0] = f"{INPUT} {row['name']}"
    if len(names) > _OPERATORS:
        names = [*names[: _OPERATORS - 1], f"{len(names) - _OPERATORS + 1} more"]
    return (" → " if folded == "chains" else ", ").join(names)


def _tensor(row: Mapping[str, Any], factors: Mapping[str, float] | None, largest: float) -> Tensor:
    share = row.get("share_after")
    factor = None if factors is None else factors.get(row["name"])
    return Tensor(
        row["name"],
        text.shown(row["shape"], "shape"),
        factor="" if factors is None else text.shown(factor, "number"),
        share=None if share is None else share / largest,
        share_text="" if share is None else text.shown(share, "share"),
    )


def _rest(tensors: Sequence[str], scalable: Sequence[str]) -> str:
    """What of a row's tensors has no line of its own."""
    words = []
    if len(scalable) > _LINES:
        words.append(f"{len(scalable) - _LINES} more that scale")
    fixed = len(tensors) - len(scalable)
    if fixed:
        words.append(f"{fixed} not scaled")
    return "+ " + ", ".join(words) if words else ""
