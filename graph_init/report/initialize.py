"""The page of an initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.report import charts, drawing, tensors
from graph_init.report.facts import facts
from graph_init.report.text import finite, shown
from graph_init.report.view import Chart, Column, Figure, Page, Section, Table

Content = Mapping[str, Any]

#: Title, key and form of the figures at the top.
FIGURES = (
    ("Gradient deviation", "gradient_deviation", "number"),
    ("Vanished fraction", "vanished_fraction", "share"),
    ("Gradient norm", "gradient_norm", "number"),
    ("Loss", "loss", "number"),
    ("Output's deviation", "output_std", "number"),
)


def page(content: Content) -> Page:
    """``content`` is what :func:`graph_init.report.content.gather` made."""
    content = finite(dict(content))
    result, graph = content["result"], content["graph"]
    before, after, scales = result["before"], result["after"], result["scales"]
    listed = tensors.rows({"before": before, "after": after}, graph["order"], scales)
    return Page(
        content["model"],
        _subtitle(result),
        figures=[
            Figure(title, shown(before[key], form), shown(after[key], form))
            for title, key, form in FIGURES
        ],
        warnings=_warnings(before["warnings"], after["warnings"], result["notes"]),
        sections=[
            *_history(result),
            _scales(listed, scales),
            _deviation(listed),
            Section(
                "graph",
                "Graph",
                [f"Operators: {drawing.operators(graph)}."],
                drawing=drawing.draw(graph, listed, scales),
            ),
        ],
        content=content,
        facts=facts(content),
    )


def _subtitle(result: Content) -> str:
    scales = result["scales"]
    words = f"{_changed(scales)} of {len(scales)} scales changed"
    if result.get("seconds") is not None:
        words += f", in {result['seconds']:.1f} s"
    return words + (", interrupted" if result.get("interrupted") else "")


def _changed(scales: Mapping[str, float]) -> int:
    return sum(factor != 1 for factor in scales.values())


def _warnings(before: Sequence[str], after: Sequence[str], notes: Sequence[str]) -> list[str]:
    both = [w for w in before if w in after]
    before = [w for w in before if not any(w in note for note in notes)]
    return [
        *notes,
        *(f"before and after: {w}" for w in both),
        *(f"before: {w}" for w in before if w not in both),
        *(f"after: {w}" for w in after if w not in both),
    ]


def _history(result: Content) -> list[Section]:
    history = result["history"]
    if not history:
        return []
    return [_tries(result, history) if "state" in history[0] else _steps(result, history)]


def _tries(result: Content, history: Sequence[Content]) -> Section:
    rows = [{**entry, "taken": entry["step"] == result["best_step"]} for entry in history]
    columns = [
        Column("step", "#", "count"),
        Column("state", "state"),
        Column("taken", "taken", "flag"),
        Column("trial_loss", "loss after the trial", "number"),
        Column("gradient_deviation", "gradient deviation", "number"),
        Column("loss", "loss", "number"),
        Column("gradient_norm", "gradient norm", "number"),
        Column("vanished_fraction", "vanished", "share"),
    ]
    taken = next((r["state"] for r in rows if r["taken"]), "start")
    return Section(
        "steps",
        "States that were tried",
        sentences=[
            "Each state was trained for a few updates on one batch; the one that learns best is "
            "taken. Where a network that can saturate has learnt the batch from several, that is "
            "the one with the lowest gradient deviation. Trials with no finite loss have no bar.",
            f"Taken: {taken}.",
        ],
        charts=[
            Chart(
                "trials",
                "Loss after the trial",
                description=f"Loss that the best trial of each of {len(rows)} states ended with",
                spec=charts.bars(
                    "state", "trial_loss", "loss after the trial", taken="taken", count=len(rows)
                ),
                table="history",
            ),
            Chart(
                "tried",
                "Gradient deviation",
                description=f"Gradient deviation of each of {len(rows)} states",
                spec=charts.bars(
                    "state",
                    "gradient_deviation",
                    "gradient deviation",
                    taken="taken",
                    count=len(rows),
                ),
                table="history",
            ),
        ],
        tables=[
            Table("history", "States that were tried", columns=columns, rows=rows, header="state")
        ],
    )


def _steps(result: Content, history: Sequence[Content]) -> Section:
    columns = [
        Column("step", "step", "count"),
        Column("gradient_deviation", "gradient deviation", "number"),
        Column("loss", "loss", "number"),
        Column("gradient_norm", "gradient norm", "number"),
        Column("vanished_fraction", "vanished", "share"),
    ]
    best = result["best_step"]

    def chart(key: str, title: str, log: bool = False, share: bool = False) -> Chart:
        form = "share" if share else "number"
        first, last = (shown(history[k].get(key), form) for k in (0, -1))
        return Chart(
            f"steps-{key}",
            title,
            description=f"{title} over {len(history)} steps, from {first} to {last}; step {best} "
            "was taken",
            spec=charts.line(
                "step", "step", key, y_title=title.lower(), log=log, share=share, chosen=best
            ),
            table="history",
        )

    return Section(
        "steps",
        "Steps",
        sentences=[
            f"{len(history)} steps; the scales of step {best} were taken. Each step measures on a "
            "batch of its own, so single values are noisy."
        ],
        charts=[
            chart("gradient_deviation", "Gradient deviation", log=True),
            chart("vanished_fraction", "Vanished fraction", share=True),
            chart("gradient_norm", "Gradient norm", log=True),
            chart("loss", "Loss"),
        ],
        tables=[Table("history", "Steps", columns=columns, rows=history, header="step")],
    )


def _scales(listed: Sequence[Content], scales: Mapping[str, float]) -> Section:
    count = sum(row["scalable"] for row in listed)
    norms = Chart(
        "norms",
        "Norm",
        description=f"Norm of each of {count} scalable tensors before and after, in the network's "
        "order",
        spec=charts.pair("norm_before", "norm_after", "norm", count, log=True, only="scalable"),
        table="tensors",
    )
    factors = Chart(
        "factors",
        "Factor",
        description=f"Factor on each of {count} scalable tensors, in the network's order",
        spec=charts.factors("factor", "factor", count, "scalable"),
        table="tensors",
    )
    if not _changed(scales):
        words, drawn = "Every factor is 1: the weights are as they were.", [norms]
    else:
        words, drawn = "The factor on each scalable tensor, and its norm.", [factors, norms]
    return Section(
        "scales", "Scales", sentences=[words], charts=drawn, tables=[tensors.table(listed)]
    )


def _deviation(listed: Sequence[Content]) -> Section:
    count = len(listed)
    return Section(
        "deviation",
        "Where the deviation is",
        [
            "A tensor's share is the part of the deviation that its elements carry.",
            *(
                f"Most {when}: {words}."
                for when in ("before", "after")
                if (words := tensors.leaders(listed, when))
            ),
        ],
        [
            Chart(
                "shares",
                "Share of the deviation",
                description=f"Share of the deviation of each of {count} trainable tensors, before "
                "and after",
                spec=charts.pair(
                    "share_before", "share_after", "share of the deviation", count, share=True
                ),
                table="tensors",
            ),
            Chart(
                "vanished",
                "Vanished fraction",
                description=f"Vanished fraction of each of {count} trainable tensors, before and "
                "after",
                spec=charts.pair(
                    "vanished_before", "vanished_after", "vanished fraction", count, share=True
                ),
                table="tensors",
            ),
        ],
    )
