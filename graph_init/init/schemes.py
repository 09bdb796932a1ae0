"""Schemes: how the weights are drawn before tuning, in a table with one entry for each.

Each tensor is drawn from a stream of its own, seeded by the seed and the tensor's name, so that the
result does not depend on the order of the tensors.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.analysis import Parameter
from graph_init.init.draws import (
    Draw,
    Layer,
    delta_orthogonal,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
)
from graph_init.init.gains import gain
from graph_init.ir import Array, all_equal
from graph_init.options import InitialWeights

__all__ = ["SCHEMES", "constant_weights", "fill", "is_constant"]


@dataclass(frozen=True)
class Scheme:
    """How weights are drawn, and with which gain.

    ``gain``: None takes that of the activation behind the layer, and ``otherwise`` where there is
    none. ``clears_biases``: they become zero, as the published scheme has it.
    """

    draw: Draw
    gain: float | None = 1.0
    otherwise: float = 1.0
    clears_biases: bool = False


def _by_fan_in(layer: Layer) -> float:
    return math.sqrt(1.0 / layer.fan_in)


def _by_fans(layer: Layer) -> float:
    return math.sqrt(2.0 / (layer.fan_in + layer.fan_out))


#: Standard deviation of truncated-normal, and of tables and tokens (GPT-2's), which have no fans in
#: this sense.
DEFAULT_STD = 0.02

#: he: He et al. 2015, equation 10. xavier: Glorot and Bengio 2010, equations 12 and 16. lecun:
#: LeCun et al. 1998, equation 16. orthogonal: Saxe et al. 2014. delta-orthogonal: Xiao et al. 2018,
#: algorithm 1. lsuv: Mishkin and Matas 2016, of which this table has the first half, and
#: :mod:`graph_init.init.lsuv` the second.
SCHEMES: dict[str, Scheme] = {
    "he": Scheme(normal(_by_fan_in), gain=None, otherwise=math.sqrt(2.0)),
    "he-uniform": Scheme(uniform(_by_fan_in), gain=None, otherwise=math.sqrt(2.0)),
    "xavier": Scheme(normal(_by_fans)),
    "xavier-uniform": Scheme(uniform(_by_fans)),
    "lecun": Scheme(normal(_by_fan_in)),
    "lecun-uniform": Scheme(uniform(_by_fan_in)),
    "orthogonal": Scheme(orthogonal, gain=None),
    "delta-orthogonal": Scheme(delta_orthogonal, gain=None),
    "lsuv": Scheme(orthogonal, clears_biases=True),
    "truncated-normal": Scheme(truncated_normal, gain=DEFAULT_STD),
}
_TABLES = frozenset({"embedding", "position", "token", "other"})

#: What a placeholder of these kinds becomes.
_NEUTRAL = {
    "norm gain": 1.0,
    "gain": 1.0,
    "norm shift": 0.0,
    "bias": 0.0,
}
#: What a placeholder that holds this running statistic becomes.
_NEUTRAL_STATISTIC = {"mean": 0.0, "variance": 1.0}


def is_constant(array: Array) -> bool:
    """Whether the tensor has more than one element and all are equal."""
    return array.size > 1 and all_equal(array)


def constant_weights(parameters: Sequence[Parameter], values: Mapping[str, Array]) -> list[str]:
    """Names of scalable tensors without a direction: all their elements are equal."""
    return [p.name for p in parameters if p.scalable and is_constant(values[p.name])]


def fill(
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    weights: InitialWeights,
    seed: int,
    *,
    placeholders: bool = False,
) -> dict[str, Array]:
    """New float32 values for the scalable tensors under a scheme; nothing for ``keep``.

    Tables keep what they have unless it is constant. With ``placeholders`` (a model whose weights
    are constants, as files without trained weights have) gains become 1, biases and shifts 0, and
    running statistics a mean of 0 and a variance of 1.
    """
    if weights.scheme == "keep":
        return {}
    scheme = SCHEMES[weights.scheme]
    new: dict[str, Array] = {}
    for p in parameters:
        old = values[p.name]
        rng = np.random.default_rng([seed, zlib.crc32(p.name.encode())])
        if p.scalable and p.tied_to is None:
            if p.kind not in _TABLES and p.fan_in and p.fan_out:
                new[p.name] = _draw(p, scheme, weights, rng)
            elif is_constant(old):
                std = weights.std or DEFAULT_STD
                new[p.name] = rng.standard_normal(old.shape, np.float32) * np.float32(std)
        elif scheme.clears_biases and p.kind == "bias" and p.trainable:
            new[p.name] = np.zeros(old.shape, np.float32)
        elif placeholders and is_constant(old):
            neutral = _NEUTRAL.get(p.kind)
            if p.statistic is not None:
                neutral = _NEUTRAL_STATISTIC[p.statistic]
            if neutral is not None:
                new[p.name] = np.full(old.shape, neutral, np.float32)
    for p in parameters:
        if p.tied_to in new:
            source = new[p.tied_to]
            new[p.name] = source if source.shape == p.shape else np.ascontiguousarray(source.T)
    return new


def _draw(p: Parameter, scheme: Scheme, weights: InitialWeights, rng: np.random.Generator) -> Array:
    assert p.fan_in and p.fan_out
    given = weights.std if weights.std is not None else weights.gain
    factor = given if given is not None else scheme.gain
    if factor is None or isinstance(factor, str):
        found = gain(p.gain_activation, p.gain_slope)
        factor = scheme.otherwise if found is None else found
    kernel = p.kind == "convolution kernel"
    layer = Layer(
        shape=p.shape,
        fan_in=p.fan_in,
        fan_out=p.fan_out,
        stacked=p.stacked,
        kernel=kernel,
        groups=p.groups,
    )
    return scheme.draw(layer, rng, factor)
