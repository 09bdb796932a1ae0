"""Rewriting models into the small set of primitives that can be differentiated repeatedly.

One file a family of operators; importing this package fills the tables in ``registry``.
"""

from graph_init.lowering import (
    activation,
    gradient_ops,
    layout,
    linear,
    normalization,
    pooling,
    reduction,
    sequence,
)
from graph_init.lowering.registry import (
    GRADIENT_RULES,
    PRIMITIVES,
    RULES,
    Call,
    Context,
    lower_call,
    run,
)

__all__ = [
    "GRADIENT_RULES",
    "PRIMITIVES",
    "RULES",
    "Call",
    "Context",
    "activation",
    "gradient_ops",
    "layout",
    "linear",
    "lower_call",
    "normalization",
    "pooling",
    "reduction",
    "run",
    "sequence",
]
