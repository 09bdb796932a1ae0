"""The data about a model of a zoo: the row that users see, and the journal's record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict

from graph_init.deviation.evaluator import Measurement
from graph_init.deviation.result import finite

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
#: What a run does with every model.
INITIALIZE, CHECK = "initialize", "check"


class Input(TypedDict):
    """A file that a result depends on, and what its content was; None where it is not there."""

    path: str
    digest: str | None


@dataclass(frozen=True)
class Figures:
    """What was measured of a whole model, as in :class:`graph_init.Measurement`.

    None stands for a number that is not finite, which JSON cannot say.
    """

    gradient_deviation: float | None
    loss: float | None
    gradient_norm: float | None
    vanished_fraction: float | None
    output_std: float | None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Figures:
        """The figures of ``dataclasses.asdict``; ValueError or KeyError if they are none."""
        names = [f.name for f in fields(cls)]
        require(content, {n: _NUMBER for n in names if content[n] is not None})
        return cls(**{n: content[n] for n in names})

    @classmethod
    def of(cls, measurement: Measurement) -> Figures:
        return cls(**{f.name: finite(getattr(measurement, f.name)) for f in fields(cls)})


@dataclass(frozen=True)
class Failure:
    """Why a model failed.

    Attributes:
        kind: the class of the error, such as ``ModelFileError``, or ``TimeLimit``, ``MemoryLimit``,
            ``Killed`` and ``Crash`` for what became of its process.
        message: one line.
        exit_status: what ``graph-init initialize`` ends with for it.
    """

    kind: str
    message: str
    exit_status: int

    def to_json(self) -> dict[str, Any]:
        return {"class": self.kind, "message": self.message, "exit_status": self.exit_status}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Failure:
        """The failure of :meth:`to_json`."""
        require(content, {"class": str, "message": str, "exit_status": int})
        return cls(content["class"], content["message"], content["exit_status"])


@dataclass(frozen=True)
class Row:
    """One model. ``seconds`` are wall clock, ``peak_memory`` bytes of its process.

    ``status`` is ``done``, ``failed`` (``error`` says why) or ``unfinished``. ``before`` and
    ``after`` have the figures of the whole model; what there is for each tensor is in the model's
    own JSON, :meth:`Zoo.result`. ``notes`` say what was not as it should be, and what was done
    about it. ``outputs`` are the files written.

    Of a model that was checked there are no figures, and ``findings``, from worst to least, are
    entries of ``check --json``; they are None of one that was initialised.
    """

    name: str
    source: str
    status: str
    error: Failure | None = None
    before: Figures | None = None
    after: Figures | None = None
    elements: int | None = None
    loss_kind: str | None = None
    loss_reason: str | None = None
    steps: int | None = None
    scales: int | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float | None = None
    peak_memory: int | None = None
    attempts: int | None = None
    host: str | None = None
    outputs: list[str] = field(default_factory=list)
    findings: list[dict[str, Any]] | None = None

    def count(self, severity: str) -> int:
        """How many findings of this severity there are."""
        return sum(f["severity"] == severity for f in self.findings or ())

    @property
    def worst(self) -> str:
        """The first finding in words; nothing where there is none."""
        for found in self.findings or ():
            place = f" {found['tensor']}" if found["tensor"] else ""
            return f"{found['id']}{place}: {found['message']}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error and self.error.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """The row of :meth:`to_json`; other keys are passed over.

        ValueError or KeyError if the content is not of that form.
        """
        require(content, {k: _FORMS[k] for k in ("name", "source", "status")})
        known = {k: content[k] for k in _ROW if content.get(k) is not None}
        require(known, {k: _FORMS[k] for k in known if k in _FORMS})
        made = {k: make(known[k]) for k, make in _TYPES.items() if k in known}
        return cls(**{**known, **made})


def require(content: Any, forms: Mapping[str, Any]) -> None:
    """ValueError if not all of these keys have values of these types, KeyError if one is missing.

    Others may have written the content. Lists are of texts.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{type(content).__name__} in the place of an object")
    for key, form in forms.items():
        value = content[key]
        good = isinstance(value, form) and (form is bool or not isinstance(value, bool))
        if not good or (form is list and not all(isinstance(text, str) for text in value)):
            raise ValueError(f"'{key}' has a value of another type")


_NUMBER = (int, float)
_ROW = tuple(f.name for f in fields(Row))
#: What the values of a row are in JSON.
_FORMS: dict[str, Any] = {
    **dict.fromkeys(("name", "source", "status", "loss_kind", "loss_reason", "host"), str),
    **dict.fromkeys(("elements", "steps", "scales", "peak_memory", "attempts"), int),
    **dict.fromkeys(("warnings", "notes", "outputs"), list),
    **dict.fromkeys(("error", "before", "after"), dict),
    "seconds": _NUMBER,
}
#: Of an entry of ``findings``, as far as it is used.
_FINDING = dict.fromkeys(("id", "severity", "message"), str)


def _findings(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise ValueError("'findings' has a value of another type")
    for entry in content:
        require(entry, _FINDING)
        if not isinstance(entry["tensor"], str | None):
            raise ValueError("'tensor' has a value of another type")
    return content


_TYPES: dict[str, Callable[[Any], Any]] = {
    "findings": _findings,
    "error": Failure.from_json,
    "before": lambda content: Figures.from_json(content),
    "after": lambda content: Figures.from_json(content),
}


@dataclass(frozen=True)
class Finding:
    """What a process found of a model that is done; the fields are those of :class:`Row`."""

    outputs: list[str]
    notes: list[str]
    before: Figures | None = None
    after: Figures | None = None
    elements: int | None = None
    loss_kind: str | None = None
    loss_reason: str | None = None
    steps: int | None = None
    scales: int | None = None
    warnings: list[str] = field(default_factory=list)
    findings: list[dict[str, Any]] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Finding:
        """The finding of ``dataclasses.asdict``."""
        figures = {k: Figures(**content[k]) for k in ("before", "after") if content[k] is not None}
        return cls(**{**content, **figures})


@dataclass(frozen=True)
class Record:
    """What the journal has of a model: its row, and whether it still stands.

    Attributes:
        row: what users see.
        key: changes with the options and the program.
        inputs: the files that the row depends on.
        transient: it failed for a reason outside the model: a run that goes on tries it again.
    """

    row: Row
    key: str
    inputs: list[Input] = field(default_factory=list)
    transient: bool = False

    def to_json(self) -> dict[str, Any]:
        own = {"key": self.key, "inputs": self.inputs, "transient": self.transient}
        return {**self.row.to_json(), **own}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """The record of :meth:`to_json`; ValueError or KeyError if the content is none."""
        row = Row.from_json(content)
        inputs, transient = content.get("inputs", []), content.get("transient", False)
        require(content, {"key": str})
        for entry in inputs:
            require(
                entry, {"path": str, **({"digest": str} if entry["digest"] is not None else {})}
            )
        return cls(row=row, key=content["key"], inputs=inputs, transient=bool(transient))
