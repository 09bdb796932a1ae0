"""The module ``onnxruntime``, imported when it is first needed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graph_init.errors import EngineError

_INTERFACE = "onnxruntime.training"

#: The engine logs what is fatal alone. What it raises says what its errors' log lines say.
SILENT = 4


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep a training build from importing its interface to PyTorch, and with it all of PyTorch.

    That takes several times as long as the engine itself. None in ``sys.modules`` makes an import
    fail as if there were no such module, which the engine expects; afterwards it can be imported.
    """
    hidden = _INTERFACE not in sys.modules
    if hidden:
        sys.modules[_INTERFACE] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_INTERFACE]


def onnxruntime() -> Any:
    """The module ``onnxruntime``; EngineError if it cannot be imported."""
    found: dict[str, Any] = {}
    ours = "onnxruntime" not in sys.modules

    def load() -> None:
        try:
            with _without_torch():
                import onnxruntime as module
        except Exception as error:  # a broken installation can raise anything
            found["error"] = error
        else:
            found["module"] = module
            # Who has imported it before may want its log; a broken installation may lack this.
            silence = getattr(module, "set_default_logger_severity", None)
            if ours and silence is not None:
                silence(SILENT)

    # While it is imported it keeps an exception, and with it every frame below the import: all that
    # their variables hold would never be freed. A thread's stack has no frames of ours.
    importing = threading.Thread(target=load)
    importing.start()
    importing.join()
    if "error" in found:
        raise EngineError(
            f"onnxruntime cannot be imported ({found['error']}); run "
            "`pip install 'graph-init[cpu]'`"
        ) from found["error"]
    return found["module"]


#: Builds by the name of their distribution.
PLAIN, TRAINING = "onnxruntime", "onnxruntime-training"
#: Its providers, by the name of the device.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def installed() -> str:
    """Which build is there: :data:`TRAINING` or :data:`PLAIN`; EngineError if there is none."""
    onnxruntime()
    from onnxruntime.capi import _pybind_state as found

    both = hasattr(found, "GradientGraphBuilder") and hasattr(found, "save_checkpoint")
    return TRAINING if both else PLAIN


def devices() -> tuple[str, ...]:
    """The devices that the installed build can compute on here."""
    found = onnxruntime().get_available_providers()
    return tuple(d for d, provider in PROVIDERS.items() if provider in found)


def bindings() -> Any:
    """The training build's bindings; EngineError if it is not installed."""
    cause: Exception | None = None
    try:
        wrong = "the installed onnxruntime is not a training build"
        right = installed() == TRAINING
    except EngineError as error:
        wrong, right, cause = "onnxruntime's training build is not installed", False, error
    if not right:
        raise EngineError(
            f"{wrong}, which training artifacts and --engine onnxruntime-training need; run "
            "`pip install 'graph-init[training]'` in an "
            "environment of its own, or `graph-init doctor` to see what is installed"
        ) from cause
    from onnxruntime.capi import _pybind_state as found

    return found
