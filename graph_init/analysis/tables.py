"""Tables of signal processing and geometry, told from weights by their numbers.

Each rule holds of what is computed by a formula, to the rounding of a float, and of no trained or
random tensor: a filter bank's rows are non-negative and rise and fall once, sines of equidistant
phases follow a recurrence, windows and low-pass kernels are symmetric. Orthogonality is no rule:
schemes draw orthogonal weights. Names are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graph_init.analysis import kinds
from graph_init.analysis.fans import Use

Floats = npt.NDArray[np.float64]

#: Elements on an axis that are looked at: neighbours decide.
_ROWS, _COLUMNS = 512, 256
#: Filter banks and kernels of more elements are not looked for.
_LARGEST = 1 << 22
#: Rows, or pairs of rows, from which on a recurrence or an envelope says something.
_FEWEST = 6
#: Share of its second differences that a recurrence leaves unexplained.
_UNEXPLAINED = 0.005
#: How far a symmetric tensor may differ from its mirror image, and an envelope from another, as a
#: share of the largest element: float16 rounds to 5e-4.
_MIRROR, _ENVELOPE = 1e-3, 1e-2
#: What is as small a share of the largest element is no part of a kernel.
_REMAINS = 1e-9


def words(tensor: ir.TensorProtocol | None, use: Use) -> str | None:
    """What fixed table a tensor is, in words; None where nothing speaks for one."""
    if tensor is None or use.kind in kinds.NEVER_TRAINED or tensor.size < 4:
        return None
    array = tensor.numpy()
    squeezed = array.reshape([n for n in array.shape if n != 1])
    for form, rules in (
        (_as_matrix(squeezed, use.kind), _of_kind(_MATRICES, use.kind)),
        (_as_vector(squeezed), _of_kind(_VECTORS, use.kind)),
        (_as_kernels(array, use.kind), [_low_pass]),
    ):
        for rule in rules:
            found = None if form is None else rule(form)
            if found is not None:
                return f"{found}, {use.words}"
    return None


def _finite(array: npt.NDArray[np.generic]) -> Floats | None:
    with np.errstate(all="ignore"):
        values = array.astype(np.float64)
    return values if np.isfinite(values).all() else None


def _as_matrix(array: npt.NDArray[np.generic], kind: str) -> Floats | None:
    """Two axes; a kernel over images is none, and neither is a position table of several axes."""
    if array.ndim == 3 and kind in kinds.TABLES:
        array = array.reshape(-1, array.shape[-1])
    if array.ndim != 2 or min(array.shape) < 2:
        return None
    if array.size > _LARGEST:
        array = array[:_ROWS, :_ROWS]
    return _finite(array)


def _as_vector(array: npt.NDArray[np.generic]) -> Floats | None:
    return _finite(array) if array.ndim == 1 and array.size <= _LARGEST else None


def _as_kernels(array: npt.NDArray[np.generic], kind: str) -> Floats | None:
    """(kernels, *sizes above 1) of a convolution in which each reads a single channel."""
    if kind != "convolution kernel" or array.ndim < 3 or array.shape[1] != 1:
        return None
    sizes = [n for n in array.shape[2:] if n != 1]
    kernels = _finite(array.reshape(array.shape[0], *sizes))
    if kernels is None or kernels.ndim != 2:
        return kernels
    # A formula that is cut off leaves remains of rounding at the ends, more of them at one of them.
    filled = np.flatnonzero(np.abs(kernels).max(axis=0) > _REMAINS * np.abs(kernels).max())
    return kernels[:, filled[0] : filled[-1] + 1] if len(filled) else kernels


# -- matrices ------------------------------------------------------------------------------------


def _filter_bank(matrix: Floats) -> str | None:
    """Filters over frequencies, by rows or columns: non-negative, one hump each, in order."""
    if matrix.min() < 0 or np.count_nonzero(matrix) > matrix.size / 2:
        return None
    for bank in (matrix, matrix.T):
        filters = bank[bank.max(axis=1) > 0]
        if len(filters) < 4 or 2 * len(filters) < len(bank) or bank.shape[1] < len(bank):
            continue
        peaks = filters.argmax(axis=1)
        steps = np.diff(filters, axis=1)
        rising = np.arange(steps.shape[1]) < peaks[:, None]
        slack = 1e-5 * filters.max(axis=1, keepdims=True)
        hump = np.where(rising, steps >= -slack, steps <= slack).all(axis=1)
        widths = np.count_nonzero(filters, axis=1)
        # An identity, and one-hot rows, have humps of one element.
        if hump.mean() >= 0.98 and (np.diff(peaks) >= 0).all() and np.mean(widths >= 3) >= 0.25:
            return f"a bank of {len(filters)} filters (non-negative, one hump each, in order)"
    return None


def _sines(matrix: Floats) -> str | None:
    """Sines of equidistant phases, in whatever window, by rows or columns."""
    for rows in (matrix, matrix.T):
        for parts in (
            (rows,),
            (rows[: len(rows) // 2], rows[len(rows) // 2 :]),
            (rows[::2], rows[1::2]),
        ):
            if all(len(part) >= _FEWEST and _recurs(part) for part in parts):
                return "a table of sines of equidistant phases"
    return None


def _recurs(rows: Floats) -> bool:
    """Whether row k+1 plus row k−1 is row k times 2 cos θ, with a θ for each column.

    cos(kθ + φ) and its multiples do so, for all k. Compared is with the second differences of the
    rows, since those of all that is smooth are small. The first row and the last may be scaled
    otherwise, as in the orthonormal DCT.
    """
    rows = rows[:_ROWS, :: max(1, rows.shape[1] // _COLUMNS)]
    rows = rows[1:-1] if len(rows) >= _FEWEST + 2 else rows
    before, at, after = rows[:-2], rows[1:-1], rows[2:]
    squares = (at**2).sum(axis=0)
    seen = squares > 1e-12 * squares.max(initial=0.0)
    if seen.sum() < 4:
        return False
    both, at, squares = (before + after)[:, seen], at[:, seen], squares[seen]
    factor = (both * at).sum(axis=0) / squares
    second = ((both - 2 * at) ** 2).sum()
    left = ((both - factor * at) ** 2).sum()
    oscillates = second > 1e-6 * squares.sum() and bool((np.abs(factor) < 2.02).all())
    return oscillates and factor.std() > 0.02 and bool(left < _UNEXPLAINED**2 * second)


def _circles(matrix: Floats) -> str | None:
    """Pairs of rows, or columns, whose squares add up to one window, the same for all pairs."""
    for rows in (matrix, matrix.T):
        half = len(rows) // 2
        if half < _FEWEST or len(rows) % 2 or rows.shape[1] < _FEWEST:
            continue
        # Of two values, such as ±1, all sums are alike.
        if len(np.unique(np.abs(rows[:8]).round(6))) <= 8:
            continue
        for first, second in ((rows[:half], rows[half:]), (rows[::2], rows[1::2])):
            window = first**2 + second**2
            size = window.sum(axis=1, keepdims=True)
            # A window of few elements is a kernel that copies one.
            if (size == 0).any() or np.count_nonzero(window[0] > 0.01 * window[0].max()) < _FEWEST:
                continue
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            overlap = np.abs((first * second).sum(axis=1)) / np.maximum(lengths, 1e-30)
            if np.median(overlap) > 0.3:  # copies of one row have one square as well
                continue
            window = window / size
            if np.abs(window - window[0]).max() < _ENVELOPE * window[0].max():
                return f"a table of {half} sines and cosines in one window"
    return None


def _grid(matrix: Floats) -> str | None:
    """Coordinates: going down a column, steps of a few sizes alone."""
    rows = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    if len(rows) < 16 or rows.shape[1] > 8 or not all(_few_steps(c) for c in rows.T):
        return None
    if not any(len(np.unique(c.round(6))) >= 4 for c in rows.T):
        return None
    return "a grid of coordinates or anchors (a few sizes of steps)"


def _few_steps(column: Floats) -> bool:
    largest = np.abs(column).max() or 1.0
    return len(np.unique(np.diff(column / largest).round(5))) <= max(4, len(column) // 50)


# -- vectors and kernels -------------------------------------------------------------------------


def _mirrored(array: Floats) -> bool:
    """Whether it is its own mirror image along its last axis."""
    return bool(np.abs(array - array[..., ::-1]).max() <= _MIRROR * np.abs(array).max())


def _window(vector: Floats) -> str | None:
    """A window: symmetric or periodic, smooth, rising to its middle and falling."""
    vector = np.trim_zeros(vector)  # filled up to the length of a transform
    if len(vector) < 8 or vector.max() <= 0 or vector.min() < -0.01 * vector.max():
        return None
    for whole in (vector, vector[1:]):  # a periodic window lacks its last element
        rise = whole[: (len(whole) + 1) // 2]
        rises = bool((np.diff(rise) >= -0.01 * vector.max()).all())
        if _mirrored(whole) and rises and rise[-1] - rise[0] > 0.1 * vector.max():
            return f"a window of {len(vector)} elements (symmetric, smooth)"
    return None


def _ramp(vector: Floats) -> str | None:
    """Numbers at one distance from each other."""
    steps = np.diff(vector)
    if len(vector) < 8 or not steps[0] or np.abs(steps - steps[0]).max() > 1e-4 * abs(steps[0]):
        return None
    return f"{len(vector)} numbers at one distance"


def _low_pass(kernels: Floats) -> str | None:
    """Kernels that blur or resample: one for all channels and symmetric, or phases of such one."""
    largest = np.abs(kernels).max()
    axes = range(1, kernels.ndim)
    if kernels.ndim < 2 or not largest or kernels[0].size < 3 or np.ptp(kernels) < 0.01 * largest:
        return None
    alike = np.abs(kernels - kernels[0]).max() <= _MIRROR * largest
    total = kernels.reshape(len(kernels), -1).sum(axis=1)
    if total[0] <= 0.5 * np.abs(kernels[0]).sum():
        return None
    sides = all(np.abs(kernels - np.flip(kernels, k)).max() <= _MIRROR * largest for k in axes)
    if alike and sides:
        return "a symmetric low-pass kernel, one for all channels"
    even = kernels.ndim == 2 and len(kernels) > 1 and np.ptp(total) < 0.02 * total[0]
    if even and _are_phases(kernels):
        return f"{len(kernels)} phases of a symmetric low-pass kernel"
    return None


def _are_phases(kernels: Floats) -> bool:
    """Whether each kernel, read backwards, is a shift of another: phases p and −p of one filter."""
    if len(kernels) > 64 or kernels.shape[1] < 6:
        return False
    padded = np.pad(kernels, ((0, 0), (0, kernels.shape[1])))
    spectra = np.fft.rfft(padded, axis=1)
    norms = np.linalg.norm(kernels, axis=1)
    if not norms.all():
        return False
    # The product of two spectra is that of one kernel with another read backwards.
    best = [
        max(
            np.fft.irfft(mine * other, padded.shape[1]).max() / (n * m)
            for other, m in zip(spectra, norms, strict=True)
        )
        for mine, n in zip(spectra, norms, strict=True)
    ]
    return bool(min(best) > 0.999)


Rule = Callable[[Floats], str | None]

_ANY_TABLE = kinds.TABLES | {"embedding"}
_MATRICES: tuple[tuple[Rule, frozenset[str]], ...] = (
    (_filter_bank, frozenset({"matrix", "convolution kernel"})),
    (_sines, frozenset({"matrix", "convolution kernel"}) | _ANY_TABLE),
    (_circles, frozenset({"matrix", "convolution kernel"}) | _ANY_TABLE),
    (_grid, kinds.TABLES),
)
_LINES = frozenset({"gain", "bias", "other", "position", "token", "norm gain", "norm shift"})
_VECTORS: tuple[tuple[Rule, frozenset[str]], ...] = ((_window, _LINES), (_ramp, _LINES))


def _of_kind(rules: tuple[tuple[Rule, frozenset[str]], ...], kind: str) -> list[Rule]:
    return [rule for rule, kinds_of_rule in rules if kind in kinds_of_rule]
