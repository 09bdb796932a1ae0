"""The tables of the experiment on check: what was found in each file, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from tools.experiments import check_cases, check_faults, study
from tools.experiments.check_models import Sound

#: Rules that name a residual stream that is not scaled.
_STREAM = ("GI202", "GI203")


@dataclass(frozen=True)
class Case:
    """What was found in one file.

    ``found``: (rule, severity, tensor, message) of each finding, the worst first; ``right``: the
    tensors that are wrong; ``known``: (rule, tensor) of what was found without the fault, too;
    ``failure``: why there is nothing.
    """

    model: str
    fault: str = ""
    found: Sequence[Sequence[str]] = ()
    right: Sequence[str] = ()
    undone: bool = False
    trained: bool = False
    failure: str = ""
    known: Sequence[Sequence[str]] = ()

    @property
    def severe(self) -> list[Sequence[str]]:
        """Errors and warnings."""
        return [f for f in self.found if f[1] != "note"]

    @property
    def place(self) -> int | None:
        """Among the tensors that findings name, the first that is wrong; None where none is."""
        named = list(dict.fromkeys(f[2] for f in self.severe if f[2]))
        new = {f[2] for f in self.severe if [f[0], f[2]] not in self.known}
        return next((k for k, n in enumerate(named) if n in self.right and n in new), None)

    @property
    def is_error(self) -> bool:
        """Whether a wrong tensor is named by an error."""
        return any(
            f[1] == "error" and f[2] in self.right and [f[0], f[2]] not in self.known
            for f in self.found
        )


def share(count: int, of: int) -> str:
    return f"{count}/{of}" + (f" ({count / of:.0%})" if of else "")


def alarms(cases: Sequence[Case]) -> list[str]:
    """By family of models: how many have findings."""
    rows = []
    whole = [c for c in cases if not c.fault and not c.failure]
    for family in (*dict.fromkeys(c.model.split("/")[0] for c in whole), "all"):
        own = [c for c in whole if family in ("all", c.model.split("/")[0])]
        row = [family]
        for part in (False, True):
            half = [c for c in own if _held_out(c) == part]
            bad = sum(any(f[1] == "error" for f in c.found) for c in half)
            row += [share(bad, len(half)), share(sum(bool(c.severe) for c in half), len(half))]
        rows.append(row)
    head = ["models", "error", "error or warning", "held out: error", "held out: error or warning"]
    return study.table(head, rows)


def _held_out(case: Case) -> bool:
    return Sound(case.model, lambda: onnx.ModelProto()).held_out


def faults(cases: Sequence[Case], part: bool) -> list[str]:
    """A row for each fault: how many are found, and at which place."""
    planted = [c for c in cases if c.right and not c.failure and _held_out(c) == part]
    groups: dict[str, list[Case]] = {}
    for fault in dict.fromkeys(c.fault for c in planted):
        own = [c for c in planted if c.fault == fault]
        groups[fault] = [c for c in own if not c.undone]
        groups[f"{fault}, undone by a norm"] = [c for c in own if c.undone]
    large = [f"a factor of {k}" for k in check_faults.FACTORS if k >= 3]
    groups["**a factor of 3 or more**"] = [c for name in large for c in groups.get(name, ())]
    rows = []
    for name, own in groups.items():
        if own:
            places = [c.place for c in own if c.place is not None]
            counts = [
                len(places),
                sum(c.is_error for c in own),
                places.count(0),
                sum(p < 3 for p in places),
            ]
            rows.append([name, str(len(own)), *(share(n, len(own)) for n in counts)])
    return study.table(["fault", "cases", "found", "by an error", "first", "in three"], rows)


def streams(cases: Sequence[Case]) -> list[str]:
    """Deep residual networks with a finding on the stream."""
    rows = []
    for kind in ("residual", "pre_norm"):
        row = [{"residual": "without norms", "pre_norm": "norms before the branches"}[kind]]
        for fault in (True, False):
            own = [c for c in cases if f"/{kind}-" in c.model and bool(c.fault) == fault]
            row.append(share(sum(any(f[0] in _STREAM for f in c.severe) for c in own), len(own)))
        rows.append(row)
    return study.table(["deep residual networks", "not scaled: found", "scaled: found"], rows)


def listed(cases: Sequence[Case]) -> list[str]:
    """A line for each error on a model that is meant so, and for each that was not looked at."""
    lines = []
    for c in cases:
        if c.fault:
            continue
        if c.failure:
            lines.append(f"- {c.model}: not looked at: {c.failure}")
        lines += [f"- {c.model}: {f[0]}, `{f[2]}`: {f[3]}" for f in c.found if f[1] == "error"]
    return [*lines, ""]


def missed(cases: Sequence[Case]) -> list[str]:
    """For whoever tunes rules: what was planted and not named first."""
    return [
        f"{c.model}: {c.fault} at {', '.join(c.right)}{' (undone)' * c.undone}: "
        + (f"place {c.place}" if c.place is not None else "missed")
        + "; first "
        + (" ".join(c.severe[0][:3]) if c.severe else "nothing")
        for c in cases
        if c.right and not c.failure and c.place != 0
    ]


def page(cases: Sequence[Case], deep_cases: Sequence[Case]) -> list[str]:
    whole = [c for c in cases if not c.fault and not c.failure]
    trained = sum(c.trained for c in whole)
    return [
        *study.table(["where", "what"], [[c.where, c.what] for c in check_cases.CASES]),
        f"{len(whole)} models, of which {trained} were taken for trained ones. Those with findings "
        "though they are as they are meant:",
        "",
        *alarms(cases),
        "Every error among them, and every model that could not be looked at:",
        "",
        *listed(cases),
        "Planted faults, on the models that rules were tuned on:",
        "",
        *faults(cases, part=False),
        "On those that were held out:",
        "",
        *faults(cases, part=True),
        *streams(deep_cases),
    ]
