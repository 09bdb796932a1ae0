"""The table of rules, and what a rule is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graph_init.errors import UnsupportedModelError
from graph_init_jax.lowering.graph import Graph, Shape, Value

Rule = Callable[..., Any]

#: JAX's primitive -> a function of (graph, inputs, the equation's params, result).
RULES: dict[str, Rule] = {}

#: Primitives whose rule takes tensors that broadcast (see `Value`); others get them in full.
BROADCASTING: set[str] = set()


def rule(*primitives: str, broadcasting: bool = True) -> Callable[[Rule], Rule]:
    """Registers a function that adds the nodes of these primitives and returns their results."""

    def register(function: Rule) -> Rule:
        for name in primitives:
            RULES[name] = function
            if broadcasting:
                BROADCASTING.add(name)
        return function

    return register


@dataclass(frozen=True)
class Result:
    """What an equation of ``primitive`` has to give; ``where`` is its place in the user's code."""

    primitive: str
    shapes: Sequence[Shape]
    dtypes: Sequence[Any]
    where: str

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def dtype(self) -> Any:
        return self.dtypes[0]

    def refused(self, why: str = "") -> UnsupportedModelError:
        """The error for what cannot be exported."""
        what = f"JAX's '{self.primitive}'" + (f" {why}" if why else "")
        return UnsupportedModelError(
            f"{what} has no translation to ONNX; it is used in {self.where}"
        )


__all__ = ["BROADCASTING", "RULES", "Graph", "Result", "Rule", "Value", "rule"]
