"""Schemes: what the weights are before tuning. One entry of a table each.

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
from graph_init.errors import UsageError, suggestion
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
from graph_init.ir import Array

__all__ = ["NAMES", "SCHEMES", "Settings", "constant_weights", "fill", "is_constant"]


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


#: Deviation of truncated-normal, and of tables and tokens (GPT-2's), which have no fans in this
#: sense.
STANDARD_DEVIATION = 0.02

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
    "truncated-normal": Scheme(truncated_normal, gain=STANDARD_DEVIATION),
}
NAMES = ("keep", *SCHEMES)
#: What frameworks call them, to be suggested.
_OTHER_NAMES = {
    "kaiming": "he", "kaiming-normal": "he", "he-normal": "he", "kaiming-uniform": "he-uniform",
    "glorot": "xavier", "glorot-normal": "xavier", "xavier-normal": "xavier",
    "glorot-uniform": "xavier-uniform", "lecun-normal": "lecun", "trunc-normal": "truncated-normal",
    "none": "keep",
}  # fmt: skip
#: A gain that is that of the activation behind each layer.
BY_ACTIVATION = "activation"

_TABLES = frozenset({"embedding", "position", "token", "other"})

#: What a placeholder of these kinds becomes.
_NEUTRAL = {
    "norm gain": 1.0,
    "gain": 1.0,
    "norm shift": 0.0,
    "bias": 0.0,
}


@dataclass(frozen=True)
class Settings:
    """A scheme's name with what the user set.

    ``gain`` is a factor on all layers, or :data:`BY_ACTIVATION`; ``std`` a standard deviation.
    """

    name: str = "keep"
    gain: float | str | None = None
    std: float | None = None

    def check(self) -> None:
        """UsageError for an unknown scheme and for settings that it does not have."""
        if self.name not in NAMES:
            plain = self.name.lower().rstrip("_").replace("_", "-")
            raise UsageError(
                f"--scheme {self.name}: choose one of {', '.join(NAMES)}"
                + suggestion(plain, NAMES, _OTHER_NAMES)
            )
        drawn = tuple(n for n in SCHEMES if n not in ("truncated-normal", "lsuv"))
        _check_factor("--std", self.std, self.name, ("truncated-normal",))
        if not isinstance(self.gain, str):
            _check_factor("--gain", self.gain, self.name, drawn)
        elif self.gain != BY_ACTIVATION:
            raise UsageError(f"--gain is a number or '{BY_ACTIVATION}', not '{self.gain}'")
        elif self.name not in drawn:
            raise UsageError(f"--gain belongs to --scheme {', '.join(drawn)}")


def _check_factor(option: str, given: float | None, scheme: str, schemes: Sequence[str]) -> None:
    if given is None:
        return
    if scheme not in schemes:
        raise UsageError(f"{option} belongs to --scheme {', '.join(schemes)}")
    if not (given > 0 and math.isfinite(given)):
        raise UsageError(f"{option} must be positive, not {given}")


def is_constant(array: Array) -> bool:
    """Whether the tensor has more than one element and all are equal."""
    return array.size > 1 and bool((array == array.flat[0]).all())


def constant_weights(parameters: Sequence[Parameter], values: Mapping[str, Array]) -> list[str]:
    """Names of scalable tensors without a direction: all their elements are equal."""
    return [p.name for p in parameters if p.scalable and is_constant(values[p.name])]


def fill(
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    settings: Settings,
    seed: int,
    *,
    placeholders: bool = False,
) -> dict[str, Array]:
    """New float32 values for the scalable tensors under a scheme; nothing for ``keep``.

    Tables keep what they have unless it is constant. With ``placeholders`` (a model whose weights
    are constants, as files without trained weights have) gains become 1, biases and shifts 0, and
    running statistics a mean of 0 and a variance of 1. Raises UsageError for bad settings.
    """
    settings.check()
    if settings.name == "keep":
        return {}
    scheme = SCHEMES[settings.name]
    new: dict[str, Array] = {}
    for p in parameters:
        old = values[p.name]
        rng = np.random.default_rng([seed, zlib.crc32(p.name.encode())])
        if p.scalable and p.tied_to is None:
            if p.kind not in _TABLES and p.fan_in and p.fan_out:
                new[p.name] = _draw(p, scheme, settings, rng)
            elif is_constant(old):
                deviation = settings.std or STANDARD_DEVIATION
                new[p.name] = rng.standard_normal(old.shape, np.float32) * np.float32(deviation)
        elif scheme.clears_biases and p.kind == "bias" and p.trainable:
            new[p.name] = np.zeros(old.shape, np.float32)
        elif placeholders and is_constant(old):
            neutral = _NEUTRAL.get(p.kind)
            if p.kind == "running statistic":
                neutral = 1.0 if "variance" in p.reason else 0.0
            if neutral is not None:
                new[p.name] = np.full(old.shape, neutral, np.float32)
    for p in parameters:
        if p.tied_to in new:
            source = new[p.tied_to]
            new[p.name] = source if source.shape == p.shape else np.ascontiguousarray(source.T)
    return new


def _draw(p: Parameter, scheme: Scheme, settings: Settings, rng: np.random.Generator) -> Array:
    assert p.fan_in and p.fan_out
    given = settings.std if settings.std is not None else settings.gain
    factor = given if given is not None else scheme.gain
    if factor is None or isinstance(factor, str):
        found = gain(p.gain_activation, p.gain_slope)
        factor = scheme.otherwise if found is None else found
    kernel = p.kind == "convolution kernel"
    layer = Layer(p.shape, p.fan_in, p.fan_out, p.stacked, kernel, p.groups)
    return scheme.draw(layer, rng, factor)
