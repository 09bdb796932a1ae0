"""Static graphs: every stage after loading builds its result with one :class:`Builder`.

A :class:`Builder` is an append-only list of ONNX nodes in which the shape and element type of every
value are known when the value is made. Because they are known, three things happen while building
instead of in passes of their own: nodes over constants are evaluated, a node that already exists is
returned instead of built again, and a few identities (``x + 0``, a reshape to the same shape, two
transposes in a row …) are dropped. Lowering, the gradient's clean-up and the tangent transform are
all interpreters that walk one list of nodes and call :meth:`Builder.op`.
"""

from graph_init.ir.builder import Builder, Program
from graph_init.ir.folding import evaluate
from graph_init.ir.forms import Form
from graph_init.ir.moments import variance
from graph_init.ir.order import topological
from graph_init.ir.values import (
    FLOATS,
    GRAPH_INIT,
    IR_VERSION,
    MICROSOFT,
    OPSET,
    STOP_GRADIENT,
    ZERO_DERIVATIVE,
    Array,
    Node,
    Shape,
    Site,
    Value,
    all_equal,
    broadcast,
    sources,
)

__all__ = [
    "FLOATS",
    "GRAPH_INIT",
    "IR_VERSION",
    "MICROSOFT",
    "OPSET",
    "STOP_GRADIENT",
    "ZERO_DERIVATIVE",
    "Array",
    "Builder",
    "Form",
    "Node",
    "Program",
    "Shape",
    "Site",
    "Value",
    "all_equal",
    "broadcast",
    "evaluate",
    "sources",
    "topological",
    "variance",
]
