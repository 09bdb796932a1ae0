"""Rewriting models into the small set of primitives that can be differentiated repeatedly.

One file a family of operators; importing this package fills the tables in ``registry``.
"""

from graph_init.lowering import (
    accumulate,
    activation,
    control_flow,
    einsum,
    fourier,
    fused,
    gradient_ops,
    inverse,
    layout,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    sampling,
    scatter,
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
    "accumulate",
    "activation",
    "control_flow",
    "einsum",
    "fourier",
    "fused",
    "gradient_ops",
    "inverse",
    "layout",
    "linear",
    "lower_call",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
    "run",
    "sampling",
    "scatter",
    "sequence",
]
