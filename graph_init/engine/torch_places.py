"""Gathers, scatters and the transposes of gathers, by PyTorch.

Where ONNX allows it, an index below 0 counts from the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: The attribute ``reduction`` → what PyTorch calls it.
_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _from_start(index: Tensor, size: int) -> Tensor:
    return torch.where(index < 0, index + size, index)


def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    flat = _from_start(index.reshape(-1), x.shape[axis])
    found = x.index_select(axis, flat)
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_grad(shape: Sequence[int], index: Tensor, dy: Tensor, *, axis: int = 0) -> Tensor:
    """The transpose of a gather: zeros of ``shape``, to whose slices those of ``dy`` are added."""
    axis %= len(shape)
    lead, size, tail = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    flat = _from_start(index.reshape(-1), size)
    total = dy.new_zeros((lead, size, tail))
    total.index_add_(1, flat, dy.reshape(lead, flat.numel(), tail))
    return total.reshape(tuple(shape))


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _from_start(index.long(), x.shape[axis]))


def gather_elements_grad(
    dy: Tensor, shape: Sequence[int], index: Tensor, *, axis: int = 0
) -> Tensor:
    return scatter_elements(dy.new_zeros(tuple(shape)), index, dy, axis=axis, reduction="add")


def scatter_elements(
    x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    places = _from_start(index.long(), x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    if reduction == "add":
        return x.scatter_add(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction], include_self=True)


def _flat(index: Tensor, inner: Sequence[int]) -> Tensor:
    """(…, r) as places (…,) in a tensor of the sizes ``inner`` (r numbers) that is one row."""
    total = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for k, size in enumerate(inner):
        places = index[..., k]
        if places.numel() and bool(((places < -size) | (places >= size)).any()):
            raise IndexError(f"an index is out of range for an axis of size {size}")
        total = total * size + _from_start(places, size)
    return total


def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    depth = index.shape[-1]
    lead, inner = x.shape[:batch_dims], x.shape[batch_dims : batch_dims + depth]
    rest = x.shape[batch_dims + depth :]
    found = _rows(x, batch_dims, depth).index_select(0, _places(index, lead, inner).reshape(-1))
    return found.reshape(*index.shape[:-1], *rest)


def gather_nd_grad(
    shape: Sequence[int], index: Tensor, dy: Tensor, *, batch_dims: int = 0
) -> Tensor:
    depth = index.shape[-1]
    lead, inner = shape[:batch_dims], shape[batch_dims : batch_dims + depth]
    total = _rows(dy.new_zeros(tuple(shape)), batch_dims, depth)
    places = _places(index, lead, inner).reshape(-1)
    total.index_add_(0, places, dy.reshape(places.numel(), total.shape[1]))
    return total.reshape(tuple(shape))


def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    depth = index.shape[-1]
    rows = _rows(x, 0, depth)
    places = _flat(index, x.shape[:depth]).reshape(-1)
    given = updates.reshape(places.numel(), rows.shape[1])
    if reduction == "none":
        found = rows.index_copy(0, places, given)
    elif reduction == "add":
        found = rows.index_add(0, places, given)
    else:
        found = rows.index_reduce(0, places, given, _REDUCTIONS[reduction], include_self=True)
    return found.reshape(x.shape)


def _rows(x: Tensor, lead: int, depth: int) -> Tensor:
    """A row for each place that an index of ``depth`` numbers behind ``lead`` axes can name."""
    return x.reshape(math.prod(x.shape[: lead + depth]), math.prod(x.shape[lead + depth :]))


def _places(index: Tensor, lead: Sequence[int], inner: Sequence[int]) -> Tensor:
    """The row that each index names, of the shape of ``index`` without its last axis."""
    batches = math.prod(lead)
    base = torch.arange(batches, device=index.device) * math.prod(inner)
    found = _flat(index, inner)
    return found.reshape(batches, -1) + base.reshape(-1, 1) if batches else found
