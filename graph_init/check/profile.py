"""The profiles by depth as JSON: the signal layer by layer, the gradient tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from graph_init.analysis import Parameter
from graph_init.check.gradient import Gradient
from graph_init.check.signal import Signal
from graph_init.deviation.result import finite

#: What is told of the whole gradient.
_WHOLE = ("loss", "norm", "gradient_deviation", "curvature", "largest_eigenvalue")


def profile(
    parameters: Sequence[Parameter], signal: Signal | None, gradient: Gradient | None
) -> dict[str, Any]:
    """``layers`` in the order of the graph, trainable ``tensors`` in that of ``parameters``.

    ``output`` and ``gradient`` have the numbers of the whole network. What could not be computed
    is an empty list, or None; so are numbers that are not finite.
    """
    return {
        "layers": [] if signal is None else [_numbers(asdict(x)) for x in signal.layers],
        "output": None if signal is None else _numbers(asdict(signal.output)),
        "tensors": [_tensor(p, gradient) for p in parameters if p.trainable],
        "gradient": gradient and {k: finite(float(getattr(gradient, k))) for k in _WHOLE},
    }


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    return {k: finite(v) if isinstance(v, float) else v for k, v in content.items()}


def _tensor(p: Parameter, gradient: Gradient | None) -> dict[str, Any]:
    known: dict[str, Any] = {
        "name": p.name,
        "kind": p.kind,
        "shape": list(p.shape),
        "scalable": p.scalable,
    }
    if gradient is None or p.name not in gradient.tensors:
        return known
    found = gradient.tensors[p.name]
    size = max(found.elements, 1) ** 0.5
    whole = sum(t.deviation for t in gradient.tensors.values())
    numbers = {
        "rms": found.value_norm / size,
        "gradient_norm": found.norm,
        "ratio": found.norm / found.value_norm if found.value_norm else None,
        "vanished": found.vanished,
        "zero": found.zero,
        "share": found.deviation / whole if whole else None,
    }
    known["elements"] = found.elements
    return {**known, **{k: None if v is None else finite(float(v)) for k, v in numbers.items()}}
