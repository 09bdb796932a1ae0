"""New values for a model: into the framework's own at once, or to be written to a file later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graph_init.frontends.resolve import ResolvedModel
from graph_init.ir import Array
from graph_init.model.save import NewValue
from graph_init.model.scaled import Scaled


@dataclass(frozen=True)
class Written:
    """New values by initializer; and the framework's model with its own, if one was given."""

    values: Mapping[str, NewValue]
    updated: Any
    tensors: Mapping[str, Array]


def write(
    subject: ResolvedModel, factors: Mapping[str, float], filled: Mapping[str, Array]
) -> Written:
    """The new values, in the framework's model at once; a file is written when that is asked."""
    new: dict[str, NewValue] = {n: v for n, v in filled.items() if n not in factors}
    if subject.exported is None:
        new |= {n: Scaled(subject.loaded, n, f, filled.get(n)) for n, f in factors.items()}
        return Written(new, None, {})
    tensors = subject.new_values(factors, filled)
    new |= {n: tensors[n] for n in subject.owners if n in tensors}
    return Written(new, subject.write(tensors), tensors)
