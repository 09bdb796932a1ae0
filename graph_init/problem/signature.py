"""What options and data say of a model's inputs, and the signature that follows from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from graph_init import sizes
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.sizes import steering
from graph_init.sizes.unknowns import declared


def signature(
    loaded: LoadedModel,
    options: Options,
    arrays: Mapping[str, Array] | None = None,
    rows: int | None = None,
    whole: Collection[str] = (),
) -> sizes.Signature:
    """The inputs of ``loaded`` for batches of ``rows`` (None: left open) of ``arrays``.

    Those named in ``whole`` have no rows: every batch has all of them.

    Raises:
        UsageError: An option or the data contradict the file.
        UnsupportedModelError: No sizes were found under which the model is valid.
    """
    shapes, given = {}, {}
    for value in sizes.inputs_of(loaded.ir):
        name = value.name or ""
        array = (arrays or {}).get(name)
        if array is None:
            continue
        if not declared(value):
            # A single number, also as a list of one; another is refused with all arrays.
            if array.size == 1 and steering.steers(value):
                given[name] = np.asarray(array).reshape(())
            continue
        by_row = rows is not None and array.ndim > 0 and name not in whole
        shapes[name] = (rows, *array.shape[1:]) if by_row and rows else array.shape
        if steering.steers(value):
            given[name] = np.asarray(array)[:rows] if by_row else np.asarray(array)
    request = sizes.Request(
        dims=options.dims or {},
        rows=rows,
        shapes=shapes,
        values={k: np.asarray(v) for k, v in (options.input or {}).items()},
        given=given,
        start={} if loaded.fed is None else loaded.fed.opens,
        steered={} if loaded.fed is None else loaded.fed.values,
    )
    if request.key not in loaded.solved:
        loaded.solved[request.key] = sizes.solve(loaded.ir, request)
    found: sizes.Signature = loaded.solved[request.key]
    return found
