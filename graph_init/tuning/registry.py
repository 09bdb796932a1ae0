"""The tuners by name, made ready for a workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from graph_init import tuning
from graph_init.analysis import Parameter
from graph_init.deviation.evaluator import Evaluator
from graph_init.errors import UsageError
from graph_init.ir import Array
from graph_init.problem.streams import Source
from graph_init.problem.workload import Workload
from graph_init.tuning.restore import Restore


class Tuner(Protocol):
    """Finds scales for ``values`` on batches of ``source``."""

    def __call__(
        self,
        values: Mapping[str, Array],
        source: Source,
        steps: int,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> tuning.TuningResult: ...

    def ready(self) -> None:
        """Take what tuning needs beside the evaluator; MemoryLimitError if it does not fit."""


class MetaInit:
    """The published algorithm, on an evaluator of gradient deviation and its derivative."""

    def __init__(self, run: Evaluator, workload: Workload, parameters: Sequence[Parameter]) -> None:
        self._run = run

    def __call__(
        self,
        values: Mapping[str, Array],
        source: Source,
        steps: int,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> tuning.TuningResult:
        run = self._run

        def step(entry: dict[str, Any]) -> None:
            if on_step is not None:
                on_step(entry)
            if on_progress is not None:
                on_progress("stepping", entry["step"] + 1, steps)

        if on_progress is not None:
            on_progress("stepping", 0, steps)
        return tuning.tune(
            lambda scales, number: run.step(source.search.batch(number), scales),
            lambda scales, number: run.step(source.select.batch(number), scales),
            run.norms(values),
            tuning.SignMomentum(),
            steps,
            step,
        )

    def ready(self) -> None:
        """It needs nothing beside the evaluator."""


@dataclass(frozen=True)
class TunerSpec:
    """``steps`` by default; ``slopes``: whether it needs the derivative of gradient deviation.

    ``tries``: its history has an entry a state that it tries, not one a step; and it can start
    where the numbers are not finite.
    """

    prepare: Callable[[Evaluator, Workload, Sequence[Parameter]], Tuner]
    steps: int
    scale_gradient: bool
    tries: bool = False


TUNERS: Mapping[str, TunerSpec] = {
    "sign": TunerSpec(MetaInit, 500, True),
    "signal": TunerSpec(Restore, 30, False, tries=True),
}


#: What it rests on is in docs/tuning.md.
DEFAULT = "signal"


def kind(name: str) -> TunerSpec:
    """UsageError for an unknown name."""
    if name not in TUNERS:
        near = get_close_matches(name, TUNERS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--optimizer {name}: choose one of {', '.join(TUNERS)}{hint}")
    return TUNERS[name]
