"""The result of a comparison: its states, its runs, and its JSON."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graph_init import report
from graph_init.analysis import Parameter
from graph_init.deviation.evaluator import Measurement
from graph_init.deviation.result import finite
from graph_init.model.load import LoadedModel
from graph_init.output import folders

#: A run has trained if its loss fell below this share of where it began.
_TRAINED = 0.9


@dataclass(frozen=True)
class State:
    """An initial state: its name, and gradient deviation with its parts on training batches.

    ``problem`` says why there is none, where the numbers failed.
    """

    name: str
    scheme: str
    tuned: bool
    seed: int
    measurement: Measurement | None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "name": self.name,
            "scheme": self.scheme,
            "tuned": self.tuned,
            "seed": self.seed,
        }
        if self.problem is not None:
            content["problem"] = self.problem
        return content | (self.measurement.to_json() if self.measurement else {})


@dataclass(frozen=True)
class Run:
    """One training run. ``losses`` are those before each update; the others follow from them."""

    state: str
    seed: int
    optimizer: str
    learning_rate: float
    losses: list[float]
    final_loss: float
    held_out_loss: float
    accuracy: float | None
    diverged: bool

    @property
    def trained(self) -> bool:
        """Whether the loss fell at all."""
        return self.final_loss < _TRAINED * self.losses[0]

    def to_json(self) -> dict[str, Any]:
        return {k: finite(v) for k, v in vars(self).items() if k != "losses"} | {
            "losses": [finite(x) for x in self.losses]
        }


@dataclass(frozen=True)
class Row:
    """A state under an optimiser: medians over seeds at the learning rate with the lowest loss.

    ``spread`` is the lowest and highest final loss at that rate, ``trained`` the share of seeds
    whose loss fell, ``largest_rate`` the largest rate at which all seeds train.
    """

    state: str
    optimizer: str
    learning_rate: float
    final_loss: float
    spread: tuple[float, float]
    held_out_loss: float
    accuracy: float | None
    trained: float
    largest_rate: float | None
    gradient_deviation: float | None
    vanished_fraction: float | None

    def to_json(self) -> dict[str, Any]:
        return {k: finite(v) for k, v in vars(self).items()} | {
            "spread": [finite(x) for x in self.spread]
        }


@dataclass(frozen=True)
class Comparison:
    """All states and runs, and a table of them.

    Attributes:
        states: one for each scheme, tuned or not, and seed, with what :func:`graph_init.measure`
            says of it.
        runs: one for each state, optimizer and learning rate, with the losses of all updates.
        settings: what was compared, in plain types.
    """

    states: list[State]
    runs: list[Run]
    settings: dict[str, Any]
    provenance: dict[str, str]
    _loaded: LoadedModel = field(repr=False)
    _parameters: Sequence[Parameter] = field(repr=False)
    #: What is to be known of the batches, in sentences.
    notes: Sequence[str] = ()

    @property
    def summary(self) -> list[Row]:
        """One row a state and optimiser, in the order in which they were given."""
        names = list(dict.fromkeys(s.name for s in self.states))
        return [
            row
            for optimizer, name in itertools.product(self.settings["optimizers"], names)
            if (row := self._row(name, optimizer)) is not None
        ]

    @property
    def warnings(self) -> list[str]:
        """The notes; and of every state of which some seed looks collapsed, why the first does."""
        found = list(self.notes)
        for name in dict.fromkeys(s.name for s in self.states):
            own = [s.measurement for s in self.states if s.name == name and s.measurement]
            collapsed = [m.warnings for m in own if m.warnings]
            if collapsed:
                share = f"{len(collapsed)} of {len(own)} seeds"
                found.append(f"{name} ({share}): {'; '.join(collapsed[0])}")
        return found

    def of(self, state: str, optimizer: str) -> dict[float, list[Run]]:
        """The runs by learning rate, one a seed."""
        found: dict[float, list[Run]] = {}
        for run in self.runs:
            if run.state == state and run.optimizer == optimizer:
                found.setdefault(run.learning_rate, []).append(run)
        return dict(sorted(found.items()))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``comparison.json``, ``curves.png`` and ``learning-rates.png`` into ``folder``."""
        from graph_init.comparison import pictures

        with folders.replaced(folder) as at:
            content = json.dumps(self.to_json(), indent=1)
            (at / "comparison.json").write_text(content, encoding="utf-8")
            pictures.draw(self, at)

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write a page (HTML, one file) that shows what was found."""
        report.write(self.report_content(), path)

    def report_content(self) -> dict[str, Any]:
        """What the page is made of: :meth:`to_json` and what else it shows, as JSON."""
        return report.gather(
            "compare", self.to_json(), self.provenance, self._loaded, parameters=self._parameters
        )

    def _row(self, name: str, optimizer: str) -> Row | None:
        by_rate = self.of(name, optimizer)
        if not by_rate:
            return None
        rate = min(by_rate, key=lambda r: _median([run.final_loss for run in by_rate[r]]))
        runs = by_rate[rate]
        measured = [s.measurement for s in self.states if s.name == name and s.measurement]
        accuracies = [r.accuracy for r in runs if r.accuracy is not None]
        losses = [r.final_loss for r in runs]
        stable = [r for r, found in by_rate.items() if all(run.trained for run in found)]
        return Row(
            state=name,
            optimizer=optimizer,
            learning_rate=rate,
            final_loss=_median(losses),
            spread=(min(losses), max(losses)),
            held_out_loss=_median([r.held_out_loss for r in runs]),
            accuracy=_median(accuracies) if accuracies else None,
            trained=sum(r.trained for r in runs) / len(runs),
            largest_rate=max(stable, default=None),
            gradient_deviation=_median([m.gradient_deviation for m in measured])
            if measured
            else None,
            vanished_fraction=_median([m.vanished_fraction for m in measured])
            if measured
            else None,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "summary": [row.to_json() for row in self.summary],
            "warnings": self.warnings,
            "states": [state.to_json() for state in self.states],
            "runs": [run.to_json() for run in self.runs],
        }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
