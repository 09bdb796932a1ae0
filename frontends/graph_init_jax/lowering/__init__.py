"""A jaxpr as ONNX nodes.

A jaxpr is closed under few primitives, each with shapes that are known; a table of rules
(``registry.RULES``, a file for each family) turns each into nodes. What depends on neither a
parameter nor an input is computed by JAX itself on the way, so that index arithmetic, masks and
loop counters leave no trace, and loops whose course they decide are unrolled.
"""

from __future__ import annotations

from graph_init_jax.lowering import elementwise, indexing, layout, linear, pooling, reduction
from graph_init_jax.lowering.graph import CONSTANT, Graph, Value, known, onnx_type
from graph_init_jax.lowering.interpreter import Interpreter
from graph_init_jax.lowering.registry import RULES

__all__ = ["CONSTANT", "RULES", "Graph", "Interpreter", "Value", "known", "onnx_type"]

#: The files whose rules `RULES` has.
FAMILIES = (elementwise, indexing, layout, linear, pooling, reduction)
