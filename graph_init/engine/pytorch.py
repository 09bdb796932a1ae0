"""PyTorch's module, imported when it is first needed, and its devices."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graph_init.errors import EngineError

_lock = threading.Lock()
#: Runs that are under way with a number of threads of their own, and the number to go back to.
_limited, _before = 0, 0


def is_installed() -> bool:
    """Whether there is a module ``torch``, without importing it."""
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None
    return importlib.util.find_spec("torch") is not None


def module() -> Any:
    """The module ``torch``; EngineError if it cannot be imported."""
    try:
        return importlib.import_module("torch")
    except Exception as error:  # a broken installation can raise anything
        raise EngineError(
            f"torch cannot be imported ({error}); run `pip install 'graph-init[torch]'`"
        ) from error


def devices() -> tuple[str, ...]:
    """The devices that PyTorch can compute on here."""
    torch = module()
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)


@contextmanager
def limited_to(threads: int | None) -> Iterator[None]:
    """``threads`` for each operator inside; None leaves PyTorch's number, 0 takes all cores.

    The number is the process's. What it was is set again when the last of several runs at a time,
    which all ask for the same number, has ended.
    """
    global _limited, _before
    if not threads:
        yield
        return
    torch = module()
    with _lock:
        if not _limited:
            _before = torch.get_num_threads()
        _limited += 1
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _limited -= 1
            if not _limited:
                torch.set_num_threads(_before)
