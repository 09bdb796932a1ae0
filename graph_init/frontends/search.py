"""Finding an array among tensors by its content, in another arrangement or in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from graph_init.frontends import Tensor
from graph_init.frontends.arrangement import Expression, Order, Rows, Run, Stack, Whole
from graph_init.frontends.content import fingerprint, same
from graph_init.ir import Array

#: Axes of a tensor whose orders are all tried.
_MAX_RANK = 5
#: Pieces that an initializer may consist of.
_MAX_PIECES = 256


@dataclass
class Finder:
    """Finds arrays among ``tensors`` by content."""

    tensors: Sequence[Tensor]
    _sums: dict[tuple[int, Any], tuple[int, int]] = field(default_factory=dict)
    _rows: dict[tuple[Any, int, int], dict[bytes, list[tuple[Tensor, int, int]]]] = field(
        default_factory=dict
    )

    def find(self, array: Array) -> Expression | None:
        """How ``array`` is made from tensors, or None."""
        whole = self._whole(array)
        if whole is not None:
            return whole
        shape = tuple(n for n in array.shape if n != 1)
        squeezed = array.reshape(shape)
        for axis in range(len(shape)):
            runs = self._runs(squeezed, axis)
            if runs is not None:
                return Rows(runs, shape, axis, array.shape)
        row = squeezed[None]  # all of it may be one row of a tensor
        if (runs := self._runs(row, 0)) is not None:
            return Rows(runs, row.shape, 0, array.shape)
        if array.ndim >= 2 and 1 < array.shape[0] <= _MAX_PIECES:
            parts: list[Expression] = []
            for part in array:
                found = self.find(part)
                if found is None:
                    return None
                parts.append(found)
            return Stack(tuple(parts), array.shape)
        return None

    def _whole(self, array: Array) -> Whole | None:
        wanted = fingerprint(array)
        for tensor in self.tensors:
            own = tensor.value
            if own.size != array.size or self._sum(tensor, array.dtype) != wanted:
                continue
            own = own.astype(array.dtype)
            for order in _orders(own.ndim):
                if same(own.transpose(order).reshape(array.shape), array):
                    return Whole(tensor, own.shape, order, array.shape)
            for order in _orders(array.ndim):
                before = tuple(array.shape[order.index(k)] for k in range(array.ndim))
                if same(own.reshape(before).transpose(order), array):
                    return Whole(tensor, before, order, array.shape)
        return None

    def _sum(self, tensor: Tensor, dtype: Any) -> tuple[int, int]:
        key = (id(tensor), dtype)
        if key not in self._sums:
            self._sums[key] = fingerprint(tensor.value.astype(dtype))
        return self._sums[key]

    def _runs(self, array: Array, axis: int) -> tuple[Run, ...] | None:
        """Runs of rows of tensors that together are the rows of ``array`` along ``axis``."""
        rows = _slices(array, axis)
        index = self._index(array.dtype, rows.shape[1], array.ndim)
        found = [index.get(row.tobytes()) for row in rows]
        if any(places is None for places in found):
            return None
        runs: list[Run] = []
        at = 0
        while at < len(found):
            places = {place: 1 for place in found[at] or ()}
            live = set(places)
            step = 1
            while live and at + step < len(found):
                following = set(found[at + step] or ())
                live = {p for p in live if (p[0], p[1], p[2] + step) in following}
                for place in live:
                    places[place] += 1
                step += 1
            (tensor, own_axis, start), length = max(places.items(), key=lambda item: item[1])
            shape = _run_shape(tensor.value, array.ndim)
            runs.append(Run(tensor, shape, axis=own_axis, start=start, stop=start + length))
            at += length
            if len(runs) > _MAX_PIECES:
                return None
        return tuple(runs)

    def _index(
        self, dtype: Any, width: int, rank: int
    ) -> dict[bytes, list[tuple[Tensor, int, int]]]:
        """Where each row of ``width`` elements is: (tensor, axis, number)."""
        key = (dtype, width, rank)
        if key not in self._rows:
            index: dict[bytes, list[tuple[Tensor, int, int]]] = {}
            for tensor in self.tensors:
                shape = _run_shape(tensor.value, rank)
                if len(shape) != rank or tensor.value.size < 2:
                    continue
                for axis, count in enumerate(shape):
                    if count and tensor.value.size // count == width:
                        own = tensor.value.reshape(shape).astype(dtype)
                        for number, row in enumerate(_slices(own, axis)):
                            index.setdefault(row.tobytes(), []).append((tensor, axis, number))
            self._rows[key] = index
        return self._rows[key]


def _run_shape(array: Array, rank: int) -> tuple[int, ...]:
    """The shape without ones, as long as that has the wanted rank."""
    shape = tuple(n for n in array.shape if n != 1)
    return shape if len(shape) == rank else array.shape


def _slices(array: Array, axis: int) -> Array:
    """The slices along ``axis``, one in each row."""
    moved = np.moveaxis(array, axis, 0)
    return np.ascontiguousarray(moved).reshape(array.shape[axis], -1)


def _orders(rank: int) -> Iterator[Order]:
    return permutations(range(rank)) if rank <= _MAX_RANK else iter([tuple(range(rank))])
