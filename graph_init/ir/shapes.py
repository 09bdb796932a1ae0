"""Element types and shapes of operators' results: our rules for the primitives, else ONNX's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_init.ir.values import IR_VERSION, OPSET, Shape, Value, broadcast

Type = tuple[int, Shape | None]
_Rule = Callable[[Sequence[Any], dict[str, Any]], list[Type]]


def _same(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[0].dtype, ins[0].shape)]


def _elementwise(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[0].dtype, broadcast(*(v.dims for v in ins)))]


def _compare(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(TensorProto.BOOL, broadcast(*(v.dims for v in ins)))]


def _where(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(ins[1].dtype, broadcast(*(v.dims for v in ins)))]


def _transpose(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    x = ins[0]
    perm = attrs.get("perm") or range(x.rank)[::-1]
    return [(x.dtype, tuple(x.dims[p] for p in perm))]


def _matmul(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    a, b = ins[0].dims, ins[1].dims
    if len(a) < 2 or len(b) < 2:
        return [(ins[0].dtype, np.matmul(np.empty(a, np.bool_), np.empty(b, np.bool_)).shape)]
    if attrs.get("transBatchA"):
        a = (*a[1:-1], a[0], a[-1])
    if attrs.get("transBatchB"):
        b = (*b[1:-1], b[0], b[-1])
    if attrs.get("transA"):
        a = (*a[:-2], a[-1], a[-2])
    if attrs.get("transB"):
        b = (*b[:-2], b[-1], b[-2])
    if a[-1] != b[-2]:
        raise ValueError(f"the first matrix has {a[-1]} columns, the second {b[-2]} rows")
    return [(ins[0].dtype, (*broadcast(a[:-2], b[:-2]), a[-2], b[-1]))]


def reduce_sum_type(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    """The type of a ReduceSum, whose axes are an input."""
    x = ins[0]
    if len(ins) > 1 and ins[1] is not None:
        if ins[1].const is None:
            return [(x.dtype, None)]
        axes = {int(a) % max(x.rank, 1) for a in ins[1].const.ravel()}
    else:
        axes = set()
    if not axes and not attrs.get("noop_with_empty_axes"):
        axes = set(range(x.rank))
    if attrs.get("keepdims", 1):
        return [(x.dtype, tuple(1 if i in axes else d for i, d in enumerate(x.dims)))]
    return [(x.dtype, tuple(d for i, d in enumerate(x.dims) if i not in axes))]


def reshape_type(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    """The type of a Reshape, in whose target 0 copies a size and −1 stands for the rest."""
    x, shape = ins[0], ins[1].const
    if shape is None:
        return [(x.dtype, None)]
    dims = [int(d) for d in shape]
    if not attrs.get("allowzero"):
        dims = [x.dims[i] if d == 0 else d for i, d in enumerate(dims)]
    if -1 in dims:
        rest = math.prod(d for d in dims if d != -1)
        dims[dims.index(-1)] = x.size // max(rest, 1)
    return [(x.dtype, tuple(dims))]


def expand_type(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    """The type of an Expand."""
    if ins[1].const is None:
        return [(ins[0].dtype, None)]
    return [(ins[0].dtype, broadcast(ins[0].dims, tuple(int(d) for d in ins[1].const)))]


def _concat(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    first = ins[0].dims
    axis = attrs["axis"] % len(first)
    beside = {(*v.dims[:axis], *v.dims[axis + 1 :]) for v in ins}
    if len(beside) > 1:
        raise ValueError(f"they are joined along axis {axis}, but differ along another one")
    total = sum(v.dims[axis] for v in ins)
    return [(ins[0].dtype, (*first[:axis], total, *first[axis + 1 :]))]


def _gather(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    axis = attrs.get("axis", 0) % ins[0].rank
    x, i = ins[0].dims, ins[1].dims
    return [(ins[0].dtype, (*x[:axis], *i, *x[axis + 1 :]))]


def _gather_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if ins[0].const is None:
        return [(ins[2].dtype, None)]
    return [(ins[2].dtype, tuple(int(d) for d in ins[0].const))]


def _gather_elements_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    if ins[1].const is None:
        return [(ins[0].dtype, None)]
    return [(ins[0].dtype, tuple(int(d) for d in ins[1].const))]


def _conv_grad(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    dy, x, w = ins
    return [(dy.dtype, x.shape), (dy.dtype, w.shape), (dy.dtype, (w.dims[0],))]


def _broadcast_args(ins: Sequence[Any], attrs: dict[str, Any]) -> list[Type]:
    return [(TensorProto.INT64, None), (TensorProto.INT64, None)]


_TYPE_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        "Identity Neg Exp Log Sqrt Reciprocal Sigmoid Tanh Erf Sin Cos Abs Relu Sign Softmax "
        "LogSoftmax Not Floor Ceil Gelu StopGradient".split(),
        _same,
    ),
    **dict.fromkeys("Add Sub Mul Div Pow Max Min And Or".split(), _elementwise),
    **dict.fromkeys("Equal Greater Less GreaterOrEqual LessOrEqual".split(), _compare),
    "Cast": lambda ins, attrs: [(attrs["to"], ins[0].shape)],
    "Where": _where,
    "Transpose": _transpose,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "ReduceSum": reduce_sum_type,
    "Reshape": reshape_type,
    "Expand": expand_type,
    "Concat": _concat,
    "Gather": _gather,
    "GatherGrad": _gather_grad,
    "GatherNDGrad": _gather_grad,
    "GatherElementsGrad": _gather_elements_grad,
    "ConvGrad": _conv_grad,
    "BroadcastGradientArgs": _broadcast_args,
    "Shape": lambda ins, attrs: [
        (TensorProto.INT64, None if ins[0].shape is None else (ins[0].rank,))
    ],
    "Size": lambda ins, attrs: [(TensorProto.INT64, ())],
}


def infer(
    op: str, domain: str, ins: Sequence[Value | None], count: int, attrs: dict[str, Any]
) -> list[Type]:
    """Element types and shapes of a node's outputs (shape ``None``: not known statically)."""
    rule = _TYPE_RULES.get(op)
    if rule is not None and all(v is None or v.shape is not None for v in ins):
        return rule(ins, attrs)
    return _infer_by_schema(op, domain, ins, count=count, attrs=attrs)


def _infer_by_schema(
    op: str, domain: str, ins: Sequence[Value | None], count: int, attrs: dict[str, Any]
) -> list[Type]:
    first = next((v for v in ins if v is not None), None)
    unknown: list[Type] = [(first.dtype if first else TensorProto.FLOAT, None)] * count
    if domain not in ("", "ai.onnx") or not onnx.defs.has(op, ""):
        return unknown
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(ins)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(count)])
    node.attribute.extend(
        helper.make_attribute(k, v) for k, v in attrs.items() if v is not None and k[0] != "_"
    )
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(op, OPSET, ""),
            node,
            {
                f"i{k}": helper.make_tensor_type_proto(v.dtype, v.shape)
                for k, v in enumerate(ins)
                if v is not None
            },
            {
                f"i{k}": numpy_helper.from_array(v.const)
                for k, v in enumerate(ins)
                if v is not None and v.const is not None and v.const.size <= 4096
            },
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        onnx.defs.SchemaError,
        RuntimeError,
    ):
        return unknown
    types: list[Type] = []
    for k in range(count):
        proto = found.get(f"o{k}")
        if proto is None or not proto.HasField("tensor_type"):
            types.append((unknown[0][0], None))
            continue
        tensor = proto.tensor_type
        dims = list(tensor.shape.dim)
        static = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
        types.append(
            (
                tensor.elem_type or unknown[0][0],
                tuple(d.dim_value for d in dims) if static else None,
            )
        )
    return types
