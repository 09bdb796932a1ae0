"""The table of trainable tensors that the charts of a model read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.report.view import Column, Table

_WHEN = ("before", "after")
#: Key and title of what is known about a tensor before and after.
_NUMBERS = (
    ("norm", "norm", "number"),
    ("deviation", "deviation", "number"),
    ("share", "share of deviation", "share"),
    ("vanished", "vanished", "share"),
)


def rows(
    measured: Mapping[str, Mapping[str, Any]],
    order: Sequence[str],
    factors: Mapping[str, float],
) -> list[dict[str, Any]]:
    """A row for each trainable tensor, in the network's order.

    ``measured`` holds measurements, as JSON, by the suffix of their columns.
    """
    place = {name: k for k, name in enumerate(order)}
    found: dict[str, dict[str, Any]] = {}
    for when, measurement in measured.items():
        whole = _product(measurement["gradient_deviation"], measurement["elements"])
        for p in measurement["parameters"]:
            row = found.setdefault(
                p["name"],
                {k: p[k] for k in ("name", "kind", "shape", "elements", "scalable")}
                | {"factor": factors.get(p["name"])},
            )
            carried = _product(p["gradient_deviation"], p["elements"])
            row[f"norm_{when}"] = p["norm"]
            row[f"deviation_{when}"] = p["gradient_deviation"]
            row[f"share_{when}"] = carried / whole if whole and carried is not None else None
            row[f"vanished_{when}"] = p["vanished_fraction"]
    listed = sorted(found.values(), key=lambda row: place.get(row["name"], len(place)))
    return [{"order": k + 1, **row} for k, row in enumerate(listed)]


def _product(number: float | None, elements: int) -> float | None:
    """None where the number was not finite."""
    return None if number is None else number * elements


def table(listed: Sequence[Mapping[str, Any]]) -> Table:
    """The table of the tensors in ``listed``, with a row for each."""
    columns = [
        Column("order", "#", "count"),
        Column("name", "tensor"),
        Column("kind", "kind"),
        Column("shape", "shape", "shape"),
        Column("elements", "elements", "count"),
        Column("scalable", "scales", "flag"),
        Column("factor", "factor", "number"),
        *(
            Column(f"{key}_{when}", f"{title} {when}", form)
            for key, title, form in _NUMBERS
            for when in _WHEN
        ),
    ]
    return Table(
        "tensors",
        "Trainable tensors in the network's order",
        columns=columns,
        rows=listed,
        header="name",
    )


def leaders(listed: Sequence[Mapping[str, Any]], when: str, count: int = 3) -> str:
    """The tensors that carry most of the deviation, in words; none where it is not finite."""
    shares = [(row[f"share_{when}"], row["name"]) for row in listed]
    known = sorted((s for s in shares if s[0] is not None), key=lambda s: -s[0])
    return ", ".join(f"{name} ({share:.0%})" for share, name in known[:count])
