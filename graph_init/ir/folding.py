"""Evaluating nodes over constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from graph_init.ir.shapes import Type
from graph_init.ir.values import GRAPH_INIT, OPSET, STOP_GRADIENT, Array, Shape, Value, broadcast

#: Results larger than this many elements stay nodes: folding them would only fatten the graph.
_FOLD_LIMIT = 1 << 22


def _broadcast_gradient_axes(a: Shape, b: Shape) -> tuple[Array, Array]:
    rank = max(len(a), len(b))
    wide = broadcast(a, b)
    axes = []
    for shape in (a, b):
        padded = (1,) * (rank - len(shape)) + shape
        missing = rank - len(shape)
        axes.append([i for i in range(rank) if i < missing or (padded[i] == 1 and wide[i] != 1)])
    return np.asarray(axes[0], np.int64), np.asarray(axes[1], np.int64)


def fold(
    op: str, domain: str, ins: Sequence[Value | None], types: Sequence[Type], attrs: dict[str, Any]
) -> list[Array] | None:
    """The outputs' values when they do not depend on any graph input."""
    first = ins[0] if ins else None
    if op == "Shape" and first is not None and first.shape is not None:
        end = attrs.get("end")
        return [np.asarray(first.shape[attrs.get("start", 0) : end], np.int64)]
    if op == "Size" and first is not None and first.shape is not None:
        return [np.asarray(first.size, np.int64)]
    if any(v is not None and v.const is None for v in ins) or not ins:
        return None
    values = [None if v is None else v.const for v in ins]
    if any(shape is not None and math.prod(shape) > _FOLD_LIMIT for _, shape in types):
        return None
    if op == STOP_GRADIENT and domain == GRAPH_INIT:
        return [np.asarray(values[0])]
    if op == "BroadcastGradientArgs":
        a, b = (tuple(int(d) for d in v) for v in values if v is not None)
        return list(_broadcast_gradient_axes(a, b))
    if domain not in ("", "ai.onnx"):
        return None
    if op == "Expand" and values[0] is not None and values[1] is not None:
        # A view: the many zeros that derivatives are made of take no memory.
        shape = broadcast(values[0].shape, tuple(int(d) for d in values[1]))
        return [np.broadcast_to(values[0], shape)]
    return evaluate(op, values, attrs, len(types))


def evaluate(
    op: str,
    values: Sequence[Array | None],
    attrs: Mapping[str, Any],
    count: int,
    *,
    opset: int = OPSET,
) -> list[Array] | None:
    """Run one standard operator on constants with ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    names = [f"i{k}" if v is not None else "" for k, v in enumerate(values)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(count)])
    node.attribute.extend(
        helper.make_attribute(k, v) for k, v in attrs.items() if v is not None and k[0] != "_"
    )
    graph = helper.make_graph(
        [node],
        "fold",
        [
            helper.make_tensor_value_info(
                f"i{k}", helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
            )
            for k, v in enumerate(values)
            if v is not None
        ],
        [helper.make_empty_tensor_value_info(f"o{k}") for k in range(count)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(
                None, {f"i{k}": v for k, v in enumerate(values) if v is not None}
            )
    except Exception:  # an operator the reference cannot run simply stays a node
        return None
    return [np.asarray(r) for r in results]
