"""The results of the public functions: figures, and models to write."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from graph_init import report as reports
from graph_init.analysis import Parameter
from graph_init.check.findings import SEVERITIES, Finding
from graph_init.check.gradient import Gradient
from graph_init.check.profile import profile
from graph_init.check.signal import Signal
from graph_init.deviation.evaluator import Measurement
from graph_init.errors import printable
from graph_init.frontends.resolve import ResolvedModel
from graph_init.ir import Array
from graph_init.model import scales_file
from graph_init.model.load import LoadedModel
from graph_init.model.save import NewValue, save, with_values
from graph_init.model.scaled import Scaled
from graph_init.sizes import Signature
from graph_init.tuning.loop import HistoryEntry
from graph_init.version import __version__


@dataclass(frozen=True)
class Inspection:
    """What the graph analyzer found, in the order of the model's initializers.

    ``signature``: the inputs with their sizes; None where none were found, and ``notes`` say why.
    """

    parameters: list[Parameter]
    signature: Signature | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": [p.to_json() for p in self.parameters],
            "inputs": [] if self.signature is None else self.signature.inputs(),
            "notes": self.notes,
        }


@dataclass
class CheckResult:
    """The result of :func:`check`.

    Attributes:
        findings: from worst to least.
        tensors: how many were judged.
        is_trained: whether the file looks trained, so that rules about how weights are drawn were
            not asked.
        signal: the forward profile; None where it could not be computed, and ``notes`` say why.
        gradient: the gradient tensor by tensor, and the curvature; None likewise.
        notes: what was taken, and what could not be looked at, in sentences.
        factors: by tensor, what the findings would have it multiplied by.
        updated: the framework's model with the factors applied, if ``fix`` was asked for.
    """

    findings: list[Finding]
    tensors: int
    is_trained: bool
    signal: Signal | None = field(repr=False)
    gradient: Gradient | None = field(repr=False)
    notes: list[str]
    factors: dict[str, float]
    updated: Any = field(default=None, repr=False)
    _subject: ResolvedModel = field(repr=False, kw_only=True)
    _parameters: Sequence[Parameter] = field(repr=False, kw_only=True)
    #: The options that a report tells of.
    _settings: Mapping[str, Any] = field(repr=False, kw_only=True)

    def fails(self, severity: str) -> bool:
        """Whether there is a finding of this severity or a worse one."""
        limit = SEVERITIES.index(severity)
        return any(SEVERITIES.index(f.severity) <= limit for f in self.findings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with the factors applied, and nothing else changed."""
        loaded = self._subject.loaded
        values = {n: Scaled(loaded, n, f) for n, f in self.factors.items()}
        provenance = {"graph_init.version": __version__, "graph_init.applied": "check"}
        self.notes += _unused(save(loaded, values, path, provenance))

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [f.to_json() for f in self.findings],
            "tensors": self.tensors,
            "is_trained": self.is_trained,
            "factors": self.factors,
            "notes": self.notes,
        }

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write a page (HTML, one file) with the findings, and the profiles by depth."""
        reports.write(self.report_content(), path)

    def report_content(self) -> dict[str, Any]:
        """What the page is made of: :meth:`to_json` and what else it shows, as JSON."""
        loaded = self._subject.loaded
        provenance = {
            "graph_init.version": __version__,
            **{f"graph_init.{k}": str(v) for k, v in self._settings.items() if v is not None},
            "graph_init.source_sha256": loaded.digest(),
        }
        found = reports.gather(
            "check", self.to_json(), provenance, loaded, parameters=self._parameters
        )
        return {**found, "profile": profile(self._parameters, self.signal, self.gradient)}


@dataclass
class Initialized:
    """The result of :func:`initialize`.

    Attributes:
        before: the start, filled by the scheme, on two batches that nothing was chosen by.
        after: the same with the scales, on the same batches.
        steps: entries of ``history``.
        seconds: the whole call took.
        history: an entry for each step or tried state.
        scales: the factor on each scaled tensor of the start, by name.
        provenance: what the file's ``metadata_props`` will say.
        interrupted: whether Ctrl-C ended the tuning early.
        output: where :meth:`save` wrote the model.
        updated: the framework's model with the new values, if one was given.
        tensors: these values by their names there, in the framework's own types and shapes.
    """

    before: Measurement
    after: Measurement
    steps: int
    seconds: float
    history: list[HistoryEntry]
    scales: dict[str, float]
    provenance: dict[str, str]
    interrupted: bool
    #: The options as they took effect, and the number of the history's entry that was taken.
    settings: dict[str, Any]
    best_step: int
    #: What was not as it should be, and what was done about it, in sentences.
    notes: list[str] = field(default_factory=list)
    output: str | None = None
    #: The framework's model with the new values, if one was given, and these by their names there.
    updated: Any = field(default=None, repr=False)
    tensors: Mapping[str, Array] = field(default_factory=dict, repr=False)
    _subject: ResolvedModel = field(repr=False, kw_only=True)
    _values: Mapping[str, NewValue] = field(repr=False, kw_only=True)
    _parameters: Sequence[Parameter] = field(repr=False, kw_only=True)

    @property
    def _loaded(self) -> LoadedModel:
        return self._subject.loaded

    @property
    def model(self) -> onnx.ModelProto:
        """The initialised model, its weights embedded."""
        return with_values(self._loaded, self._values, self.provenance)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        scales: str | os.PathLike[str] | None = None,
        report: str | os.PathLike[str] | None = None,
        own_data: bool = False,
    ) -> None:
        """Write the model; whole or not at all, with the input's own external-data layout.

        With ``scales`` and ``report`` also the scales file and the page of these names: all, or
        none. ``own_data``: names of data files begin with the model's, so that models with data can
        share a folder.
        """
        beside: list[tuple[str | os.PathLike[str], bytes]] = []
        if scales is not None:
            beside.append((scales, scales_file.content(self.scales, self.provenance)))
        if report is not None:
            reports.require(report)
            beside.append((report, reports.rendered(self._content(str(path)))))
        left = save(
            self._loaded, self._values, path, self.provenance, beside=beside, own_data=own_data
        )
        self.notes += _unused(left)
        self.output = str(path)

    def save_scales(self, path: str | os.PathLike[str]) -> None:
        """Write the scales file that :func:`apply` reads."""
        scales_file.write(path, self.scales, self.provenance)

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write a page (HTML, one file) that shows what was found."""
        reports.write(self.report_content(), path)

    def report_content(self) -> dict[str, Any]:
        """What the page is made of: :meth:`to_json` and what else it shows, as JSON."""
        return self._content(self.output)

    def _content(self, output: str | None) -> dict[str, Any]:
        told = {**self.to_json(), "output": output}
        return reports.gather(
            "initialize", told, self.provenance, self._loaded, parameters=self._parameters
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "steps": self.steps,
            "seconds": self.seconds,
            "history": [entry.to_json() for entry in self.history],
            "scales": self.scales,
            "interrupted": self.interrupted,
            "settings": self.settings,
            "best_step": self.best_step,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Applied:
    """The result of :func:`apply`; ``notes`` say what the user should know about the scales."""

    scales: dict[str, float]
    provenance: dict[str, str]
    notes: list[str]
    _loaded: LoadedModel = field(repr=False)
    _values: Mapping[str, NewValue] = field(repr=False)

    @property
    def model(self) -> onnx.ModelProto:
        return with_values(self._loaded, self._values, self.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        self.notes.extend(_unused(save(self._loaded, self._values, path, self.provenance)))

    def to_json(self) -> dict[str, Any]:
        return {"scales": self.scales, "notes": self.notes}


def _unused(files: Sequence[Path]) -> list[str]:
    """What to say of the old output's data files, which are not removed."""
    return [
        f"the model no longer refers to the data file {printable(str(file))}; it stays, and can be "
        "deleted if nothing else needs it"
        for file in files
    ]
