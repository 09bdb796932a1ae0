"""Chooses the engine that computes, and its device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graph_init.engine import pytorch, runtime
from graph_init.engine.runtime import PLAIN, TRAINING
from graph_init.errors import EngineError, UsageError

TORCH = "torch"
AUTO = "auto"
#: What ``--engine`` takes.
ENGINES = (AUTO, PLAIN, TRAINING, TORCH)
#: What ``--device`` takes; ``auto`` is the first of the others that is there.
DEVICES = (AUTO, "cpu", "cuda", "mps")
#: What ``auto`` stands for, if it is set: so a whole program runs on one engine.
VARIABLE = "GRAPH_INIT_ENGINE"


@dataclass(frozen=True)
class Engine:
    """How gradients are built, of which operators, and what runs them.

    ``name`` is what ``--engine`` has to be to get the same engine here again. ``kernels`` names
    what the graphs are made for (a key of :data:`graph_init.autodiff.forms.FORMS`): a plain build
    has the operators of the standard alone. ``own``: gradients come from this program's reverse
    mode, else from the training build's gradient builder. ``device`` is ``cpu``, ``cuda`` or
    ``mps``.
    """

    name: str
    kernels: str
    own: bool
    device: str = "cpu"

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch runs the graphs, else onnxruntime."""
        return self.kernels == TORCH

    @property
    def version(self) -> str:
        """What runs the graphs and its version, as it is said of a result."""
        if self.is_torch:
            found = f"{TORCH} {pytorch.module().__version__}"
        else:
            found = f"{runtime.installed()} {runtime.onnxruntime().__version__}"
        return found if self.device == "cpu" else f"{found} on {self.device}"


def choose(engine: str = AUTO, device: str = "cpu") -> Engine:
    """The engine of this name on this device.

    ``auto`` is onnxruntime with the fastest operators that the installed build has; where it is
    not installed, or lacks the device, it is PyTorch. ``onnxruntime`` has the operators of plain
    builds, on any build; ``onnxruntime-training`` has gradients built by the training build itself.
    The environment variable :data:`VARIABLE` says what ``auto`` is. Raises UsageError for other
    names and for a device that is not there, and EngineError for what is not installed.
    """
    option = "--engine"
    if engine == AUTO and os.environ.get(VARIABLE):
        engine, option = os.environ[VARIABLE], VARIABLE
    if engine not in ENGINES:
        raise UsageError(f"{option} is one of {', '.join(ENGINES)}, not '{engine}'")
    if device not in DEVICES:
        raise UsageError(f"--device is one of {', '.join(DEVICES)}, not '{device}'")
    return _CHOICES[engine](device)


def _auto(device: str) -> Engine:
    try:
        build = runtime.installed()
    except EngineError:
        if not pytorch.is_installed():
            raise
        return _torch(device)
    there = _devices(runtime.devices(), device)
    if there in (None, "cpu") and device != "cpu" and pytorch.is_installed():
        other = _devices(pytorch.devices(), device)
        if other not in (None, "cpu"):
            return _torch(device)
    return Engine(AUTO, build, True, _required(there, device))


def _plain(device: str) -> Engine:
    return Engine(PLAIN, PLAIN, True, _required(_devices(runtime.devices(), device), device))


def _training(device: str) -> Engine:
    runtime.bindings()
    return Engine(TRAINING, TRAINING, False, _required(_devices(runtime.devices(), device), device))


def _torch(device: str) -> Engine:
    there = _devices(pytorch.devices(), device)
    if there is None:
        raise UsageError(
            f"--device {device}: the installed PyTorch finds no such device; see "
            "`graph-init doctor`, and https://pytorch.org for a build that has it"
        )
    return Engine(TORCH, TORCH, True, there)


def _devices(there: tuple[str, ...], device: str) -> str | None:
    """The device of this name among those that are there; None if it is not among them."""
    if device == AUTO:
        return next(d for d in DEVICES[::-1] if d in there)
    return device if device in there else None


def _required(there: str | None, device: str) -> str:
    if there is not None:
        return there
    if device == "mps":
        raise UsageError("--device mps: onnxruntime has no such device; add --engine torch")
    raise UsageError(
        f"--device {device}: the installed onnxruntime has no {runtime.PROVIDERS[device]}; run "
        "`pip install 'graph-init[gpu]'` on a machine with such a device, and "
        "`graph-init doctor` to see what is installed"
    )


_CHOICES: Mapping[str, Callable[[str], Engine]] = {
    AUTO: _auto,
    PLAIN: _plain,
    TRAINING: _training,
    TORCH: _torch,
}
