"""Specifications of charts in Vega-Lite. Colours are variables of the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

#: So many tensors have their names beside their bars; more have numbers below.
NAMED = 40
_BEFORE, _AFTER, _REST = "var(--before)", "var(--after)", "var(--rest)"
_SERIES = [f"var(--series-{k})" for k in range(1, 9)]
_HEIGHT, _BAR = 220, 18
#: Whether a grid line is one at a power of ten.
_IS_POWER = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 0.000001"
#: A mark that fits into a circle: SVG path in a square from -1 to 1.
_DOT = "M-.6,0A.6,.6,0,1,1,.6,0A.6,.6,0,1,1,-.6,0Z"


def line(
    x: str,
    x_title: str,
    y: str,
    y_title: str,
    log: bool = False,
    share: bool = False,
    chosen: int = -1,
) -> Spec:
    """One number over steps, with a rule at the ``chosen`` one."""
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "color": _AFTER, "strokeWidth": 1.8},
            "encoding": {
                "x": {
                    "field": x,
                    "type": "quantitative",
                    "title": x_title,
                    "axis": {"grid": False},
                },
                "y": _quantity(y, y_title, log, zero=False, share=share),
            },
        }
    ]
    if chosen >= 0:
        layers.append(
            {
                "transform": [{"filter": f"datum.{x} === {chosen}"}],
                "mark": {"type": "rule", "color": _BEFORE, "strokeDash": [4, 3]},
                "encoding": {
                    "x": {"field": x, "type": "quantitative"},
                    "tooltip": [{"field": x, "title": "taken"}, {"field": y, "title": y_title}],
                },
            }
        )
    return {"width": "container", "height": _HEIGHT, "layer": layers}


def bars(name: str, y: str, y_title: str, taken: str, count: int) -> Spec:
    """A bar for each row, the ``taken`` one in the colour of what comes after."""
    return {
        "width": "container",
        "height": 30 * count,
        "padding": {"left": 5, "right": 52, "top": 5, "bottom": 5},
        "encoding": {"y": _names(name), "x": _quantity(y, y_title)},
        "layer": [
            {
                "mark": {"type": "bar", "cornerRadiusEnd": 2},
                "encoding": {
                    "color": {
                        "condition": {"test": f"datum.{taken} === 'yes'", "value": _AFTER},
                        "value": _REST,
                    },
                    "tooltip": [{"field": name}, {"field": y, "title": y_title, "format": ".4g"}],
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 4, "color": "var(--ink)"},
                "encoding": {"text": {"field": y, "format": ".4~g"}},
            },
        ],
    }


def pair(
    before: str,
    after: str,
    title: str,
    count: int,
    log: bool = False,
    share: bool = False,
    only: str | None = None,
) -> Spec:
    """Two numbers for each tensor, in the order of the network, joined by a line."""
    place, value, size = _axes(count)
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "color": _REST, "strokeWidth": 1.5},
            "encoding": {
                place[0]: place[1],
                value: _quantity(before, title, log, zero=not log, share=share),
                f"{value}2": {"field": after},
            },
        },
        {
            "transform": [
                {"fold": [before, after], "as": ["when", "value"]},
                {"calculate": f"datum.when === '{before}' ? 'before' : 'after'", "as": "when"},
            ],
            "mark": {"type": "point", "size": 44, "opacity": 1, "strokeWidth": 1.8},
            "encoding": {
                place[0]: place[1],
                value: _quantity("value", title, log, zero=not log, share=share),
                "color": _when(),
                # Where nothing has changed both are seen.
                "shape": {
                    "field": "when",
                    "scale": {"domain": ["before", "after"], "range": ["circle", _DOT]},
                },
                "tooltip": _tensor_tips(
                    [(before, "before"), (after, "after")], ".2%" if share else ".4g"
                ),
            },
        },
    ]
    spec: Spec = {**size, "layer": layers}
    if only:
        spec["transform"] = [{"filter": f"datum.{only} === 'yes'"}]
    return spec


def factors(factor: str, title: str, count: int, only: str) -> Spec:
    """A factor for each tensor, on a logarithmic axis from 1."""
    place, value, size = _axes(count)
    one = {"datum": 1}
    return {
        **size,
        "transform": [{"filter": f"datum.{only} === 'yes'"}],
        "layer": [
            {
                "mark": {"type": "rule", "color": "var(--ink)", "opacity": 0.5},
                "encoding": {value: one},
            },
            {
                "mark": {"type": "rule", "color": _AFTER, "strokeWidth": 3},
                "encoding": {
                    place[0]: place[1],
                    value: _quantity(factor, title, True),
                    f"{value}2": one,
                },
            },
            {
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 44,
                    "color": _AFTER,
                    "opacity": 1,
                },
                "encoding": {
                    place[0]: place[1],
                    value: _quantity(factor, title, True),
                    "tooltip": _tensor_tips([(factor, title)]),
                },
            },
        ],
    }


def curves(optimizer: str, schemes: Sequence[str], tuned: bool) -> Spec:
    """Training losses over updates; each scheme has a colour, and what is tuned is dashed."""
    x = {"field": "updates", "type": "quantitative", "title": "updates", "axis": {"grid": False}}
    return {
        "width": "container",
        "height": 320,
        "transform": [{"filter": f"datum.optimizer === {_quoted(optimizer)}"}],
        "encoding": {"x": x, "color": _schemes(schemes), "detail": {"field": "state"}},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.1},
                "encoding": {"y": _quantity("low", "training loss", True), "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {
                    "y": _quantity("median", "training loss", True),
                    **_dashes(tuned),
                    "tooltip": [
                        {"field": "state"},
                        {"field": "updates"},
                        {"field": "median", "format": ".4g"},
                        {"field": "low", "format": ".4g"},
                        {"field": "high", "format": ".4g"},
                    ],
                },
            },
        ],
    }


def rates(optimizer: str, schemes: Sequence[str], tuned: bool, tried: Sequence[float]) -> Spec:
    """Final losses over the learning rates that were ``tried``."""
    x = {
        "field": "learning_rate",
        "type": "quantitative",
        "title": "learning rate",
        "scale": {"type": "log", "nice": False},
        "axis": {"grid": False, "format": ".6~g", "values": list(tried)},
    }
    return {
        "width": "container",
        "height": 320,
        "transform": [{"filter": f"datum.optimizer === {_quoted(optimizer)}"}],
        "encoding": {
            "x": x,
            "y": _quantity("final_loss", "final training loss", True),
            "color": _schemes(schemes),
            **_dashes(tuned),
            "detail": {"field": "state"},
            "tooltip": [
                {"field": "state"},
                {"field": "learning_rate", "title": "learning rate"},
                {"field": "final_loss", "title": "final loss", "format": ".4g"},
            ],
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.8}},
            {"mark": {"type": "point", "filled": True, "size": 36}},
        ],
    }


def heat(states: int) -> Spec:
    """The share of each tensor in each state."""
    return {
        "width": "container",
        "height": 24 * states,
        "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 0.5, "color": _AFTER},
        "encoding": {
            "x": {
                "field": "order",
                "type": "ordinal",
                "title": "tensor, in the network's order",
                "axis": {"labelOverlap": True, "labelAngle": 0, "grid": False, "ticks": False},
            },
            "y": _names("state"),
            "opacity": {
                "field": "share",
                "type": "quantitative",
                "title": "share of the deviation",
                "scale": {"type": "sqrt", "zero": True, "range": [0.03, 1]},
                "legend": {"format": ".0%", "symbolFillColor": _AFTER, "symbolStrokeWidth": 0},
            },
            "tooltip": [
                {"field": "state"},
                {"field": "name", "title": "tensor"},
                {"field": "share", "format": ".2%"},
            ],
        },
    }


def spread(field: str, title: str, log: bool) -> Spec:
    """How one number is distributed over models: a mark each, in rank order, before and after."""
    return {
        "width": "container",
        "height": _HEIGHT,
        "transform": [
            {"fold": [f"{field}_before", f"{field}_after"], "as": ["when", "value"]},
            {"calculate": f"datum.when === '{field}_before' ? 'before' : 'after'", "as": "when"},
            {"filter": "isValid(datum.value)"},
            {
                "window": [{"op": "row_number", "as": "rank"}],
                "groupby": ["when"],
                "sort": [{"field": "value", "order": "ascending"}],
            },
        ],
        "mark": {"type": "line", "strokeWidth": 1.8},
        "encoding": {
            "x": {
                "field": "rank",
                "type": "quantitative",
                "title": "models, by rank",
                "axis": {"grid": False, "tickMinStep": 1},
            },
            "y": _quantity("value", title, log, share=not log),
            "color": _when(),
            "tooltip": [
                {"field": "name", "title": "model"},
                {"field": "when"},
                {"field": "value", "format": ".4g"},
            ],
        },
    }


def _axes(count: int) -> tuple[tuple[str, Spec], str, Spec]:
    """Where the tensors are and their numbers: (channel, encoding), channel, size."""
    if count <= NAMED:
        size: Spec = {"width": "container", "height": _BAR * count}
        return ("y", _names("name")), "x", size
    order: Spec = {
        "field": "order",
        "type": "quantitative",
        "title": "tensor, in the network's order",
        "scale": {"zero": False, "nice": False, "padding": 6},
        "axis": {"grid": False, "tickMinStep": 1},
    }
    return ("x", order), "y", {"width": "container", "height": 260}


def _names(field: str) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 190, "grid": False, "ticks": False, "labelPadding": 6},
    }


def _quantity(
    field: str, title: str, log: bool = False, zero: bool = True, share: bool = False
) -> Spec:
    scale: Spec = {"type": "log", "nice": False, "padding": 6} if log else {"zero": zero}
    axis: Spec = {"format": ".1~%" if share else ",.6~g", "labelOverlap": True, "tickCount": 6}
    if log:
        axis["gridOpacity"] = {"condition": {"test": _IS_POWER, "value": 1}, "value": 0.3}
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": axis,
    }


def _when() -> Spec:
    return {
        "field": "when",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["before", "after"], "range": [_BEFORE, _AFTER]},
    }


def _schemes(schemes: Sequence[str]) -> Spec:
    colours = [_SERIES[k % len(_SERIES)] for k in range(len(schemes))]
    return {
        "field": "scheme",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(schemes), "range": colours},
        # Of its own, not that of a band which is hardly seen.
        "legend": {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolOpacity": 1},
    }


def _dashes(tuned: bool) -> Spec:
    if not tuned:
        return {}
    return {
        "strokeDash": {
            "field": "tuned",
            "type": "nominal",
            "title": "tuned",
            "scale": {"domain": ["no", "yes"], "range": [[1, 0], [5, 3]]},
            "legend": {
                "symbolType": "stroke",
                "symbolStrokeWidth": 2,
                "symbolStrokeColor": "var(--ink)",
                "symbolFillColor": "transparent",
            },
        }
    }


def _tensor_tips(fields: Sequence[tuple[str, str]], form: str = ".4g") -> list[Spec]:
    return [
        {"field": "name", "title": "tensor"},
        {"field": "order", "title": "number"},
        *({"field": f, "title": t, "format": form} for f, t in fields),
    ]


def _quoted(text: str) -> str:
    return "'" + "".join(c for c in text if c.isalnum() or c in "-_") + "'"
