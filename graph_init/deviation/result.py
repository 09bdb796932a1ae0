"""The result of one evaluation of gradient deviation, the same for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graph_init.ir import Array

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
class DeviationResult:
    """Gradient deviation on one batch; ``log_scale_gradient`` has one element a scaled tensor.

    ``deviation_sums``, ``vanished``, ``gradient_squares`` and ``value_squares`` are those of
    :class:`Statistics`.
    """

    loss: float
    gradient_deviation: float
    gradient_norm: float
    vanished_fraction: float
    deviation_sums: Array
    vanished: Array
    gradient_squares: Array
    value_squares: Array
    log_scale_gradient: Array
    #: Standard deviation of the output that the loss reads; of a single number 0.
    output_std: float


def evaluation(
    loss: float,
    statistics: Statistics,
    elements: int,
    log_scale_gradient: Array,
    extras: Sequence[float],
) -> DeviationResult:
    """``elements``: the number N of trainable elements, over which deviation is a mean."""
    return DeviationResult(
        loss=float(loss),
        gradient_deviation=float(statistics.deviation.astype(np.float64).sum() / elements),
        gradient_norm=float(np.sqrt(statistics.gradient_squares.astype(np.float64).sum())),
        vanished_fraction=float(statistics.vanished.astype(np.float64).sum() / elements),
        deviation_sums=statistics.deviation,
        vanished=statistics.vanished,
        gradient_squares=statistics.gradient_squares,
        value_squares=statistics.value_squares,
        log_scale_gradient=log_scale_gradient.astype(np.float64),
        output_std=float(extras[0]) if extras else float("nan"),
    )


def failure(found: DeviationResult) -> tuple[str, Array] | None:
    """What failed first, in words with the place of a tensor in them, and at which parameters.

    None if all numbers are finite. A loss that is not finite is of no parameter.
    """
    if not np.isfinite(found.loss):
        return f"the loss is {found.loss:g}: {{}}", np.zeros(0, int)
    for words, numbers in (
        ("the gradient of {} is not finite, or too large for float32", found.gradient_squares),
        ("the change of the gradient of {} is not finite", found.deviation_sums),
    ):
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            return words, bad
    return None


def finite(value: Any) -> Any:
    """``value``, or None in place of a number that JSON does not have."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


#: Attributes of a measurement that are one number → their titles, in the order of tables.
FIGURES = {
    "gradient_deviation": "gradient deviation",
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "vanished_fraction": "vanished fraction",
    "output_std": "output's standard deviation",
}


@dataclass(frozen=True)
class ParameterMeasurement:
    """What was measured of one trainable tensor. No number has a unit.

    Attributes:
        name: of the initializer.
        kind: what it is in its layer, such as ``matrix`` or ``bias``.
        shape: of the tensor.
        elements: their number.
        scalable: whether it can be given a factor.
        norm: of its values.
        gradient_deviation: the mean over its elements.
        vanished_fraction: share of its elements with |g| < ε.
        log_scale_gradient: ∂GD/∂log s of the whole GD; None unless it was asked for, and for
            tensors that are not scaled.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    elements: int
    scalable: bool
    norm: float
    gradient_deviation: float
    vanished_fraction: float
    log_scale_gradient: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields; numbers that are not finite are null."""
        content = {k: finite(v) for k, v in vars(self).items()} | {"shape": list(self.shape)}
        if self.log_scale_gradient is None:
            del content["log_scale_gradient"]
        return content
