"""The gain of a nonlinearity: what keeps the signal's size through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from graph_init.ir import Array

_erf = np.vectorize(math.erf)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


#: The values of ``torch.nn.init.calculate_gain``. Its tanh is 5/3 by convention, its selu 3/4.
_CONVENTIONAL: Mapping[str, float] = {
    "Relu": math.sqrt(2.0),
    "Tanh": 5.0 / 3.0,
    "Selu": 3.0 / 4.0,
    "Sigmoid": 1.0,
}

#: Nonlinearities φ without a conventional value: the gain is E[φ(x)²]^(−1/2) for x of N(0,1), by
#: which the conventional one of Relu is found too (He et al. 2015, section 2.2).
_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "Elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Celu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "Silu": lambda x: x * _sigmoid(x),
    "Swish": lambda x: x * _sigmoid(x),
    "QuickGelu": lambda x: x * _sigmoid(1.702 * x),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Erf": _erf,
    "Sin": np.sin,
    "Abs": np.abs,
}
_SAME = {"FastGelu": "Gelu", "BiasGelu": "Gelu"}

_points = np.linspace(-12, 12, 4801)
_density = np.exp(-(_points**2) / 2) / math.sqrt(2 * math.pi) * (_points[1] - _points[0])


def _second_moment_gain(function: Callable[[Array], Array]) -> float:
    return float((function(_points) ** 2 * _density).sum() ** -0.5)


def gain(activation: str | None, slope: float | None = None) -> float | None:
    """The gain of the operator ``activation``, or None if it has none to speak of (Softmax).

    ``slope`` is that of LeakyRelu and PRelu for negative arguments.
    """
    if activation is None:
        return None
    activation = _SAME.get(activation, activation)
    if activation in ("LeakyRelu", "PRelu"):
        default = 0.01 if activation == "LeakyRelu" else 0.25
        return math.sqrt(2.0 / (1 + (default if slope is None else slope) ** 2))
    if activation in _CONVENTIONAL:
        return _CONVENTIONAL[activation]
    return _second_moment_gain(_FUNCTIONS[activation]) if activation in _FUNCTIONS else None
