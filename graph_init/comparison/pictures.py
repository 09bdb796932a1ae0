"""Pictures of a comparison: losses over updates, and final losses over learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np

from graph_init.ir import Array

matplotlib.use("Agg")  # no display is needed, nor touched

#: Losses are averaged over this many updates where curves are drawn.
_WINDOW = 10


class Run(Protocol):
    """What is drawn of a training run."""

    @property
    def losses(self) -> Sequence[float]: ...

    @property
    def final_loss(self) -> float: ...

    @property
    def diverged(self) -> bool: ...


class State(Protocol):
    """What is drawn of an initial state."""

    @property
    def name(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    @property
    def tuned(self) -> bool: ...


class Row(Protocol):
    """What is drawn of a state under an optimizer."""

    @property
    def state(self) -> str: ...

    @property
    def optimizer(self) -> str: ...

    @property
    def learning_rate(self) -> float: ...


class Comparison(Protocol):
    """What is drawn of a comparison; see :class:`graph_init.comparison.result.Comparison`."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def states(self) -> Sequence[State]: ...

    @property
    def summary(self) -> Sequence[Row]: ...

    def of(self, state: str, optimizer: str) -> Mapping[float, Sequence[Run]]: ...


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``curves.png`` and ``learning-rates.png`` into ``folder``; returns their paths."""
    written = []
    for name, panel in (("curves.png", _curves), ("learning-rates.png", _rates)):
        figure, axes = _figure(comparison)
        for axis, optimizer in zip(axes, comparison.settings["optimizers"], strict=True):
            axis.set_title(optimizer)
            axis.set_yscale("log")
            axis.grid(True, which="major", alpha=0.3)
            panel(axis, comparison, optimizer)
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].set_ylabel("training loss")
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        figure.savefig(folder / name, dpi=120)
        written.append(folder / name)
    return written


def _figure(comparison: Comparison) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    count = len(comparison.settings["optimizers"])
    figure = Figure(figsize=(2.5 + 4.5 * count, 4.2), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count, sharey=True)))


def _style(comparison: Comparison, state: str) -> dict[str, Any]:
    """A colour for each scheme; what is tuned is dashed."""
    schemes = list(dict.fromkeys(s.scheme for s in comparison.states))
    found = next(s for s in comparison.states if s.name == state)
    return {
        "color": f"C{schemes.index(found.scheme) % 10}",
        "linestyle": "--" if found.tuned else "-",
        "label": state,
    }


def _curves(axis: Any, comparison: Comparison, optimizer: str) -> None:
    """For each state its best learning rate: the median over seeds and their range."""
    axis.set_xlabel("updates")
    for row in comparison.summary:
        if row.optimizer != optimizer:
            continue
        runs = comparison.of(row.state, optimizer)[row.learning_rate]
        smooth = np.stack([_smooth(r, comparison.settings["updates"]) for r in runs])
        places = (np.arange(smooth.shape[1]) + 0.5) * _WINDOW
        style = _style(comparison, row.state)
        axis.plot(places, np.median(smooth, 0), **style)
        axis.fill_between(places, smooth.min(0), smooth.max(0), color=style["color"], alpha=0.1)


def _smooth(run: Run, updates: int) -> Array:
    """Means over windows; NaN where a run has diverged, which leaves a gap."""
    losses = np.full(-(-updates // _WINDOW) * _WINDOW, np.nan)
    losses[: len(run.losses)] = run.losses
    if not run.diverged:
        losses[len(run.losses) :] = run.losses[-1]
    return np.asarray(losses.reshape(-1, _WINDOW).mean(1))


def _rates(axis: Any, comparison: Comparison, optimizer: str) -> None:
    """Median final losses; rates at which runs diverge leave a gap."""
    axis.set_xlabel("learning rate")
    axis.set_xscale("log")
    for state in dict.fromkeys(s.name for s in comparison.states):
        found = comparison.of(state, optimizer)
        if found:
            medians = [np.median([r.final_loss for r in runs]) for runs in found.values()]
            heights = np.where(np.isfinite(medians), medians, np.nan)
            axis.plot(list(found), heights, marker="o", **_style(comparison, state))
