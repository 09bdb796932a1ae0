"""Softmax and LogSoftmax that files write out in simpler nodes, found in the lowered graph.

TensorFlow's and JAX's exporters write exp(x − max x) / Σ exp(x − max x) in five nodes and more.
What is subtracted before Exp changes neither function, so that nothing is asked of it.
"""

from __future__ import annotations

from graph_init.ir import Value

#: Nodes between a sum and what it divides, which repeat it along the axis that it was taken over.
_REPEATING = frozenset({"Reshape", "Expand", "Identity", "Unsqueeze"})


def softmax(value: Value) -> tuple[Value, int] | None:
    """(logits, class axis) if ``value`` is the softmax of some logits of its own shape."""
    over = _quotient(value)
    if over is None:
        return None
    exponential, total = over
    if exponential.node is None or exponential.node.op != "Exp":
        return None
    axis = _summed(total, exponential)
    logits = exponential.node.inputs[0]
    return None if axis is None or logits is None else (logits, axis)


def log_softmax(value: Value) -> tuple[Value, int] | None:
    """The same of x − log Σ exp(x)."""
    node = value.node
    if node is None or node.op != "Sub" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    logits, at = node.inputs[0], _before_repeating(node.inputs[1])
    if at.node is None or at.node.op != "Log" or at.node.inputs[0] is None:
        return None
    total = at.node.inputs[0]
    inner = _before_repeating(total)
    source = inner.node.inputs[0] if inner.node is not None and inner.node.inputs else None
    exponential = source.node if source is not None else None
    if source is None or exponential is None or exponential.op != "Exp":
        return None
    axis = _summed(total, source, node.inputs[1])
    return None if axis is None or exponential.inputs[0] is not logits else (logits, axis)


def _quotient(value: Value) -> tuple[Value, Value] | None:
    """(a, b) if ``value`` is a / b, or a · (1 / b)."""
    node = value.node
    if node is None or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if node.op == "Div":
        return left, right
    if node.op == "Mul":
        for a, b in ((left, right), (right, left)):
            if b.node is not None and b.node.op == "Reciprocal" and b.node.inputs[0] is not None:
                return a, b.node.inputs[0]
    return None


def _summed(total: Value, exponential: Value, shown: Value | None = None) -> int | None:
    """The one axis over which ``total`` is the sum of ``exponential``, and along which it repeats.

    ``shown`` is what is divided by, or subtracted, where that follows from ``total``.
    """
    at = _before_repeating(total)
    if at.node is None or at.node.op != "ReduceSum" or at.node.inputs[0] is not exponential:
        return None
    shape = exponential.dims
    for axis in range(len(shape)):
        one = (*shape[:axis], 1, *shape[axis + 1 :])
        none = (*shape[:axis], *shape[axis + 1 :])
        if at.dims in (one, none) and _axes(at) == (axis,):
            met = (v.dims for start in (shown, total) for v in _chain(start))
            return axis if one in met else None
    return None


def _axes(value: Value) -> tuple[int, ...] | None:
    """The axes of a ReduceSum, counted from the first."""
    assert value.node is not None and value.node.inputs[0] is not None
    given = value.node.inputs[1] if len(value.node.inputs) > 1 else None
    rank = value.node.inputs[0].rank
    if given is None:
        return tuple(range(rank))
    if given.const is None:
        return None
    return tuple(int(axis) % rank for axis in given.const.reshape(-1))


def _chain(value: Value | None) -> list[Value]:
    """``value`` and what it repeats."""
    found = []
    while value is not None:
        found.append(value)
        node = value.node
        value = node.inputs[0] if node is not None and node.op in _REPEATING else None
    return found


def _before_repeating(value: Value) -> Value:
    return _chain(value)[-1]
