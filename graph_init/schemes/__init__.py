"""Schemes: what the weights are before tuning. One entry a scheme, from fans to a deviation.

Each tensor is drawn from a stream of its own, seeded by the seed and the tensor's name, so that the
result does not depend on the order of the tensors.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from graph_init.builder import Array
from graph_init.errors import UsageError
from graph_init.parameters import Parameter

#: (fan-in, fan-out) → standard deviation of a normal distribution.
#: he: He et al. 2015, equation 10. xavier: Glorot and Bengio 2010, equation 12.
DEVIATIONS: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, fan_out: math.sqrt(2.0 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out)),
}
NAMES = ("keep", *DEVIATIONS)

#: Deviation of tables and tokens (GPT-2's), which have no fans in this sense.
_TABLE_DEVIATION = 0.02
_TABLES = frozenset({"embedding", "position", "token", "other"})

#: What a placeholder of these kinds becomes.
_NEUTRAL = {
    "norm gain": 1.0,
    "gain": 1.0,
    "norm shift": 0.0,
    "bias": 0.0,
}


def is_constant(array: Array) -> bool:
    """Whether the tensor has more than one element and all are equal."""
    return array.size > 1 and bool((array == array.flat[0]).all())


def constant_weights(parameters: Sequence[Parameter], values: Mapping[str, Array]) -> list[str]:
    """Names of scalable tensors without a direction: all their elements are equal."""
    return [p.name for p in parameters if p.scalable and is_constant(values[p.name])]


def fill(
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    scheme: str,
    seed: int,
    *,
    placeholders: bool = False,
) -> dict[str, Array]:
    """New float32 values for the scalable tensors under ``scheme``; nothing for ``keep``.

    Tables keep what they have unless it is constant. With ``placeholders`` (a model whose weights
    are constants, as files without trained weights have) gains become 1, biases and shifts 0, and
    running statistics a mean of 0 and a variance of 1. Raises UsageError for an unknown scheme.
    """
    if scheme not in NAMES:
        near = get_close_matches(scheme, NAMES, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"--scheme {scheme}: choose one of {', '.join(NAMES)}{hint}")
    if scheme == "keep":
        return {}
    new: dict[str, Array] = {}
    for p in parameters:
        old = values[p.name]
        if p.scalable and p.tied_to is None:
            if p.kind in _TABLES or p.fan_in is None or p.fan_out is None:
                if not is_constant(old):
                    continue
                deviation = _TABLE_DEVIATION
            else:
                deviation = DEVIATIONS[scheme](p.fan_in, p.fan_out)
            rng = np.random.default_rng([seed, zlib.crc32(p.name.encode())])
            new[p.name] = rng.standard_normal(old.shape, dtype=np.float32) * np.float32(deviation)
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
