"""The optimisers of training as graphs over one vector of all parameters.

Both are PyTorch's, with its defaults: ``torch.optim.SGD`` with momentum and ``torch.optim.Adam``
(Kingma and Ba 2015, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graph_init.ir import Array, Builder, Value

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8

#: Inputs of the update besides parameters and gradient.
RATE = "graph_init.learning_rate"
CORRECTIONS = "graph_init.bias_corrections"


@dataclass(frozen=True)
class Optimizer:
    """``update(b, θ, g, state)`` appends an update and returns the new θ and state.

    ``states`` vectors of θ's shape start at zero. ``rates`` are the learning rates that are tried
    by default.
    """

    states: int
    update: Callable[[Builder, Value, Value, tuple[Value, ...]], tuple[Value, ...]]
    rates: tuple[float, ...]


def _sgd(b: Builder, theta: Value, g: Value, state: tuple[Value, ...]) -> tuple[Value, ...]:
    """m ← μm + g, θ ← θ − ηm."""
    rate = b.input(RATE, theta.dtype, ())
    momentum = b.add(b.scale(state[0], MOMENTUM), g)
    return b.sub(theta, b.mul(momentum, rate)), momentum


def _adam(b: Builder, theta: Value, g: Value, state: tuple[Value, ...]) -> tuple[Value, ...]:
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², θ ← θ − η·m/c₁ / (√(v/c₂) + ε), cᵢ = 1 − βᵢᵗ."""
    rate = b.input(RATE, theta.dtype, ())
    inverse = b.input(CORRECTIONS, theta.dtype, (2,))  # 1/c₁ and 1/√c₂
    first = b.add(b.scale(state[0], BETAS[0]), b.scale(g, 1 - BETAS[0]))
    second = b.add(b.scale(state[1], BETAS[1]), b.scale(b.mul(g, g), 1 - BETAS[1]))
    c1, c2 = (b.op("Slice", inverse, b.ints([k]), b.ints([k + 1])) for k in range(2))
    length = b.add(b.mul(b.op("Sqrt", second), c2), b.scalar(EPSILON, theta))
    change = b.op("Div", b.mul(first, b.mul(c1, rate)), length)
    return b.sub(theta, change), first, second


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(1, _sgd, (0.003, 0.01, 0.03, 0.1, 0.3)),
    "adam": Optimizer(2, _adam, (0.0003, 0.001, 0.003, 0.01, 0.03)),
}


def bias_corrections(update: int) -> Array:
    """The input :data:`CORRECTIONS` of update number ``update``, which counts from 1."""
    c1, c2 = (1 - beta**update for beta in BETAS)
    return np.array([1 / c1, 1 / np.sqrt(c2)], np.float32)
