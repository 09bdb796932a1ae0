"""The numbers of one tensor, by which rules judge it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graph_init.ir import Array

#: Of larger tensors the moments are taken on so many elements, in blocks over the whole.
_SAMPLE = 1 << 19
_BLOCKS = 64
#: Sides of the part of a matrix of which the rank is looked at, and rows that are compared.
_SIDE = 192
_ROWS = 4096
_TINY = float(np.finfo(np.float32).tiny)

NORMAL, UNIFORM, TRUNCATED, ORTHOGONAL, OTHER = (
    "normal",
    "uniform",
    "truncated",
    "orthogonal",
    "other",
)


@dataclass(frozen=True)
class Statistics:
    """Moments and counts of a tensor's finite elements.

    Attributes:
        size: number of elements.
        nonfinite: elements that are infinite or NaN.
        subnormal: share of the elements that are not zero but below the smallest normal float32.
        zeros: share of elements that are zero.
        rms: root mean square.
        mean: of the elements.
        kurtosis: E[x⁴]/E[x²]²; 3 for a normal distribution, 1.8 for a uniform one.
        largest: the largest magnitude.
        smallest: the least element, with its sign.
        at_limit: share of the elements whose magnitude is the largest one.
        is_constant: whether it has two elements or more and all are equal.
        family: what the elements look drawn from.
    """

    size: int
    nonfinite: int
    subnormal: float = 0.0
    zeros: float = 0.0
    rms: float = 0.0
    mean: float = 0.0
    kurtosis: float = 0.0
    largest: float = 0.0
    smallest: float = 0.0
    at_limit: float = 0.0
    is_constant: bool = False
    family: str = OTHER

    @property
    def uncertainty(self) -> float:
        """Standard error of log rms, if the elements were drawn independently."""
        return math.sqrt(max(self.kurtosis - 1, 0.2) / (4 * max(self.size, 1)))


def statistics(array: Array) -> Statistics:
    """Of any float array."""
    flat = array.reshape(-1)
    good = np.isfinite(flat)
    finite = flat if good.all() else flat[good]
    bad = flat.size - finite.size
    if not finite.size:
        return Statistics(flat.size, bad)
    least, most = float(finite.min()), float(finite.max())
    largest = max(abs(least), abs(most))
    sample = _sampled(finite).astype(np.float64)
    # Squares of the largest float32 numbers overflow.
    unit = largest or 1.0
    squares = np.square(sample / unit)
    square = float(squares.mean())
    kurtosis = float(np.square(squares).mean()) / square**2 if square else 0.0
    magnitude = np.abs(sample)
    rms = math.sqrt(square) * unit
    is_constant = flat.size > 1 and least == most and not bad
    return Statistics(
        size=flat.size,
        nonfinite=bad,
        subnormal=float(((magnitude > 0) & (magnitude < _TINY)).mean()),
        zeros=float((magnitude == 0).mean()),
        rms=rms,
        mean=float(sample.mean()),
        kurtosis=kurtosis,
        largest=largest,
        smallest=least,
        at_limit=float((magnitude >= largest * (1 - 1e-6)).mean()),
        is_constant=is_constant,
        family=_family(array, kurtosis, largest / rms if rms else 0.0),
    )


def _sampled(flat: Array) -> Array:
    if flat.size <= _SAMPLE:
        return flat
    length = _SAMPLE // _BLOCKS
    starts = np.linspace(0, flat.size - length, _BLOCKS).astype(int)
    return np.concatenate([flat[s : s + length] for s in starts])


#: A normal distribution that is cut at two of its standard deviations has one of 0.8796 of them.
TRUNCATED_STD = 0.8796
#: From so many elements on a distribution can be told.
_TOLD = 64


def _family(array: Array, kurtosis: float, reach: float) -> str:
    """``reach``: the largest magnitude over the root mean square."""
    if array.size < _TOLD:
        return OTHER
    if is_orthogonal(array):
        return ORTHOGONAL
    noise = 1 / math.sqrt(array.size)
    if reach <= math.sqrt(3) * (1 + 2 * noise) and abs(kurtosis - 1.8) <= 0.1 + 3 * noise:
        return UNIFORM
    if reach <= 2 / TRUNCATED_STD * (1 + 3 * noise) and abs(kurtosis - 2.37) <= 0.1 + 6 * noise:
        return TRUNCATED
    if 2.6 - 20 * noise <= kurtosis <= 3.4 + 40 * noise:
        return NORMAL
    return OTHER


def is_orthogonal(array: Array) -> bool:
    """Whether the rows of the matrix (the first axis by the others), or its columns, are."""
    if array.ndim < 2 or not np.isfinite(array.reshape(-1)[:1]).all():
        return False
    matrix = array.reshape(len(array), -1)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if len(short) < 2:
        return False
    rows = short[:32].astype(np.float64)
    gram = rows @ rows.T
    size = float(np.trace(gram)) / len(rows)
    return bool(size > 0 and np.allclose(gram, size * np.eye(len(rows)), atol=1e-3 * size))


def missing_rank(array: Array) -> float:
    """Share of the rank that a part of the matrix lacks: 0 if it is full, near 1 if it has none."""
    matrix = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    part = matrix[:_SIDE, :_SIDE].astype(np.float64)
    if min(part.shape) < 4:
        return 0.0
    singular = np.linalg.svd(part, compute_uv=False)
    if not singular[0]:
        return 0.0
    return 1 - np.count_nonzero(singular > 1e-5 * singular[0]) / len(singular)


def equal_rows(array: Array) -> int:
    """How many rows of the first axis, that are not zero, are copies of another one."""
    if array.ndim < 2 or len(array) < 2:
        return 0
    rows = np.ascontiguousarray(array.reshape(len(array), -1)[:_ROWS])
    rows = rows[np.any(rows != 0, axis=1)]
    if rows.shape[1] < 2:
        return 0
    return len(rows) - len({row.tobytes() for row in rows})
