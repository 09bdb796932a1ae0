"""Estimates the time and memory of a node over constants, before it is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import numpy_helper

MAX_FOLDED_ELEMENTS = 2**28
"""Largest number of elements that a computed weight may have to be folded."""

_MAX_PRODUCTS = 2**30
"""Multiplications of a matrix product that is folded."""

_MAX_SMALL = 2**14
"""Elements, in and out together, of an operator of which the cost is not known to be linear."""

_VALUES_READ = 4096  # elements of an input of which shape inference is told the values

#: The reference implementation takes time and memory in proportion to what goes in and out.
_LINEAR = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot "
    "BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat ConstantOfShape Cos Cosh CumSum "
    "DequantizeLinear Div Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements "
    "GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Log Max Mean Min Mod "
    "Mul Neg Not Or Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax "
    "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Shape Sigmoid "
    "Sign Sin Sinh Size Slice Softmax Split Sqrt Squeeze Sub Sum Tan Tanh Tile Transpose Trilu "
    "Unsqueeze Where Xor".split()
)
#: These give at most as much as goes in; how much depends on the values.
_SMALLER = frozenset({"Compress", "NonZero", "Unique"})
#: Texts may grow without any shape saying so, or take exponential time to match.
_NEVER = frozenset(
    "LabelEncoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer".split()
)


def is_bounded(node: onnx.NodeProto, feeds: Sequence[np.ndarray | None], opset: int) -> bool:
    """Whether ``node`` on ``feeds`` takes bounded time and memory, as far as can be told."""
    op = node.op_type
    if op in _NEVER:
        return False
    given = sum(array.size for array in feeds if array is not None)
    if op in _SMALLER:
        return given <= MAX_FOLDED_ELEMENTS
    made = _result_size(node, feeds, opset)
    if made is None or made > MAX_FOLDED_ELEMENTS:
        return False
    if op in _PRODUCTS:
        return _PRODUCTS[op](feeds, made) <= _MAX_PRODUCTS
    return op in _LINEAR or given + made <= _MAX_SMALL


def _result_size(
    node: onnx.NodeProto, feeds: Sequence[np.ndarray | None], opset: int
) -> int | None:
    """Elements of all outputs, by shape inference; None if it cannot tell."""
    counted = _COUNTS.get(node.op_type)
    if counted is not None:
        return counted(feeds)
    named = {n: a for n, a in zip(node.input, feeds, strict=True) if n and a is not None}
    try:
        types = {
            name: onnx.helper.make_tensor_type_proto(
                onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in named.items()
        }
        values = {
            name: numpy_helper.from_array(array)
            for name, array in named.items()
            if array.size <= _VALUES_READ and array.dtype.kind != "O"
        }
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset, ""),
            node,
            types,
            values,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
            ir_version=10,
        )
    except Exception:  # of many kinds: the node is not valid, or not known
        return None
    total = 0
    for name in filter(None, node.output):
        kind = found.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            return None
        total += math.prod(dim.dim_value for dim in dims)
    return total


def _of_expand(feeds: Sequence[np.ndarray | None]) -> int | None:
    data, shape = (*feeds, None, None)[:2]
    if data is None or shape is None:
        return None
    wanted = [int(dim) for dim in shape.ravel()]
    own = [1] * (len(wanted) - data.ndim) + list(data.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    return math.prod(max(pair) for pair in zip(own, wanted, strict=True))


def _of_tile(feeds: Sequence[np.ndarray | None]) -> int | None:
    data, repeats = (*feeds, None, None)[:2]
    if data is None or repeats is None:
        return None
    return data.size * math.prod(max(int(count), 1) for count in repeats.ravel())


def _of_range(feeds: Sequence[np.ndarray | None]) -> int | None:
    if len(feeds) != 3 or any(array is None or array.size != 1 for array in feeds):
        return None
    start, limit, step = (float(a.ravel()[0]) for a in feeds if a is not None)
    if step == 0 or not all(map(math.isfinite, (start, limit, step))):
        return None
    return max(math.ceil((limit - start) / step), 0)


#: Counted here, where shape inference cannot tell or where its integers could overflow.
_COUNTS: dict[str, Callable[[Sequence[np.ndarray | None]], int | None]] = {
    "Expand": _of_expand,
    "Tile": _of_tile,
    "Range": _of_range,
}


def _products(feeds: Sequence[np.ndarray | None], made: int) -> int:
    first = feeds[0]
    return made * max(first.shape, default=1) if first is not None else 0


_PRODUCTS: dict[str, Callable[[Sequence[Any], int], int]] = dict.fromkeys(
    ("Gemm", "MatMul"), _products
)
