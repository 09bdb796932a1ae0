"""The table of tuners: from a tuner's settings to the object that tunes a workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from graph_init.analysis import Parameter
from graph_init.deviation.evaluator import Evaluator
from graph_init.ir import Array
from graph_init.options import MetaInit, Restore, Tuner
from graph_init.problem.streams import Source
from graph_init.problem.workload import Workload
from graph_init.tuning.loop import OnProgress, OnStep, TuningResult
from graph_init.tuning.metainit import Descent
from graph_init.tuning.restore import Restorer


class PreparedTuner(Protocol):
    """Finds scales for ``values`` on batches of ``source``."""

    def __call__(
        self,
        values: Mapping[str, Array],
        source: Source,
        on_step: OnStep | None = None,
        on_progress: OnProgress | None = None,
    ) -> TuningResult: ...

    def ready(self) -> None:
        """Take what tuning needs beside the evaluator; MemoryLimitError if it does not fit."""


Prepare = Callable[[Any, Evaluator, Workload, Sequence[Parameter]], PreparedTuner]

#: The class of the settings → what takes them, an evaluator, its workload and all parameters.
PREPARE: dict[type[Tuner], Prepare] = {MetaInit: Descent, Restore: Restorer}


def prepare(
    tuner: Tuner, run: Evaluator, workload: Workload, parameters: Sequence[Parameter]
) -> PreparedTuner:
    """``tuner`` made ready for a workload."""
    return PREPARE[type(tuner)](tuner, run, workload, parameters)
