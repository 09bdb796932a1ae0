"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from graph_init.report import charts, drawing, tensors
from graph_init.report.facts import facts
from graph_init.report.text import finite
from graph_init.report.view import Chart, Column, Figure, Page, Section, Table

Content = Mapping[str, Any]

#: Losses are averaged over this many updates where curves are drawn.
_WINDOW = 10


def page(content: Content) -> Page:
    """``content`` is what :func:`graph_init.report.content.gather` made."""
    content = finite(dict(content))
    result, graph = content["result"], content["graph"]
    optimizers = result["settings"]["optimizers"]
    measured = next(s for s in result["states"] if "gradient_deviation" in s)
    listed = tensors.rows({"before": measured}, graph["order"], {})
    problems = [
        f"{s['name']}, seed {s['seed']}: {s['problem']}" for s in result["states"] if "problem" in s
    ]
    return Page(
        content["model"],
        _subtitle(result),
        figures=[_best(result, optimizer) for optimizer in optimizers],
        warnings=[*result["warnings"], *problems],
        sections=[
            _summary(result),
            _training(result, optimizers),
            _states(result, graph["order"]),
            Section(
                "graph",
                "Graph",
                [f"Operators: {drawing.operators(graph)}."],
                drawing=drawing.draw(graph, [_without_share(t) for t in listed], None),
            ),
        ],
        content=content,
        facts=facts(content),
    )


def _subtitle(result: Content) -> str:
    settings = result["settings"]
    states = len({s["name"] for s in result["states"]})
    return (
        f"{states} initial states compared by {len(result['runs'])} training runs of "
        f"{settings['updates']} updates"
    )


def _best(result: Content, optimizer: str) -> Figure:
    rows = [r for r in result["summary"] if r["optimizer"] == optimizer]
    scored = [r for r in rows if r["held_out_loss"] is not None]
    if not scored:
        return Figure(f"Best with {optimizer}", "–", note="every run has diverged")
    best = min(scored, key=lambda r: r["held_out_loss"])
    accuracy = "" if best["accuracy"] is None else f", accuracy {best['accuracy']:.1%}"
    return Figure(
        f"Best with {optimizer}",
        best["state"],
        note=f"held-out loss {best['held_out_loss']:.3g}{accuracy}, "
        f"learning rate {best['learning_rate']:g}",
    )


def _summary(result: Content) -> Section:
    columns = [
        Column("row", "state and optimiser"),
        Column("learning_rate", "learning rate", "number"),
        Column("final_loss", "training loss", "number"),
        Column("low", "lowest", "number"),
        Column("high", "highest", "number"),
        Column("held_out_loss", "held-out loss", "number"),
        Column("accuracy", "accuracy", "share"),
        Column("trained", "trained", "share"),
        Column("largest_rate", "largest rate that trains", "number"),
        Column("gradient_deviation", "gradient deviation", "number"),
        Column("vanished_fraction", "vanished", "share"),
    ]
    rows = [
        {
            **r,
            "row": f"{r['state']} · {r['optimizer']}",
            "low": r["spread"][0],
            "high": r["spread"][1],
        }
        for r in result["summary"]
    ]
    sentences = [
        "Each state at the learning rate where its training loss is lowest: medians over "
        f"{result['settings']['seeds']} seeds. “Trained” is the share of seeds whose loss fell."
    ]
    table = Table(
        "summary",
        "States at their best learning rates",
        columns=columns,
        rows=rows,
        header="row",
        open=True,
    )
    return Section("results", "Results", sentences, tables=[table])


def _training(result: Content, optimizers: Sequence[str]) -> Section:
    schemes = list(dict.fromkeys(s["scheme"] for s in result["states"]))
    tuned = any(s["tuned"] for s in result["states"])
    curve_columns = [
        Column("state", "state"),
        Column("scheme", "scheme"),
        Column("tuned", "tuned", "flag"),
        Column("optimizer", "optimiser"),
        Column("updates", "updates", "count"),
        Column("median", "median loss", "number"),
        Column("low", "lowest", "number"),
        Column("high", "highest", "number"),
    ]
    rate_columns = [
        *curve_columns[:4],
        Column("learning_rate", "learning rate", "number"),
        Column("final_loss", "median final loss", "number"),
        Column("diverged", "diverged", "count"),
    ]
    count = len({s["name"] for s in result["states"]})
    drawn = []
    for name in optimizers:
        drawn += [
            Chart(
                f"curves-{name}",
                f"Training loss with {name}",
                description=f"Training loss over updates with {name}, of {count} states at their "
                "best learning rates",
                spec=charts.curves(name, schemes, tuned),
                table="curves",
            ),
            Chart(
                f"rates-{name}",
                f"Learning rates of {name}",
                description=f"Final training loss over learning rates of {name}, of {count} states",
                spec=charts.rates(name, schemes, tuned, result["settings"]["learning_rates"][name]),
                table="rates",
            ),
        ]
    return Section(
        "training",
        "Training",
        sentences=[
            f"Curves are means over {_WINDOW} updates: the median over seeds, and a band from the "
            "lowest to the highest. What has diverged leaves a gap."
        ],
        charts=drawn,
        tables=[
            Table(
                "curves",
                "Training losses",
                columns=curve_columns,
                rows=list(_curves(result)),
                header="state",
            ),
            Table(
                "rates",
                "Final losses",
                columns=rate_columns,
                rows=list(_rates(result)),
                header="state",
            ),
        ],
    )


def _by_rate(result: Content, state: str, optimizer: str) -> dict[float, list[Content]]:
    found: dict[float, list[Content]] = {}
    for run in result["runs"]:
        if run["state"] == state and run["optimizer"] == optimizer:
            found.setdefault(run["learning_rate"], []).append(run)
    return dict(sorted(found.items()))


def _kinds(result: Content) -> dict[str, dict[str, Any]]:
    return {
        s["name"]: {"state": s["name"], "scheme": s["scheme"], "tuned": s["tuned"]}
        for s in result["states"]
    }


def _curves(result: Content) -> Iterator[dict[str, Any]]:
    kinds = _kinds(result)
    for row in result["summary"]:
        runs = _by_rate(result, row["state"], row["optimizer"])[row["learning_rate"]]
        smooth = [_smooth(run["losses"]) for run in runs]
        for k, found in enumerate(zip(*smooth, strict=False)):
            # A median over some of the seeds would look better than they all are.
            values = [x for x in found if x is not None]
            if len(values) == len(runs):
                yield {
                    **kinds[row["state"]],
                    "optimizer": row["optimizer"],
                    "updates": k * _WINDOW + _WINDOW // 2,
                    "median": median(values),
                    "low": min(values),
                    "high": max(values),
                }


def _smooth(losses: Sequence[float | None]) -> list[float | None]:
    """Means over windows; None where a loss is not finite."""
    means: list[float | None] = []
    for start in range(0, len(losses), _WINDOW):
        window = [x for x in losses[start : start + _WINDOW] if x is not None]
        whole = len(window) == len(losses[start : start + _WINDOW])
        means.append(sum(window) / len(window) if whole else None)
    return means


def _rates(result: Content) -> Iterator[dict[str, Any]]:
    for state, kind in _kinds(result).items():
        for optimizer in result["settings"]["optimizers"]:
            for rate, runs in _by_rate(result, state, optimizer).items():
                losses = [r["final_loss"] for r in runs]
                finals = [float("inf") if x is None else x for x in losses]
                yield finite(
                    {
                        **kind,
                        "optimizer": optimizer,
                        "learning_rate": rate,
                        "final_loss": float(median(finals)),
                        "diverged": sum(r["diverged"] for r in runs),
                    }
                )


def _states(result: Content, order: Sequence[str]) -> Section:
    columns = [
        Column("name", "state"),
        Column("seed", "seed", "count"),
        Column("gradient_deviation", "gradient deviation", "number"),
        Column("vanished_fraction", "vanished", "share"),
        Column("gradient_norm", "gradient norm", "number"),
        Column("loss", "loss", "number"),
        Column("output_std", "output's deviation", "number"),
    ]
    share_columns = [
        Column("state", "state"),
        Column("order", "#", "count"),
        Column("name", "tensor"),
        Column("share", "share of deviation", "share"),
        Column("vanished", "vanished", "share"),
        Column("norm", "norm", "number"),
    ]
    shares = list(_shares(result, order))
    return Section(
        "states",
        "Initial states",
        sentences=[
            "Gradient deviation of each state on training batches, and the tensors that carry it."
        ],
        charts=[
            Chart(
                "heat",
                "Share of the deviation",
                description="Share of the deviation that each trainable tensor carries, in each "
                "initial state",
                spec=charts.heat(len({row["state"] for row in shares})),
                table="shares",
                wide=True,
            )
        ],
        tables=[
            Table(
                "measurements",
                "Measurements",
                columns=columns,
                rows=result["states"],
                header="name",
            ),
            Table(
                "shares",
                "Shares of the deviation, first seed",
                columns=share_columns,
                rows=shares,
                header="state",
            ),
        ],
    )


def _shares(result: Content, order: Sequence[str]) -> Iterator[dict[str, Any]]:
    seen = set()
    for state in result["states"]:
        if state["name"] in seen or "gradient_deviation" not in state:
            continue
        seen.add(state["name"])
        for row in tensors.rows({"before": state}, order, {}):
            yield {
                "state": state["name"],
                "order": row["order"],
                "name": row["name"],
                "share": row["share_before"],
                "vanished": row["vanished_before"],
                "norm": row["norm_before"],
            }


def _without_share(row: Content) -> dict[str, Any]:
    return {k: v for k, v in row.items() if not k.startswith("share")}
