"""From a model to its findings: gather the evidence, ask every rule, sort."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from graph_init.analysis import Parameter
from graph_init.check.evidence import Evidence
from graph_init.check.findings import NOTE, Finding
from graph_init.check.gradient import gradient
from graph_init.check.rules import RULES
from graph_init.check.signal import signal
from graph_init.errors import EngineError, ModelFileError, UnsupportedModelError
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.problem import forward_graph
from graph_init.problem.fitting import fitted
from graph_init.problem.workload import build

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """The ``findings`` from worst to least, the ``evidence``, and what could not be looked at."""

    findings: list[Finding]
    evidence: Evidence
    notes: list[str] = field(default_factory=list)

    @property
    def factors(self) -> dict[str, float]:
        """By tensor what would mend it: of the worst finding that names a factor; tied ones too."""
        found: dict[str, float] = {}
        for finding in self.findings:
            if finding.factor is not None and finding.severity != NOTE:
                found.setdefault(finding.tensor, finding.factor)
        tied = {p.name: p.tied_to for p in self.evidence.parameters if p.tied_to in found}
        return found | {name: found[other] for name, other in tied.items() if other is not None}


def judge(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    options: Options,
    ignore: Collection[str] = (),
) -> Verdict:
    """The findings on a model, but those of the rules in ``ignore``.

    What cannot be computed (an operator without a derivative, too little memory) is said in the
    notes, and the rules that need it are silent.
    """
    return ruled(*gathered(loaded, parameters, options), ignore)


def ruled(evidence: Evidence, notes: Sequence[str], ignore: Collection[str] = ()) -> Verdict:
    """What the rules find in the evidence; ``notes`` are of how it was gathered."""
    notes = list(notes)
    trained = evidence.is_trained
    if trained:
        notes.append(
            "the file looks trained (biases and gains have moved from their first values): rules "
            "about how weights are drawn are silent"
        )
    findings = [
        finding
        for rule in RULES.values()
        if rule.id not in ignore and (rule.of_trained or not trained)
        for finding in rule.look(evidence)
    ]
    return Verdict(sorted(findings, key=lambda f: f.order), evidence, notes)


def gathered(
    loaded: LoadedModel, parameters: Sequence[Parameter], options: Options
) -> tuple[Evidence, list[str]]:
    """The evidence, as much of it as there is, and why not more."""
    values = forward_graph.initial_values(loaded)
    found = Evidence(parameters, values)
    try:
        workload, notes = fitted(
            loaded, options, lambda options: build(loaded, parameters, values, options)
        )
    except (UnsupportedModelError, EngineError, ModelFileError) as error:
        return found, [f"only the tensors themselves were looked at: {error}"]
    notes = [*notes, *workload.notes()]
    forward = _attempt(lambda: signal(workload, parameters, values), "signal", notes)
    backward = _attempt(lambda: gradient(workload, values), "gradient", notes)
    return Evidence(parameters, values, forward, backward), notes


def _attempt(compute: Callable[[], T], what: str, notes: list[str]) -> T | None:
    try:
        return compute()
    except (UnsupportedModelError, EngineError) as error:
        notes.append(f"the {what} was not looked at: {error}")
        return None
