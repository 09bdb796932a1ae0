"""Signs that a state has collapsed: what gradient deviation alone does not show.

Gradient deviation tends to 1 where gradients vanish (|g| ≪ ε, see ``deviation/taylor.py``), so a
low one may mean that nothing can be learnt any more. A network can also be cut: no signal reaches
its output, or no gradient one of its weights. Embeddings are left out, since the rows that a batch
does not read have no gradient in any state.
"""

from __future__ import annotations

from collections.abc import Sequence

from graph_init.deviation.result import EPSILON, ParameterMeasurement

#: Share of elements below ε from which on a gradient counts as vanished: the whole, a tensor's.
_MOSTLY, _WHOLLY = 0.5, 0.999
#: Below this standard deviation the output does not tell one input from another.
DEAD = 1e-3
#: So many tensors are named.
_NAMED = 3


def warnings(parameters: Sequence[ParameterMeasurement], output_std: float) -> list[str]:
    """Sentences, none if nothing looks collapsed.

    ``parameters`` are the rows of a measurement, ``output_std`` is the standard deviation
    of the output that the loss reads.
    """
    rows = [p for p in parameters if p.kind != "embedding"]
    elements = sum(p.elements for p in rows)
    vanished = sum(p.vanished_fraction * p.elements for p in rows)
    found = []
    if elements and vanished > _MOSTLY * elements:
        found.append(
            f"{vanished / elements:.0%} of the gradient is below {EPSILON:g}: deviation tends to 1 "
            "where gradients vanish, and says little here"
        )
    cut = [p.name for p in rows if p.scalable and p.vanished_fraction >= _WHOLLY]
    if cut:
        more = f" and {len(cut) - _NAMED} more" if len(cut) > _NAMED else ""
        found.append(f"no gradient reaches {', '.join(map(repr, cut[:_NAMED]))}{more}")
    if output_std < DEAD:
        found.append(
            f"the output's standard deviation is {output_std:.2g}: the signal dies on its way"
        )
    return found
