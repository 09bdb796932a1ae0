"""The edges and nodes of a static graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from graph_init.errors import UnsupportedModelError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: The opset of every graph that is built here, whatever the file's: every engine reads it, and what
#: the primitives mean has not changed since.
OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
#: The domain of our own operators, of which there is one: StopGradient is the identity and has no
#: derivative. :meth:`Builder.program` erases it, so that no engine sees it.
GRAPH_INIT = "graph_init"
STOP_GRADIENT = "StopGradient"

FLOATS: frozenset[int] = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)


@dataclass(eq=False, slots=True)
class Value:
    """One edge of the graph: element type (``TensorProto.DataType``), shape if static, constant."""

    name: str
    dtype: int
    shape: Shape | None
    const: Array | None = None
    node: Node | None = None
    requires_grad: bool = False  # depends on a trainable parameter through a float path

    @property
    def dims(self) -> Shape:
        """The static shape; an error that names the value where there is none."""
        if self.shape is None:
            maker = f" (made by {self.node.op})" if self.node else ""
            raise UnsupportedModelError(
                f"the shape of '{self.name}'{maker} depends on the data, so the model cannot be "
                "differentiated; export it with static shapes or fix the sizes with --dim"
            )
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(eq=False, slots=True)
class Node:
    """One operator call. Absent optional inputs and outputs are ``None``."""

    op: str
    domain: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attrs: dict[str, Any]
    source_node: str = ""  # name of the user's node that this comes from

    @property
    def label(self) -> str:
        return f"node '{self.source_node}' ({self.op})" if self.source_node else f"a node {self.op}"


class Site(NamedTuple):
    """Where a node of a finished graph comes from: what an engine's failure is told with.

    ``source_node`` and ``source_op`` are the user's; the latter is empty for what this program has
    added.
    """

    op: str
    source_node: str
    source_op: str
    shapes: tuple[Shape | None, ...]

    @property
    def label(self) -> str:
        if not self.source_op:
            return f"a node of the loss or of the derivatives ({self.op})"
        inside = "" if self.op == self.source_op else f", in its {self.op},"
        return f"node '{self.source_node}' ({self.source_op}){inside}"


def sources(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Operator and name of the user's node, by the names of the nodes of ``Builder.model``."""
    found = {}
    for node in model.graph.node:
        operator, _, name = node.doc_string.partition(" ")
        if name:
            found[node.name] = (operator, name)
    return found


def all_equal(array: Array) -> bool:
    """Whether no two elements differ; so it is where there are fewer than two. NaN differs."""
    if array.size < 2:
        return True
    flat = array.reshape(-1)
    return bool(flat[-1] == flat[0]) and bool((flat == flat[0]).all())


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which ``shapes`` broadcast together (numpy's rule)."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError as error:
        if "too large" not in str(error):
            raise
        raise UnsupportedModelError(
            f"the shapes {', '.join(map(str, shapes))} broadcast to a tensor that is larger than "
            "any memory; give smaller sizes with --dim or --batch-size"
        ) from error


#: Operators whose result does not change with small changes of their inputs, or is no float. Of
#: MaxPool and TopK only the indices are read where derivatives are wanted; ReduceMax is left only
#: as a shift that cancels.
ZERO_DERIVATIVE = frozenset(
    "StopGradient Hardmax MaxPool ReduceMax TopK "
    "Sign Floor Ceil Round Shape Size ConstantOfShape EyeLike OneHot ArgMax ArgMin NonZero "
    "RandomNormalLike RandomUniformLike Bernoulli Multinomial BroadcastGradientArgs "
    "Greater Less GreaterOrEqual LessOrEqual Equal Not And Or Xor IsNaN IsInf".split()
)
