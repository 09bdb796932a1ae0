"""A model's weights before tuning: as they are, or as a scheme fills them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.analysis import Parameter
from graph_init.errors import UnsupportedModelError
from graph_init.init import lsuv, schemes
from graph_init.init.schemes import Settings
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.problem import forward_graph
from graph_init.problem.workload import Workload


@dataclass
class InitialState:
    """``values`` holds every initializer, ``filled`` those of them that the scheme changed."""

    settings: Settings
    parameters: Sequence[Parameter]
    values: dict[str, Array]
    filled: dict[str, Array]

    def finish(self, workload: Workload) -> None:
        """What needs the model to run: the second half of LSUV."""
        if self.settings.name != "lsuv":
            return
        for n, factor in lsuv.factors(workload, self.parameters, self.values).items():
            self.filled[n] = self.values[n] = self.values[n] * np.float32(factor)


def fill(
    loaded: LoadedModel, parameters: Sequence[Parameter], settings: Settings, seed: int
) -> InitialState:
    """The weights under a scheme; UnsupportedModelError if ``keep`` would keep constants."""
    settings.check()
    values = forward_graph.initial_values(loaded)
    constant = schemes.constant_weights(parameters, values)
    if settings.name == "keep" and constant:
        raise UnsupportedModelError(
            f"the weights of '{constant[0]}' are all equal"
            + (f" (and of {len(constant) - 1} more tensors)" if len(constant) > 1 else "")
            + ", so they have a norm but no direction to keep; fill them first with --scheme he"
        )
    filled = schemes.fill(parameters, values, settings, seed, placeholders=bool(constant))
    filled = {n: np.ascontiguousarray(v, np.float32) for n, v in filled.items()}
    values.update(filled)
    return InitialState(settings, parameters, values, filled)
