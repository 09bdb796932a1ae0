"""Standard deviations that frameworks and papers give to weights, to tell which was used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graph_init.analysis import Parameter
from graph_init.check.statistics import (
    NORMAL,
    ORTHOGONAL,
    OTHER,
    TRUNCATED,
    TRUNCATED_STD,
    UNIFORM,
    Statistics,
)
from graph_init.init.gains import gain

_NORMALS = frozenset({NORMAL, TRUNCATED, OTHER})
_UNIFORMS = frozenset({UNIFORM, OTHER})
_TRUNCATED = frozenset({TRUNCATED, OTHER})
_BOTH = _NORMALS | _UNIFORMS


@dataclass(frozen=True)
class Layer:
    """What a scheme reads: fans, gain of the activation behind, sides of the matrix, groups."""

    fan_in: int
    fan_out: int
    gain: float
    groups: int = 1
    longest: int = 1  # the longer side of the matrix
    width: int = 1  # the last axis: of a table, what an entry has


@dataclass(frozen=True)
class Known:
    """A scheme: its standard deviation, and what its elements look drawn from."""

    std: Callable[[Layer], float]
    families: frozenset[str]


def _fixed(std: float, families: frozenset[str]) -> Known:
    return Known(lambda layer: std, families)


#: By what people call them. The first that fits is named.
KNOWN: Mapping[str, Known] = {
    "He (fan-in)": Known(lambda x: math.sqrt(2 / x.fan_in), _BOTH),
    "Xavier": Known(lambda x: math.sqrt(2 / (x.fan_in + x.fan_out)), _BOTH),
    "LeCun (fan-in)": Known(lambda x: math.sqrt(1 / x.fan_in), _BOTH),
    "PyTorch's default": Known(lambda x: math.sqrt(1 / (3 * x.fan_in)), _UNIFORMS),
    "normal with 0.02": _fixed(0.02, _NORMALS),
    "He (fan-out)": Known(lambda x: math.sqrt(2 / x.fan_out), _BOTH),
    "He (fan-out of all groups)": Known(lambda x: math.sqrt(2 / (x.fan_out * x.groups)), _BOTH),
    "He (fan-in of all groups)": Known(lambda x: math.sqrt(2 / (x.fan_in * x.groups)), _BOTH),
    "Xavier (all groups)": Known(
        lambda x: math.sqrt(2 / ((x.fan_in + x.fan_out) * x.groups)), _BOTH
    ),
    "Xavier with the activation's gain": Known(
        lambda x: x.gain * math.sqrt(2 / (x.fan_in + x.fan_out)), _BOTH
    ),
    "fan-in with the activation's gain": Known(lambda x: x.gain / math.sqrt(x.fan_in), _BOTH),
    "LeCun (fan-out)": Known(lambda x: math.sqrt(1 / x.fan_out), _BOTH),
    "PyTorch's default (fan-out)": Known(lambda x: math.sqrt(1 / (3 * x.fan_out)), _UNIFORMS),
    "a third by fan-out": Known(lambda x: math.sqrt(1 / (3 * x.fan_out)), _NORMALS),
    "orthogonal": Known(lambda x: math.sqrt(1 / x.longest), frozenset({ORTHOGONAL})),
    "orthogonal with the activation's gain": Known(
        lambda x: x.gain * math.sqrt(1 / x.longest), frozenset({ORTHOGONAL})
    ),
    # A truncated normal that is corrected for being cut, by a routine whose cut is absolute.
    "LeCun over 0.8796": Known(lambda x: math.sqrt(1 / x.fan_in) / TRUNCATED_STD, _NORMALS),
    "1/√width": Known(lambda x: math.sqrt(1 / x.width), _NORMALS),
    "normal with 1": _fixed(1.0, _NORMALS),
    "normal with 0.01": _fixed(0.01, _NORMALS),
    "normal with 0.05": _fixed(0.05, _NORMALS),
    "normal with 0.1": _fixed(0.1, _NORMALS),
    "normal with 0.001": _fixed(0.001, _NORMALS),
    "uniform within ±0.05": _fixed(0.05 / math.sqrt(3), _UNIFORMS),
    "uniform within ±0.1": _fixed(0.1 / math.sqrt(3), _UNIFORMS),
    "normal with 0.02, cut at 2": _fixed(0.02 * TRUNCATED_STD, _TRUNCATED),
    "LeCun, cut at 2": Known(lambda x: TRUNCATED_STD * math.sqrt(1 / x.fan_in), _TRUNCATED),
    "He, cut at 2": Known(lambda x: TRUNCATED_STD * math.sqrt(2 / x.fan_in), _TRUNCATED),
}

#: Schemes of one standard deviation for all layers; tables have it, too.
FIXED = frozenset(name for name in KNOWN if name.startswith("normal with "))

#: What is drawn where the area of a kernel, by which fans are multiplied, is left out: the scheme
#: that was meant, and the standard deviation by channels in and out and the kernel's sides, added.
KERNEL_MISTAKES: Mapping[str, tuple[str, Callable[[float, float, int], float]]] = {
    "Xavier with the kernel's sides added to the channels": (
        "Xavier",
        lambda into, out, sides: math.sqrt(2 / (into + out + sides)),
    ),
    "Xavier without the kernel's area": (
        "Xavier",
        lambda into, out, sides: math.sqrt(2 / (into + out)),
    ),
    "He without the kernel's area": (
        "He (fan-in)",
        lambda into, out, sides: math.sqrt(2 / into),
    ),
    "LeCun without the kernel's area": (
        "LeCun (fan-in)",
        lambda into, out, sides: math.sqrt(1 / into),
    ),
}

#: Relative error of a standard deviation that is a scheme's, beside that of the sample.
_TOLERANCE = 0.015
#: So many standard errors of the sample.
_ERRORS = 3.5


def layer(p: Parameter) -> Layer:
    """What schemes read of a weight or table."""
    rows, rest = p.shape[0], math.prod(p.shape[1:])
    found = gain(p.gain_activation, p.gain_slope)
    return Layer(
        fan_in=max(p.fan_in or rows, 1),
        fan_out=max(p.fan_out or rest, 1),
        gain=1.0 if found is None else found,
        groups=max(p.groups, 1),
        longest=max(rows, rest, 1),
        width=max(p.shape[-1], 1),
    )


def tolerance(s: Statistics) -> float:
    """How far log rms of a draw may be from the scheme's."""
    return _TOLERANCE + _ERRORS * s.uncertainty


def fitting(s: Statistics, of: Layer) -> list[str]:
    """Names of the schemes of which the tensor may be a draw, in the table's order."""
    if not s.rms:
        return []
    limit, level = tolerance(s), math.log(s.rms)
    return [
        name
        for name, known in KNOWN.items()
        if s.family in known.families and abs(math.log(known.std(of)) - level) <= limit
    ]
