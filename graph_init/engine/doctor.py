"""Checks what is installed, and says which command repairs what does not work."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from graph_init.engine import pytorch
from graph_init.engine.choice import TORCH, VARIABLE, choose
from graph_init.engine.runtime import TRAINING, installed, onnxruntime
from graph_init.errors import EngineError, GraphInitError

#: Distributions that install the module ``onnxruntime``; the last one installed wins.
_ENGINES = (
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime-gpu",
    "onnxruntime",
)
_AUTO_REMEDY = f"pip install 'graph-init[cpu]', or correct the variable {VARIABLE}"

#: The extras that bring an engine, and what they are for.
EXTRAS: Mapping[str, str] = {
    "cpu": "plain onnxruntime, for every Python and system",
    "training": "onnxruntime's training build, up to Python 3.12: artifacts need it",
    "gpu": "plain onnxruntime with CUDA",
    "torch": "PyTorch modules, and PyTorch as the engine: no onnxruntime is needed",
}


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


def _distributions() -> dict[str, str]:
    """The installed distributions of onnxruntime with their versions."""
    return {d: v for d in _ENGINES if (v := _version(d)) is not None}


def _onnxruntime() -> Finding:
    """The module; where it was never installed, it is wanted only if nothing else computes."""
    try:
        version = onnxruntime().__version__
    except EngineError as error:
        if not _distributions() and pytorch.is_installed():
            return Finding("onnxruntime", True, "not installed")
        reason = f"cannot be imported: {error.__cause__}"
        return Finding("onnxruntime", False, reason, "pip install 'graph-init[cpu]'")
    kind = (
        "a training build"
        if installed() == TRAINING
        else "a plain build: every command but artifacts"
    )
    return Finding("onnxruntime", True, f"{version}, {kind}")


def _onnxruntime_package() -> Finding:
    """Several distributions overwrite each other's files."""
    found = _distributions()
    detail = ", ".join(f"{d} {v}" for d, v in found.items()) or "none installed"
    if len(found) < 2:
        return Finding("engine package", True, detail)
    keep = next(iter(found))
    gone = " ".join(d for d in found if d != keep)
    return Finding(
        "engine package",
        False,
        f"{detail}: they overwrite each other",
        f"pip uninstall -y {gone} && pip install --force-reinstall --no-deps {keep}=={found[keep]}",
    )


def _torch() -> Finding:
    if not pytorch.is_installed():
        return Finding(TORCH, True, "not installed")
    try:
        version, devices = pytorch.module().__version__, pytorch.devices()
    except EngineError as error:
        reason = f"cannot be imported: {error.__cause__}"
        return Finding(TORCH, False, reason, "pip install --force-reinstall torch")
    return Finding(TORCH, True, f"{version}, on {', '.join(devices)}")


def _auto() -> Finding:
    """What computes, unless an option says otherwise."""
    try:
        found = choose().version
    except GraphInitError as error:
        return Finding("--engine auto", False, str(error), _AUTO_REMEDY)
    said = f" (by {VARIABLE})" if os.environ.get(VARIABLE) else ""
    return Finding("--engine auto", True, f"{found}{said}")


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
    return [
        _python(),
        _onnxruntime(),
        _onnxruntime_package(),
        _torch(),
        _auto(),
        *_libraries(),
    ]
