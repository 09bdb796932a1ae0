"""What tensors contain, compared bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graph_init.frontends import Tensor
from graph_init.ir import Array


def dtype_of(value: ir.Value) -> Any:
    """NumPy's element type of an initializer."""
    assert value.const_value is not None
    return value.const_value.dtype.numpy()


def array_of(value: ir.Value) -> Array:
    """The numbers of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def equal(tensor: Tensor, value: ir.Value) -> bool:
    """Whether an initializer holds a tensor: the same shape and numbers."""
    assert value.const_value is not None
    if tuple(tensor.value.shape) != tuple(value.const_value.shape):
        return False
    array = array_of(value)
    return same(tensor.value.astype(array.dtype), array)


def same(a: Array, b: Array) -> bool:
    """The same shape and bytes."""
    if a.shape != b.shape:
        return False
    return np.array_equal(_bits(a), _bits(b))


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def fingerprint(array: Array) -> tuple[int, int]:
    """The same for all arrangements of the same numbers."""
    bits = _bits(array).astype(np.uint64).ravel()
    return int(bits.sum(dtype=np.uint64)), int((bits * bits).sum(dtype=np.uint64))
