"""Signs that a state has collapsed: what gradient deviation alone does not show.

Gradient deviation tends to 1 where gradients vanish (|g| ≪ ε, see ``deviation/taylor.py``), so a
low one may mean that nothing can be learnt any more. A network can also be cut: no signal reaches
its output, or no gradient one of its weights. Embeddings are left out, since the rows that a batch
does not read have no gradient in any state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graph_init.deviation.result import EPSILON

#: Share of elements below ε from which on a gradient counts as vanished: the whole, a tensor's.
_MOSTLY, _WHOLLY = 0.5, 0.999
#: Below this standard deviation the output does not tell one input from another.
_DEAD = 1e-3
#: An output is sound between this standard deviation and its reciprocal.
_SOUND = 0.1
#: So many tensors are named.
_NAMED = 3


def dead(output_std: float) -> bool:
    """Whether an output of this standard deviation says nothing; NaN (a single number) does."""
    return output_std < _DEAD


def sound(output_std: float) -> bool:
    """Whether it is neither small nor large; of a single number (NaN) nothing can be said."""
    return bool(np.isnan(output_std) or _SOUND <= output_std <= 1 / _SOUND)


@dataclass(frozen=True)
class Signs:
    """What of a state looks collapsed.

    ``vanished`` is the share of its gradient's elements below ε, if that is most of them, else 0;
    ``cut`` names the weights that no gradient reaches; ``output_std`` is the output's standard
    deviation, NaN where the output is a single number.
    """

    vanished: float
    cut: tuple[str, ...]
    output_std: float

    @property
    def count(self) -> int:
        """How many signs there are, one for each weight that is cut off."""
        return len(self.cut) + bool(self.vanished) + dead(self.output_std)

    @property
    def sentences(self) -> list[str]:
        found = []
        if self.vanished:
            found.append(
                f"{self.vanished:.0%} of the gradient is below {EPSILON:g}: gradient deviation "
                "tends to 1 where gradients vanish, so its value means little"
            )
        if self.cut:
            more = f" and {len(self.cut) - _NAMED} more" if len(self.cut) > _NAMED else ""
            named = ", ".join(map(repr, self.cut[:_NAMED]))
            found.append(f"no gradient reaches {named}{more}")
        if dead(self.output_std):
            found.append(
                f"the output's standard deviation is {self.output_std:.2g}: the signal vanishes "
                "on its way through the network"
            )
        return found


class Tensor(Protocol):
    """What is asked of a parameter."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def scalable(self) -> bool: ...


def signs(tensors: Sequence[Tensor], vanished: Sequence[float], output_std: float) -> Signs:
    """The signs of collapse in a measurement.

    ``vanished`` is the share of elements below ε in the gradient of each of the ``tensors``, and
    ``output_std`` that of the output that the loss reads, NaN where it is a single number.
    """
    rows = [(t, v) for t, v in zip(tensors, vanished, strict=True) if t.kind != "embedding"]
    elements = sum(math.prod(t.shape) for t, _ in rows)
    below = sum(v * math.prod(t.shape) for t, v in rows)
    mostly = below / elements if elements and below > _MOSTLY * elements else 0.0
    cut = tuple(t.name for t, v in rows if t.scalable and v >= _WHOLLY)
    return Signs(mostly, cut, output_std)
