"""From a loaded model and options to a workload: the model with its loss, and its batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from graph_init.analysis import Parameter
from graph_init.engine import memory
from graph_init.engine.session import require_device
from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.ir import Array
from graph_init.model.load import LoadedModel
from graph_init.problem import batches, data_files, forward_graph
from graph_init.problem.loss import TARGET

METHODS = ("taylor", "finite-difference")


@dataclass(frozen=True)
class Options:
    data: data_files.Data | None
    batch_size: int | None
    seed: int
    loss: str
    output_name: str | Sequence[str] | None
    dims: Mapping[str, int]
    batch_norm: str
    method: str
    whole_file: bool
    scale_gradient: bool
    micro_batch: int | None = None
    device: str = "cpu"
    difference_step: float | None = None
    memory_limit: int | None = None
    engine: str = "auto"


@dataclass(frozen=True)
class Workload:
    """A model with its loss and its batches, before anything is differentiated."""

    problem: forward_graph.Problem
    layout: batches.Layout
    source: batches.Source
    options: Options
    #: Builds the problem again, its nodes seen by a visitor.
    rebuild: Callable[[forward_graph.Visit | None], forward_graph.Problem]


def build(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: Mapping[str, Array],
    options: Options,
) -> Workload:
    """Lower the model for the batches that ``options`` asks for."""
    _check(options)
    if not any(p.trainable for p in parameters):
        raise UnsupportedModelError(
            "the model has no trainable parameter; see `graph-init inspect`, and --trainable"
        )
    given = None if options.data is None else data_files.read(options.data)
    initializers = loaded.ir.graph.initializers
    names = [v.name for v in loaded.ir.graph.inputs if v.name and v.name not in initializers]
    arrays: Mapping[str, Array] | None = None
    if isinstance(given, Mapping):
        arrays = given
    elif given is not None:
        first, given = _peek(given)
        arrays = data_files.as_batch(first, names, TARGET)
    size = options.batch_size
    if arrays is not None:
        rows = {k: v.shape[0] for k, v in arrays.items() if v.ndim}
        if not rows or min(rows.values()) == 0:
            raise UsageError("--data holds no rows")
        if options.whole_file or arrays is not given:
            size = min(rows.values())
        size = size or _fixed_batch(loaded, arrays)
        size = min(size or forward_graph.DEFAULT_BATCH, *rows.values())
    count = _slice_count(loaded, options, size or forward_graph.DEFAULT_BATCH)
    if count > 1:
        size = options.micro_batch
    input_sizes = None
    if arrays is not None:
        assert size is not None
        input_sizes = {n: (size, *arrays[n].shape[1:]) for n in names if n in arrays}
        _check_static(loaded, input_sizes)

    def rebuild(visit: forward_graph.Visit | None = None) -> forward_graph.Problem:
        return forward_graph.build(
            loaded,
            parameters,
            values,
            loss=options.loss,
            output_names=_outputs(options, arrays),
            dims=options.dims,
            batch_size=size,
            batch_norm=options.batch_norm,
            input_sizes=input_sizes,
            class_numbers={
                k: v.ndim
                for k, v in (arrays or {}).items()
                if k.split(":")[0] == TARGET and v.dtype.kind in "iu"
            },
            visit=visit,
        )

    problem = rebuild()
    layout = batches.Layout(problem.inputs, problem.objective, problem.batched, count)
    source = _source(problem, layout, given, names, options, size)
    return Workload(problem, layout, source, options, rebuild)


def _fixed_batch(loaded: LoadedModel, names: Iterable[str]) -> int | None:
    """The batch size of the first of these inputs that declares one."""
    wanted = set(names)
    for value in loaded.ir.graph.inputs:
        if value.name in wanted and value.shape and isinstance(value.shape[0], int):
            return value.shape[0]
    return None


def _peek(items: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first of the batches, and all of them."""
    reading = iter(items)
    for first in reading:
        return first, chain([first], reading) if reading is items else items
    raise UsageError("--data holds no batch")


def _outputs(options: Options, arrays: Mapping[str, Array] | None) -> Sequence[str]:
    """The outputs whose losses are added: those named, else those that the data has targets for."""
    given = options.output_name
    if given:
        return [given] if isinstance(given, str) else list(given)
    prefix = f"{TARGET}:"
    return [k[len(prefix) :] for k in arrays or () if k.startswith(prefix)]


def _source(
    problem: forward_graph.Problem,
    layout: batches.Layout,
    given: Mapping[str, Array] | Iterable[Any] | None,
    names: Sequence[str],
    options: Options,
    size: int | None,
) -> batches.Source:
    if given is None:
        drawn = (v for v in [*problem.inputs, *problem.objective.targets])
        needed = 4 * sum(math.prod(layout.shape(v)) for v in drawn)
        memory.require(needed, options.memory_limit, ["a smaller --batch-size", "a smaller --dim"])
        ranges = batches.index_ranges(problem.builder, problem.inputs)
        return batches.RandomBatches(layout, ranges, options.seed)
    assert size is not None
    rows = size * layout.count
    if isinstance(given, Mapping):
        checked = batches.check_arrays(given, problem.inputs, problem.objective, rows)
        return batches.FixedBatches(checked, rows, options.seed)

    def check(item: Any) -> dict[str, Array] | None:
        arrays = data_files.as_batch(item, names, TARGET)
        if min(len(a) for a in arrays.values()) < rows:
            return None
        return batches.check_arrays(arrays, problem.inputs, problem.objective, rows)

    return batches.StreamBatches(given, check)


def _check(options: Options) -> None:
    if options.method not in METHODS:
        raise UsageError(f"--method is one of {', '.join(METHODS)}, not '{options.method}'")
    if options.batch_norm not in ("eval", "train"):
        raise UsageError(f"--batch-norm is eval or train, not '{options.batch_norm}'")
    for option, number in (
        ("--batch-size", options.batch_size),
        ("--micro-batch", options.micro_batch),
    ):
        if number is not None and number < 1:
            raise UsageError(f"{option} must be at least 1, not {number}")
    if options.difference_step is not None:
        if options.method != "finite-difference":
            raise UsageError("--difference-step belongs to --method finite-difference")
        if not options.difference_step > 0:
            raise UsageError(f"--difference-step must be positive, not {options.difference_step}")
    require_device(options.device)


def _slice_count(loaded: LoadedModel, options: Options, rows: int) -> int:
    """Into how many slices --micro-batch cuts a batch of ``rows``."""
    micro = options.micro_batch
    if micro is None or micro >= rows:
        return 1
    if rows % micro:
        divisors = [str(d) for d in range(1, rows) if rows % d == 0]
        raise UsageError(
            f"--micro-batch {micro} does not divide the batch of {rows}; choose one of "
            + ", ".join(divisors)
        )
    if options.batch_norm == "train":
        raise UsageError(
            "--micro-batch: with --batch-norm train the statistics are the whole batch's, which "
            "slices do not see; leave one of the options out"
        )
    for value in loaded.ir.graph.inputs:
        dims = value.shape
        if value.name not in loaded.ir.graph.initializers and dims and isinstance(dims[0], int):
            raise UsageError(
                f"--micro-batch: input '{value.name}' has the fixed batch size {dims[0]}; export "
                "the model with a dynamic batch"
            )
    return rows // micro


def _check_static(loaded: LoadedModel, sizes: Mapping[str, tuple[int, ...]]) -> None:
    for value in loaded.ir.graph.inputs:
        shape = sizes.get(value.name or "")
        if shape is None or value.shape is None:
            continue
        declared = [d if isinstance(d, int) else None for d in value.shape]
        if len(declared) != len(shape) or any(
            d is not None and d != s for d, s in zip(declared, shape, strict=False)
        ):
            raise UsageError(
                f"--data: '{value.name}' has shape {shape}, but the model declares "
                f"{[d if isinstance(d, int) else str(d.value) for d in value.shape]}"
            )
