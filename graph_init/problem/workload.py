"""From a loaded model and options to a workload: the model with its loss, and its batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from graph_init.analysis import Parameter
from graph_init.analysis.kinds import FLOATS
from graph_init.engine import memory
from graph_init.engine.choice import Engine, choose
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.problem import batches, data_files, forward_graph, streams
from graph_init.problem.loss import TARGET
from graph_init.problem.loss_choice import targets
from graph_init.problem.passes import GraphPass
from graph_init.problem.positive import positive_inputs
from graph_init.problem.signature import signature
from graph_init.sizes import Signature, inputs_of
from graph_init.sizes.unknowns import SUGGESTED, declared


@dataclass(frozen=True)
class Given:
    """What ``--data`` holds: the ``arrays`` of a file, or of an iterable's first batch.

    Those named in ``whole`` have no rows: every batch has all of them.
    """

    arrays: Mapping[str, Array]
    whole: frozenset[str] = frozenset()
    batches: Iterable[Any] | None = None

    @property
    def rows(self) -> int:
        """As many as every array has that has rows."""
        return rows_of(self.arrays, self.whole)


@dataclass(frozen=True)
class Workload:
    """A model with its loss and its batches, before anything is differentiated."""

    problem: forward_graph.Problem
    layout: batches.Layout
    source: streams.Source
    options: Options
    #: The inputs, as they are for a slice.
    signature: Signature
    #: Builds the problem again, with a pass over its nodes.
    rebuild: Callable[[GraphPass | None], forward_graph.Problem]
    #: What computes it.
    engine: Engine
    #: All rows of a file; None where the batches are random, or those of an iterable.
    rows: Mapping[str, Array] | None = None
    #: What each batch of a file has beside its rows.
    whole: Mapping[str, Array] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Rows of a whole batch, of all its slices."""
        return self.problem.batch_size * self.layout.count

    def notes(self) -> list[str]:
        """What was taken for the inputs that nobody asked for, in sentences."""
        drawn = [
            f"input '{name}' is drawn positive (|N(0,1)| + 0.01), since {why}; --data gives others"
            for name, why in self.layout.positive.items()
        ]
        return [*self.signature.notes(), *drawn]


def build(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    options: Options,
) -> Workload:
    """Lower the model for the batches that ``options`` asks for."""
    engine = choose(options.engine, options.device)
    options = replace(options, device=engine.device)
    if not any(p.trainable for p in parameters):
        raise UnsupportedModelError(
            f"the model has no trainable parameter{_largest(parameters)}; see `graph-init "
            "inspect`, and --trainable"
        )
    given = read(loaded, options.data)
    arrays = None if given is None else given.arrays
    names = _input_names(loaded)
    size = batch_rows(loaded, given, options)
    entire = fed_signature(loaded, options, given, size)
    count = _slice_count(loaded, options, entire)
    fed = entire if count == 1 else fed_signature(loaded, options, given, options.micro_batch)
    size = fed.rows if size is None else size // count
    settings = forward_graph.GraphSettings(
        signature=fed,
        loss=options.loss,
        output_names=_outputs(options, arrays),
        targets=targets(arrays or {}, TARGET),
        batch_norm=options.batch_norm,
    )

    def rebuild(graph_pass: GraphPass | None = None) -> forward_graph.Problem:
        return forward_graph.build(loaded, parameters, values, settings, graph_pass=graph_pass)

    problem = rebuild()
    own = (problem.builder, problem.inputs)
    positive = {} if given is not None else positive_inputs(*own)
    layout = batches.Layout(
        problem.inputs,
        problem.objective,
        problem.batched,
        count=count,
        positive=positive,
        written=batches.written_places(*own),
    )
    made = partial(
        Workload,
        problem=problem,
        layout=layout,
        options=options,
        signature=fed,
        rebuild=rebuild,
        engine=engine,
    )
    if given is None:
        return made(source=_random(problem, layout, options))
    assert size is not None
    rows = size * count
    if given.batches is not None:
        return made(source=_of_batches(problem, given, names, rows))
    # Before all rows are read, and given numbers.
    _require_batch(problem, layout, options, _NUMBERED * rows)
    checked = batches.check_arrays(
        given.arrays, problem.inputs, problem.objective, rows, whole=given.whole
    )
    whole = {n: checked.pop(n) for n in given.whole if n in checked}
    source = streams.of_rows(checked, rows, options.seed, whole)
    return made(source=source, rows=checked, whole=whole)


def _largest(parameters: Sequence[Parameter]) -> str:
    """What the largest table of a model is that has nothing else, for a message."""
    tables = [p for p in parameters if p.kind == "constant" and p.dtype in FLOATS and p.shape]
    if not tables:
        return ""
    largest = max(tables, key=lambda p: math.prod(p.shape))
    return f" (its largest tensor, '{largest.name}', is no weight: {largest.reason})"


def read(
    loaded: LoadedModel, data: data_files.Data | Given | None, limit: int | None = None
) -> Given | None:
    """What ``data`` holds; of an iterable the first batch is read, and all can be read again.

    ``limit``: bytes of memory that an archive's arrays may take.
    """
    if data is None or isinstance(data, Given):
        return data
    found = data_files.read(data, limit)
    if isinstance(found, Mapping):
        given = Given(found, without_rows(loaded, found))
    else:
        items = _Remembered(found) if iter(found) is found else found
        first = next(iter(items), None)
        if first is None:
            raise UsageError("--data holds no batch")
        arrays = data_files.as_batch(first, _input_names(loaded), TARGET)
        given = Given(arrays, without_rows(loaded, arrays), items)
    if not given.rows:
        raise UsageError("--data holds no rows")
    return given


def without_rows(loaded: LoadedModel, arrays: Mapping[str, Array]) -> frozenset[str]:
    """Those of ``arrays`` that are the same for every row: single numbers, states, tables.

    They are as long as the model declares the first axis of their input, while that of another
    input is free, or another input has as many rows as the target.
    """
    first = {}
    whole = {n for n, a in arrays.items() if not a.ndim}
    for value in inputs_of(loaded.ir):
        name, dims = value.name or "", declared(value)
        if name not in arrays or name in whole or value.shape is None:
            continue
        if dims:
            first[name] = dims[0] if isinstance(dims[0], int) else None
        else:
            whole.add(name)
    labels = {len(a) for n, a in arrays.items() if n.split(":")[0] == TARGET and a.ndim}
    free = any(size is None for size in first.values())
    agrees = any(len(arrays[n]) in labels for n in first)
    for name, size in first.items():
        fits = size == len(arrays[name])
        if fits and (free or (agrees and size not in labels)):
            whole.add(name)
    return frozenset(whole)


def rows_of(arrays: Mapping[str, Array], whole: frozenset[str]) -> int:
    """The least first axis of all arrays but those named in ``whole``; 0 if there is none."""
    return min((len(a) for n, a in arrays.items() if n not in whole), default=0)


class _Remembered:
    """An iterator that can be read again."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items, self._seen = items, list[Any]()

    def __iter__(self) -> Iterator[Any]:
        at = 0
        while True:
            if at == len(self._seen):
                try:
                    self._seen.append(next(self._items))
                except StopIteration:
                    return
            yield self._seen[at]
            at += 1


def _input_names(loaded: LoadedModel) -> list[str]:
    return [v.name for v in inputs_of(loaded.ir) if v.name]


def batch_rows(loaded: LoadedModel, given: Given | None, options: Options) -> int | None:
    """Rows of a whole batch, where the options or the data say how many."""
    if given is None:
        return options.batch_size
    if options.whole_file or given.batches is not None:
        return given.rows
    names = given.arrays.keys() - given.whole
    fixed = fixed_batch(loaded, names)
    size = options.batch_size or (SUGGESTED["rows"] if fixed is None else fixed[1])
    return min(size, given.rows)


def _outputs(options: Options, arrays: Mapping[str, Array] | None) -> Sequence[str]:
    """The outputs whose losses are added: those named, else those that the data has targets for."""
    given = options.output_name
    if given:
        return [given] if isinstance(given, str) else list(given)
    prefix = f"{TARGET}:"
    return [k[len(prefix) :] for k in arrays or () if k.startswith(prefix)]


#: Bytes for the number of a row, while the rows are shuffled and split.
_NUMBERED = 32


def _require_batch(
    problem: forward_graph.Problem, layout: batches.Layout, options: Options, more: int = 0
) -> None:
    """MemoryLimitError unless the arrays of a whole batch, and ``more`` bytes, fit into memory."""
    values = (v for v in [*problem.inputs, *problem.objective.targets])
    needed = 4 * sum(math.prod(layout.shape(v)) for v in values) + more
    other = "data of fewer rows" if more else "smaller sizes with --dim"
    memory.require(needed, options.memory_limit, [memory.FEWER_ROWS, other])


def _random(
    problem: forward_graph.Problem, layout: batches.Layout, options: Options
) -> streams.Source:
    _require_batch(problem, layout, options)
    ranges = batches.index_ranges(problem.builder, problem.inputs)
    return streams.random(layout, ranges, options.seed)


def _of_batches(
    problem: forward_graph.Problem, given: Given, names: Sequence[str], rows: int
) -> streams.Source:
    """Those batches of an iterable that have ``rows`` rows."""

    def check(item: Any) -> dict[str, Array] | None:
        arrays = data_files.as_batch(item, names, TARGET)
        if rows_of(arrays, given.whole) < rows:
            return None
        return batches.check_arrays(
            arrays, problem.inputs, problem.objective, rows, whole=given.whole
        )

    assert given.batches is not None
    return streams.of_batches(given.batches, check)


def _slice_count(loaded: LoadedModel, options: Options, entire: Signature) -> int:
    """Into how many slices --micro-batch cuts a batch."""
    fixed = fixed_batch(loaded)
    micro, rows = options.micro_batch, entire.rows or (1 if fixed is None else fixed[1])
    if micro is None or micro >= rows:
        return 1
    if rows % micro:
        divisors = [str(d) for d in range(1, rows) if rows % d == 0]
        raise UsageError(
            f"--micro-batch {micro} does not divide the batch of {rows}; choose one of "
            + ", ".join(divisors)
        )
    why = uncut(loaded, options, entire)
    if why is not None:
        raise UsageError(f"--micro-batch: {why}")
    return rows // micro


def uncut(loaded: LoadedModel, options: Options, entire: Signature) -> str | None:
    """Why a batch cannot be done in slices; None if it can."""
    if options.batch_norm == "train":
        return (
            "with --batch-norm train the statistics are the whole batch's, and slices have others; "
            "omit --micro-batch or --batch-norm train"
        )
    for value in inputs_of(loaded.ir):
        name, dims = value.name or "", entire.axes[value.name or ""]
        if name in entire.across:
            return (
                f"input '{name}' has the rows of the batch along another axis than the first, and "
                "slices are cut along the first"
            )
        if dims and name not in entire.batched and name not in entire.values:
            return (
                f"input '{name}' has the fixed batch size {dims[0].size}; export the model with "
                "a dynamic batch"
            )
    return None


def fixed_batch(loaded: LoadedModel, names: Container[str] | None = None) -> tuple[str, int] | None:
    """The first input (of ``names``) whose first axis has a size in the model, and that size."""
    for value in inputs_of(loaded.ir):
        name, dims = value.name or "", declared(value)
        if dims and isinstance(dims[0], int) and (names is None or name in names):
            return name, dims[0]
    return None


def fed_signature(
    loaded: LoadedModel, options: Options, given: Given | None, rows: int | None
) -> Signature:
    """The inputs for a batch of ``rows``."""
    if given is None:
        return signature(loaded, options, rows=rows)
    return signature(loaded, options, given.arrays, rows=rows, whole=given.whole)
