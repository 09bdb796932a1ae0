"""What one evaluation of gradient deviation gives, by whichever method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.builder import Array
from graph_init.errors import NumericalError

#: ε of the published algorithm.
EPSILON = 1e-5


@dataclass(frozen=True)
class Statistics:
    """Sums over each tensor's elements; every vector has one element a parameter."""

    deviation: Array  # Σ|r|
    vanished: Array  # elements with |g| < ε
    gradient_squares: Array
    value_squares: Array


@dataclass(frozen=True)
class Evaluation:
    """Gradient deviation on one batch; ``log_scale_gradient`` has one element a scaled tensor.

    ``deviation_sums``, ``vanished`` and ``value_squares`` are those of :class:`Statistics`.
    """

    loss: float
    gradient_deviation: float
    gradient_norm: float
    vanished_fraction: float
    deviation_sums: Array
    vanished: Array
    value_squares: Array
    log_scale_gradient: Array
    extras: tuple[float, ...]


def evaluation(
    loss: float,
    statistics: Statistics,
    elements: int,
    log_scale_gradient: Array,
    extras: Sequence[float],
) -> Evaluation:
    """``elements``: the number N of trainable elements, over which deviation is a mean."""
    return Evaluation(
        float(loss),
        float(statistics.deviation.astype(np.float64).sum() / elements),
        float(np.sqrt(statistics.gradient_squares.astype(np.float64).sum())),
        float(statistics.vanished.astype(np.float64).sum() / elements),
        statistics.deviation,
        statistics.vanished,
        statistics.value_squares,
        log_scale_gradient.astype(np.float64),
        tuple(float(e) for e in extras),
    )


def require_finite(found: Evaluation, names: Sequence[str]) -> None:
    """NumericalError that says which number failed first, and in which parameter."""
    if not np.isfinite(found.loss):
        raise NumericalError(
            f"the loss is {found.loss}: the forward pass overflows; start from a scheme, "
            "for example --scheme he"
        )
    if not np.isfinite(found.gradient_deviation):
        bad = np.flatnonzero(~np.isfinite(found.deviation_sums))
        where = f" in '{names[bad[0]]}'" if len(bad) else ""
        raise NumericalError(
            f"the gradient deviation{where} is not finite; start from a scheme, for example "
            "--scheme he"
        )
