"""Finds batches that fit into memory and half a minute where the requested ones do not.

What the user has left open is chosen: a batch in slices, which gives the whole batch's numbers, or,
where neither an option nor the model nor the data fix the batch, one of fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from graph_init.engine import memory
from graph_init.errors import GraphInitError, MemoryLimitError
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.problem import workload
from graph_init.sizes import Signature

T = TypeVar("T")

#: Multiplications of layers in a forward pass of a batch that nobody asked for. A measurement is
#: about 27 such passes, and two cores do some ten billion of them in a second: half a minute.
MOST_WORK = 12_000_000_000


@dataclass(frozen=True)
class _Choice:
    """Options under which ``at_once`` rows are computed at a time; ``words`` say what was taken."""

    options: Options
    at_once: int
    sliced: bool = False
    words: str = ""


def fitted(
    loaded: LoadedModel, options: Options, attempt: Callable[[Options], T]
) -> tuple[T, list[str]]:
    """What ``attempt`` makes of ``options``, or of the largest batch that fits; and what was taken.

    Raises MemoryLimitError if not even one row at a time does.
    """
    options = replace(options, data=workload.read(loaded, options.data, options.memory_limit))
    options, notes = _affordable(loaded, options)
    rows = _rows(loaded, options)
    refusals: list[MemoryLimitError] = []
    smallest: dict[bool, tuple[int, MemoryLimitError]] = {}
    for choice in _choices(loaded, options):
        if choice.sliced in smallest and choice.at_once > 1:
            least, error = smallest[choice.sliced]
            # With what does not depend on the rows it needs more than its share.
            if error.needed * choice.at_once > error.room * least:
                continue
        try:
            made = attempt(choice.options)
        except MemoryLimitError as error:
            refusals.append(error)
            smallest[choice.sliced] = choice.at_once, error
        except GraphInitError:
            if not refusals:
                raise  # else this model cannot be cut so: some node names the size of the batch
        else:
            if not refusals:
                return made, notes
            first = refusals[0].measure.replace("this needs", f"{rows} rows at once need", 1)
            return made, [*notes, f"{first}; {choice.words}"]
    if len(refusals) == 1:
        raise _with_what_helps(loaded, options, refusals[0])
    raise memory.refusal_of_one_row(refusals)


def _affordable(loaded: LoadedModel, options: Options) -> tuple[Options, list[str]]:
    """``options`` with fewer rows, where nothing says how many and the usual ones take long."""
    whole = _whole(loaded, options)
    if options.batch_size is not None or options.data is not None or not whole.any_rows:
        return options, []
    rows = taken = whole.rows or 1
    while taken > 1 and whole.work * taken > MOST_WORK * rows:
        taken //= 2
    if taken == rows or options.micro_batch is not None:
        return options, []
    words = (
        f"{rows} rows take {whole.work / 1e9:.0f} billion multiplications in each forward pass; "
        f"batches of fewer rows are used (--batch-size {taken})"
    )
    return replace(options, batch_size=taken), [words]


def _with_what_helps(
    loaded: LoadedModel, options: Options, refusal: MemoryLimitError
) -> MemoryLimitError:
    """``refusal`` without advice that this model refuses."""
    if workload.uncut(loaded, options, _whole(loaded, options)) is None:
        return refusal
    if workload.fixed_batch(loaded) is None:
        return memory.refusal_of_whole_batch(refusal, [memory.SLICES], [])
    closed = [memory.SLICES, memory.FEWER_ROWS]
    return memory.refusal_of_whole_batch(refusal, closed, ["a model with a dynamic batch"])


def _choices(loaded: LoadedModel, options: Options) -> Iterator[_Choice]:
    """``options``, and then others with fewer and fewer rows at a time."""
    given, rows = workload.read(loaded, options.data), _rows(loaded, options)
    yield _Choice(options, rows)
    if options.micro_batch is not None or _names_batch(loaded, options):
        return
    whole = _whole(loaded, options)
    slices = [] if workload.uncut(loaded, options, whole) else _divisors(rows)
    free = options.batch_size is None and (
        given is None or not (options.whole_file or given.batches is not None)
    )
    halves = [rows >> k for k in range(1, rows.bit_length())] if free else []
    for at_once in sorted({*slices, *halves}, reverse=True):
        if at_once in slices:
            words = f"the batch of {rows} rows is computed in slices (--micro-batch {at_once})"
            yield _Choice(replace(options, micro_batch=at_once), at_once, True, words)
        if at_once in halves:
            words = f"batches of fewer rows are used (--batch-size {at_once})"
            yield _Choice(replace(options, batch_size=at_once), at_once, False, words)


def _rows(loaded: LoadedModel, options: Options) -> int:
    """Those of a batch, as far as options and data say it."""
    given = workload.read(loaded, options.data)
    return workload.batch_rows(loaded, given, options) or _whole(loaded, options).rows or 1


def _whole(loaded: LoadedModel, options: Options) -> Signature:
    """The inputs as they are for a whole batch."""
    given = workload.read(loaded, options.data)
    rows = workload.batch_rows(loaded, given, options)
    return workload.fed_signature(loaded, options, given, rows)


def _names_batch(loaded: LoadedModel, options: Options) -> bool:
    """Whether the model or ``--dim`` fixes how many rows a batch has."""
    whole = _whole(loaded, options)
    rows = whole.rows
    if rows is None:
        return True
    asked = options.batch_size is not None or options.data is not None
    return not (whole.any_rows or asked)


def _divisors(rows: int) -> list[int]:
    """Divisors of ``rows`` from the largest, each at most half of the one before."""
    found, at = [], rows
    while at > 1:
        at = next(d for d in range(at // 2, 0, -1) if rows % d == 0)
        found.append(at)
    return found
