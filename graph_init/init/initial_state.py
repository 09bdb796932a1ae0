"""The weights that tuning or training starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.analysis import Parameter
from graph_init.errors import UnsupportedModelError
from graph_init.init import lsuv, schemes
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.options import InitialWeights
from graph_init.problem import forward_graph
from graph_init.problem.workload import Workload


@dataclass(frozen=True)
class InitialState:
    """``values`` holds every initializer, ``filled`` those of them that the scheme changed.

    ``workload`` is the model with its loss and batches, built for these values.
    """

    values: dict[str, Array]
    filled: dict[str, Array]
    workload: Workload


def fill(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    weights: InitialWeights,
    *,
    seed: int,
    prepare: Callable[[Mapping[str, Array]], Workload],
    base: Mapping[str, Array] | None = None,
) -> InitialState:
    """The weights under a scheme; UnsupportedModelError if ``keep`` would keep constants.

    ``prepare`` gives the workload of given values, on whose first batch LSUV divides the weights.
    ``base`` are the values in place of the model's own.
    """
    values = forward_graph.initial_values(loaded) | dict(base or {})
    constant = schemes.constant_weights(parameters, values)
    if weights.scheme == "keep" and constant:
        raise UnsupportedModelError(
            f"the weights of '{constant[0]}' are all equal"
            + (f" (and of {len(constant) - 1} more tensors)" if len(constant) > 1 else "")
            + ", and a change of their norm leaves them equal; fill them first with --scheme he"
        )
    filled = schemes.fill(parameters, values, weights, seed, placeholders=bool(constant))
    filled = {n: np.ascontiguousarray(v, np.float32) for n, v in filled.items()}
    values |= filled
    workload = prepare(values)
    if weights.scheme == "lsuv":
        for n, factor in lsuv.factors(workload, parameters, values).items():
            filled[n] = values[n] = values[n] * np.float32(factor)
    return InitialState(values, filled, workload)
