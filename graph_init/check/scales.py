"""How the scales of a network's weights stand beside each other, and which scheme they follow."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graph_init.analysis import Parameter
from graph_init.check import schemes
from graph_init.check.statistics import Statistics

#: So many weights of one scheme make it the network's, if they are this share of all.
_DRAWN, _SHARE = 3, 0.6
#: Tensors with fewer elements say little of what they were drawn from.
_TOLD = 16


@dataclass(frozen=True)
class Weight:
    """A weight or table that has a scale; ``in_layer``: whether a layer multiplies by it."""

    parameter: Parameter
    statistics: Statistics
    in_layer: bool

    @cached_property
    def layer(self) -> schemes.Layer:
        """What schemes read of it."""
        return schemes.layer(self.parameter)

    @cached_property
    def fits(self) -> list[str]:
        """Names of the schemes of which it may be a draw."""
        return schemes.fitting(self.statistics, self.layer)

    @property
    def level(self) -> float:
        """log rms."""
        return math.log(self.statistics.rms)

    @property
    def form(self) -> object:
        """What siblings have in common."""
        p = self.parameter
        return p.kind, p.shape, p.fan_in, p.fan_out


def weight(p: Parameter, s: Statistics, in_layer: bool) -> Weight | None:
    """None where the numbers say nothing of a scale: few, all equal, or not finite."""
    told = s.size >= _TOLD and s.rms > 0 and not s.nonfinite and not s.is_constant
    if told and math.isfinite(s.rms) and (in_layer or len(p.shape) > 1):
        return Weight(p, s, in_layer)
    return None


class Scales:
    """The ``weights`` of a network, in its order."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights: Sequence[Weight] = weights
        self.layers: list[Weight] = [w for w in weights if w.in_layer]

    @cached_property
    def _groups(self) -> Mapping[object, list[Weight]]:
        groups: dict[object, list[Weight]] = defaultdict(list)
        for w in self.weights:
            groups[w.form].append(w)
        return groups

    def siblings(self, w: Weight) -> list[Weight]:
        """The others of its kind, shape and fans."""
        return [x for x in self._groups[w.form] if x is not w]

    @cached_property
    def scheme(self) -> tuple[str, float]:
        """The scheme that most layers' weights are draws of, and their share; empty if none is."""
        votes = Counter(name for w in self.layers for name in w.fits)
        if not votes:
            return "", 0.0
        most = max(votes.values())
        share = most / len(self.layers)
        if most < _DRAWN or share < _SHARE:
            return "", share
        return next(n for n in schemes.KNOWN if votes[n] == most), share
