"""PyTorch's exporter reads its own library of operators again for each export: here, once.

It takes longer than the rest of a small model's export. Where PyTorch has moved what is replaced
here the tests take longer, and nothing else changes.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

_MODULE = "torch.onnx._internal.exporter._registration"


def keep() -> None:
    """From now on, if the exporter has been imported; without importing it, which takes a while."""
    if _MODULE not in sys.modules or not hasattr(sys.modules[_MODULE], "ONNXRegistry"):
        return
    registry: Any = importlib.import_module(_MODULE).ONNXRegistry
    read = getattr(registry, "from_torchlib", None)
    if read is None or hasattr(read, "cache_info"):
        return
    kept = functools.cache(read)

    def copied(*given: Any, **named: Any) -> Any:
        found = kept(*given, **named)
        copy = registry()
        copy.__dict__.update(found.__dict__)
        copy.functions = {name: list(known) for name, known in found.functions.items()}
        return copy

    copied.cache_info = kept.cache_info  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(copied)
