"""Factors that a tensor's element type can hold: a narrow one overflows, or loses small numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.analysis import Parameter
from graph_init.ir import Array

#: Element type → its largest number and its smallest positive one. Wider types hold what float32,
#: in which everything is computed, holds.
NARROW: Mapping[str, tuple[float, float]] = {
    "float16": (65504.0, 2.0**-24),
    "bfloat16": (3.3895e38, 2.0**-133),
}
#: A tensor's root mean square is kept this many times above the smallest number, so that rounding
#: changes its elements by less than one per cent of that.
_STEPS = 64


@dataclass(frozen=True)
class Limit:
    """A factor that was found, and the nearest one that fits."""

    found: float
    taken: float

    def sentence(self, name: str, dtype: str) -> str:
        return (
            f"'{name}' would need the factor {self.found:.3g}, which does not fit {dtype}; "
            f"{self.taken:.3g} was taken. Use a wider type for the model"
        )


def limit(factor: float, values: Array, dtype: str) -> Limit | None:
    """None if ``factor`` times ``values`` fits the element type; 1 always does."""
    if dtype not in NARROW:
        return None
    largest, smallest = NARROW[dtype]
    exact = np.abs(values.astype(np.float64))
    peak, size = float(exact.max(initial=0)), float(np.sqrt(np.mean(np.square(exact))))
    if not peak:
        return None
    highest = max(1.0, largest / peak)
    lowest = min(1.0, _STEPS * smallest / size)
    taken = min(max(factor, lowest), highest)
    return None if taken == factor else Limit(factor, float(np.float32(taken)))


def clamped(
    scales: Mapping[str, float], values: Mapping[str, Array], parameters: Sequence[Parameter]
) -> tuple[dict[str, float], list[str]]:
    """Factors that fit the tensors' types, as float32 has them; and a sentence for each change."""
    dtypes = {p.name: p.dtype.lower() for p in parameters}
    factors = {n: float(np.float32(s)) for n, s in scales.items()}
    notes = []
    for n, factor in factors.items():
        if (found := limit(factor, values[n], dtypes[n])) is not None:
            factors[n] = found.taken
            notes.append(found.sentence(n, dtypes[n]))
    return factors, notes
