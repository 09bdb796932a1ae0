"""The page of a check: its findings, and the signal and the gradient by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.report import charts, drawing
from graph_init.report.facts import facts
from graph_init.report.text import finite, shown
from graph_init.report.view import Chart, Column, Figure, Page, Section, Table

Content = Mapping[str, Any]

#: Title and key of numbers of the whole gradient.
_WHOLE = (
    ("Gradient norm", "norm"),
    ("Gradient deviation", "gradient_deviation"),
    ("Curvature along the gradient", "curvature"),
)
_SEVERITIES = ("error", "warning", "note")


def page(content: Content) -> Page:
    """``content`` is what a check's ``report_content()`` gave."""
    content = finite(dict(content))
    result, graph, profile = content["result"], content["graph"], content["profile"]
    counts = {s: sum(f["severity"] == s for f in result["findings"]) for s in _SEVERITIES}
    tensors = _ordered(profile["tensors"], graph["order"])
    return Page(
        content["model"],
        _subtitle(result, counts),
        figures=[
            *(Figure(f"{s}s".capitalize(), f"{count:,}") for s, count in counts.items()),
            Figure("Output's deviation", shown((profile["output"] or {}).get("std"), "number")),
            *(
                Figure(title, shown((profile["gradient"] or {}).get(key), "number"))
                for title, key in _WHOLE
            ),
        ],
        warnings=result["notes"],
        sections=[
            _findings(result),
            *_signal(profile["layers"]),
            *_gradient(tensors),
            Section(
                "graph",
                "Graph",
                [f"Operators: {drawing.operators(graph)}."],
                drawing=drawing.draw(graph, tensors, None),
            ),
        ],
        content=content,
        facts=facts(content),
    )


def _subtitle(result: Content, counts: Mapping[str, int]) -> str:
    words = [f"{n} {s}{'' if n == 1 else 's'}" for s, n in counts.items() if n] or ["no findings"]
    trained = ", which looks trained" if result["is_trained"] else ""
    return f"{', '.join(words)} in a model of {result['tensors']:,} tensors{trained}"


def _findings(result: Content) -> Section:
    rows = [
        {
            **finding,
            "place": k + 1,
            "evidence": "; ".join(
                f"{name.replace('_', ' ')} {shown(number, 'number')}"
                for name, number in finding["evidence"].items()
            ),
        }
        for k, finding in enumerate(result["findings"])
    ]
    more = "else " if rows else ""
    sentences = [f"Nothing {more}was found in {result['tensors']:,} tensors."]
    if not rows:
        return Section("findings", "Findings", sentences)
    columns = [
        Column("id", "rule", choices=True),
        Column("place", "#", "count"),
        Column("severity", "severity", choices=True),
        Column("tensor", "tensor"),
        Column("message", "finding", long=True),
        Column("factor", "factor that would mend it", "number"),
        Column("evidence", "evidence", long=True),
    ]
    table = Table(
        "found",
        "Findings from worst to least",
        columns=columns,
        rows=rows,
        header="id",
        open=True,
        links="help",
    )
    return Section("findings", "Findings", sentences, tables=[table])


def _signal(layers: Sequence[Content]) -> list[Section]:
    if not layers:
        return []
    rows = [{"order": k + 1, **layer} for k, layer in enumerate(layers)]
    columns = [
        Column("order", "#", "count"),
        Column("node", "layer"),
        Column("operator", "operator"),
        Column("tensor", "tensor"),
        Column("std", "standard deviation", "number"),
        Column("across", "across inputs", "number"),
        Column("mean", "mean", "number"),
    ]
    return [
        Section(
            "signal",
            "Signal by depth",
            sentences=[
                "Standard deviation of what each layer gives, over all elements and across the "
                "inputs of a batch: what depends on the input. A layer that gives nothing has no "
                "mark."
            ],
            charts=[
                *_depth("std", "Standard deviation", rows, table="layers", name="node"),
                *_depth(
                    "across", "Standard deviation across inputs", rows, table="layers", name="node"
                ),
            ],
            tables=[Table("layers", "Layers", columns=columns, rows=rows, header="node")],
        )
    ]


def _gradient(tensors: Sequence[Content]) -> list[Section]:
    if not any("gradient_norm" in t for t in tensors):
        return []
    columns = [
        Column("order", "#", "count"),
        Column("name", "tensor"),
        Column("kind", "kind"),
        Column("shape", "shape", "shape"),
        Column("elements", "elements", "count"),
        Column("rms", "root mean square", "number"),
        Column("gradient_norm", "gradient norm", "number"),
        Column("ratio", "gradient norm over norm", "number"),
        Column("vanished", "vanished", "share"),
        Column("zero", "exactly zero", "share"),
        Column("share", "share of deviation", "share"),
    ]
    return [
        Section(
            "gradient",
            "Gradient by depth",
            sentences=[
                "Norm of the gradient of each trainable tensor, and the same over the norm of the "
                "tensor: how far an update at one learning rate moves it. A tensor that no "
                "gradient reaches has no mark."
            ],
            charts=[
                *_depth("gradient_norm", "Gradient norm", tensors, table="tensors", name="name"),
                *_depth("ratio", "Gradient norm over norm", tensors, table="tensors", name="name"),
            ],
            tables=[
                Table(
                    "tensors",
                    "Trainable tensors in the network's order",
                    columns=columns,
                    rows=tensors,
                    header="name",
                )
            ],
        )
    ]


def _ordered(tensors: Sequence[Content], order: Sequence[str]) -> list[dict[str, Any]]:
    place = {name: k for k, name in enumerate(order)}
    listed = sorted(tensors, key=lambda t: place.get(t["name"], len(place)))
    return [{"order": k + 1, **t} for k, t in enumerate(listed)]


def _depth(key: str, title: str, rows: Sequence[Content], table: str, name: str) -> list[Chart]:
    """A number over depth on a logarithmic axis, if there are two to draw."""
    positive = [row[key] for row in rows if (row.get(key) or 0.0) > 0]
    if len(positive) < 2:
        return []
    x, y = "order", title.lower()
    spec = charts.line(x, f"{table[:-1]}, in the network's order", key, y_title=y, log=True)
    spec["transform"] = [{"filter": f"datum.{key} > 0"}]
    point: charts.Spec = {
        "mark": {
            "type": "point",
            "filled": True,
            "size": 36,
            "opacity": 1,
            "color": "var(--after)",
        },
        "encoding": {
            "x": {"field": x, "type": "quantitative"},
            "y": {"field": key, "type": "quantitative"},
            "tooltip": [
                {"field": name, "title": table[:-1]},
                {"field": key, "title": y, "format": ".4g"},
            ],
        },
    }
    spec["layer"].append(point)
    first, last = (shown(positive[k], "number") for k in (0, -1))
    return [
        Chart(
            f"depth-{key}",
            title,
            description=f"{title} over {len(positive)} {table}, from {first} to {last}",
            spec=spec,
            table=table,
        )
    ]
