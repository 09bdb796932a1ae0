"""What is installed, whether it can work, and what to run if not."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from graph_init.engine.runtime import bindings, onnxruntime
from graph_init.errors import EngineError

#: Distributions that install the module ``onnxruntime``; the last one installed wins.
_ENGINES = (
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime",
    "onnxruntime-gpu",
)
_TRAINING = frozenset(_ENGINES[:2])
_LIBRARIES = ("numpy", "onnx", "onnx-ir", "networkx")


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
        return Finding("onnxruntime", False, str(error.__cause__), "pip install 'graph-init[cpu]'")
    try:
        bindings()
    except EngineError:
        return Finding(
            "onnxruntime",
            False,
            f"{version} is not a training build",
            "pip uninstall -y onnxruntime onnxruntime-gpu && "
            "pip install --force-reinstall --no-deps onnxruntime-training-cpu==1.19.2",
        )
    return Finding("onnxruntime", True, f"{version}, a training build")


def _distributions() -> Finding:
    found = {d: v for d in _ENGINES if (v := _version(d)) is not None}
    detail = ", ".join(f"{d} {v}" for d, v in found.items()) or "none installed"
    others = [d for d in found if d not in _TRAINING]
    training = [d for d in found if d in _TRAINING]
    if not training:
        return Finding("engine package", False, detail, "pip install 'graph-init[cpu]'")
    if others or len(training) > 1:
        keep = training[0]
        gone = " ".join(d for d in found if d != keep)
        return Finding(
            "engine package",
            False,
            f"{detail}: they overwrite each other",
            f"pip uninstall -y {gone} && "
            f"pip install --force-reinstall --no-deps {keep}=={found[keep]}",
        )
    return Finding("engine package", True, detail)


def check() -> list[Finding]:
    """All findings; the installation can work if every one is ok."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    findings = [
        Finding("python", supported, version, "" if supported else "use Python 3.10, 3.11 or 3.12"),
        _engine_module(),
        _distributions(),
    ]
    for library in _LIBRARIES:
        found = _version(library)
        remedy = "" if found else f"pip install {library}"
        findings.append(Finding(library, found is not None, found or "not installed", remedy))
    return findings
