"""What rules judge by: the tensors with their statistics, the signal, the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graph_init.analysis import Parameter
from graph_init.analysis.kinds import FLOATS, NEVER_TRAINED, TABLES, WEIGHTS
from graph_init.check.gradient import Gradient
from graph_init.check.scales import Scales, weight
from graph_init.check.signal import NO_SIGNAL, Signal
from graph_init.check.statistics import Statistics, statistics
from graph_init.ir import Array

#: Kinds of weights that a layer multiplies its input by.
LAYERS = WEIGHTS - {"embedding"}
#: What one value stands for in all of a network that has not been trained.
_NEUTRAL = frozenset({"norm gain", "norm shift", "bias"})
#: Share of its vectors that have moved from which on a network looks trained; and how many.
_MOVED, _VECTORS = 0.5, 3


@dataclass(frozen=True)
class Evidence:
    """One model; ``signal`` and ``gradient`` are None where they could not be computed."""

    parameters: Sequence[Parameter]
    values: Mapping[str, Array]
    signal: Signal | None = None
    gradient: Gradient | None = None

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Of every trainable tensor and every running statistic."""
        return {p.name: statistics(self.values[p.name]) for p in self.judged}

    @cached_property
    def judged(self) -> list[Parameter]:
        """What has numbers to judge: float tensors that are trained, or follow from training."""
        return [
            p
            for p in self.parameters
            if p.dtype in FLOATS
            and p.shape
            and (p.kind == "running statistic" or (p.trainable and p.kind not in NEVER_TRAINED))
        ]

    @cached_property
    def weights(self) -> list[Parameter]:
        """Trainable weights of layers and tables, a tied pair once."""
        return [p for p in self.judged if p.kind in WEIGHTS | TABLES and p.tied_to is None]

    @cached_property
    def tensors(self) -> list[tuple[Parameter, Statistics]]:
        """What is judged, with its statistics."""
        return [(p, self.statistics[p.name]) for p in self.judged]

    @cached_property
    def layers(self) -> list[tuple[Parameter, Statistics]]:
        """Those of the weights that a layer multiplies its input by, with their statistics."""
        return [(p, self.statistics[p.name]) for p in self.weights if p.kind in LAYERS]

    @cached_property
    def scales(self) -> Scales:
        """Those of the weights, beside each other."""
        found = (weight(p, self.statistics[p.name], p.kind in LAYERS) for p in self.weights)
        return Scales([w for w in found if w is not None])

    @property
    def profile(self) -> Signal:
        """The signal; nothing at all where it could not be computed."""
        return NO_SIGNAL if self.signal is None else self.signal

    @cached_property
    def is_trained(self) -> bool:
        """Whether the file looks trained: biases and gains have moved from their first values.

        Those begin as constants, or as draws within bounds; training makes neither of them.
        """
        vectors = [p for p in self.judged if p.kind in _NEUTRAL and self.values[p.name].size >= 8]
        if len(vectors) < _VECTORS:
            return False
        moved = sum(not _is_first(self.values[p.name], p.kind) for p in vectors)
        return moved > _MOVED * len(vectors)


def _is_first(array: Array, kind: str) -> bool:
    """Whether a vector looks as it is before training."""
    flat = array.reshape(-1).astype(np.float64)
    if not np.isfinite(flat).all():
        return True
    # Halves and quarters that are constant: the gates of recurrent layers have biases of their own.
    if any(
        len(flat) % parts == 0 and (np.ptp(flat.reshape(parts, -1), axis=1) == 0).all()
        for parts in (1, 2, 3, 4, 8)
    ):
        return True
    if kind != "bias":
        return False
    # A uniform draw about zero: PyTorch's default.
    largest = float(np.abs(flat).max())
    spread = float(np.sqrt(np.mean(flat**2)))
    return (
        1.4 <= largest / spread <= 1.95 and abs(float(flat.mean())) < 4 * spread / len(flat) ** 0.5
    )
