"""What is installed, whether it can work, and what to run if not."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from graph_init.engine.runtime import TRAINING, installed, onnxruntime
from graph_init.errors import EngineError

#: Distributions that install the module ``onnxruntime``; the last one installed wins.
_ENGINES = (
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime-gpu",
    "onnxruntime",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` is a command to run when ``ok`` is false."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _engine_module() -> Finding:
    try:
        version = onnxruntime().__version__
    except EngineError as error:
        return Finding(
            "onnxruntime",
            False,
            f"cannot be imported: {error.__cause__}",
            "pip install 'graph-init[cpu]'",
        )
    if installed() == TRAINING:
        return Finding("onnxruntime", True, f"{version}, a training build")
    return Finding("onnxruntime", True, f"{version}, a plain build: all but artifacts")


def _distributions() -> Finding:
    found = {d: v for d in _ENGINES if (v := _version(d)) is not None}
    detail = ", ".join(f"{d} {v}" for d, v in found.items()) or "none installed"
    if not found:
        return Finding("engine package", False, detail, "pip install 'graph-init[cpu]'")
    if len(found) > 1:
        keep = next(iter(found))
        gone = " ".join(d for d in found if d != keep)
        return Finding(
            "engine package",
            False,
            f"{detail}: they overwrite each other",
            f"pip uninstall -y {gone} && "
            f"pip install --force-reinstall --no-deps {keep}=={found[keep]}",
        )
    return Finding("engine package", True, detail)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 10) <= sys.version_info[:2] <= (3, 14)
    remedy = "use Python 3.10 to 3.14: the engine has wheels for these"
    return Finding("python", supported, version, "" if supported else remedy)


def _libraries() -> list[Finding]:
    """Each library that the distribution requires, with the version that it has to have."""
    try:
        wanted = [Requirement(r) for r in metadata.requires("graph-init") or []]
    except metadata.PackageNotFoundError:
        return [Finding("graph-init", False, "not installed", "pip install 'graph-init[cpu]'")]
    found = []
    for r in wanted:
        if r.marker is not None and not r.marker.evaluate({"extra": ""}):
            continue
        version = _version(r.name)
        ok = version is not None and r.specifier.contains(version, prereleases=True)
        detail = "not installed" if version is None else version
        if version is not None and not ok:
            detail = f"{version}, but {r.specifier} is needed"
        found.append(
            Finding(r.name, ok, detail, "" if ok else f"pip install '{r.name}{r.specifier}'")
        )
    return found


def check() -> list[Finding]:
    """All findings; the installation can work if every one is ok."""
    return [_python(), _engine_module(), _distributions(), *_libraries()]
