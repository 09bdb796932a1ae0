"""Frees the batch of a model whose file fixes it, as far as every node keeps rows apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from graph_init.model.load import LoadedModel, normalise
from graph_init.rows.follow import Followed, Obstacle, follow
from graph_init.rows.layout import Rows
from graph_init.rows.rewrite import rewritten
from graph_init.sizes import Signature, inputs_of
from graph_init.sizes.dry_run import DryRun, Outcome, array_input
from graph_init.sizes.known import Dim, Known
from graph_init.sizes.unknowns import declared

__all__ = ["Freed", "Obstacle", "fixed", "free"]

#: Ways in which inputs may have rows, tried at most.
_WAYS = 16
_MARK = 1


@dataclass(frozen=True)
class Freed:
    """A model whose batch has any size, under the name ``batch``.

    ``inputs``: the axis along which each input has rows. ``changed``: nodes that read another shape
    or state now.
    """

    loaded: LoadedModel
    batch: str
    inputs: Mapping[str, int]
    changed: int


def is_open(loaded: LoadedModel) -> bool:
    """Whether the first axis of any input is left open."""
    return any(d and not isinstance(d[0], int) for d in map(declared, inputs_of(loaded.ir)))


def fixed(loaded: LoadedModel) -> tuple[str, int] | None:
    """The input whose first axis is the batch, and its fixed size; None if it has none."""
    given = [(v, d) for v in inputs_of(loaded.ir) if (d := declared(v))]
    if is_open(loaded):
        return None
    for value, (first, *rest) in given:
        if rest:
            assert isinstance(first, int)
            return value.name or "", first
    return None


def free(loaded: LoadedModel, fed: Signature) -> Freed:
    """``loaded`` with a batch of any size; ``fed`` are its inputs as the file has them.

    Each row of a batch then gives what the file gives for it alone: every node is shown to keep
    rows apart, and with other numbers of rows every value has the shape that follows from that.

    Raises:
        Obstacle: A node holds the batch, or the model has no input with a batch.
    """
    main = fixed(loaded)
    if main is None:
        raise Obstacle("no input has an axis for the batch")
    name, count = main
    first: Obstacle | None = None
    for starts in itertools.islice(_ways(loaded.ir, name, count), _WAYS):
        marked = {n: (r.axis, count) for n, r in starts.items()}
        outcome = _run(loaded.ir, fed, marked, _MARK)
        try:
            followed = follow(loaded.ir, starts, outcome.known, count)
            return _freed(loaded, fed, starts, followed=followed, before=outcome, count=count)
        except Obstacle as obstacle:
            first = first or obstacle
    assert first is not None
    raise first


def _ways(model: ir.Model, main: str, count: int) -> Iterator[dict[str, Rows]]:
    """Along which axes inputs may have rows: the first, another of that size, or none.

    Inputs of one shape have them along the same axis; ``main`` is the one that surely has some.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for value in inputs_of(model):
        groups.setdefault(tuple(declared(value)), []).append(value.name or "")
    options: list[list[Rows | None]] = []
    for dims, names in groups.items():
        axes = [Rows(k) for k, n in enumerate(dims) if n == count]
        options.append([*axes[:1]] if main in names else [*axes[:2], None])
    for way in itertools.product(*options):
        yield {
            name: rows
            for names, rows in zip(groups.values(), way, strict=True)
            for name in names
            if rows is not None
        }


def _run(
    model: ir.Model, fed: Signature, rows: Mapping[str, tuple[int, int]], mark: int
) -> Outcome:
    """A dry run with these numbers of rows along these axes of inputs."""
    given: dict[str, Known] = {}
    for value in inputs_of(model):
        name = value.name or ""
        dims = [Dim(n) for n in fed.shape(name)]
        if name in rows:
            axis, count = rows[name]
            dims[axis] = Dim(count, mark)
        assert value.dtype is not None
        given[name] = Known(int(value.dtype.value), tuple(dims))
        chosen = fed.values.get(name)
        if chosen is not None:
            # An input that steers is the same number throughout.
            numbers = array_input(np.full(dims, chosen.value.reshape(-1)[0], chosen.value.dtype))
            given[name] = Known(numbers.dtype, tuple(dims), numbers.content, numbers.marks)
    return DryRun(model)(given)


def _freed(
    loaded: LoadedModel,
    fed: Signature,
    starts: Mapping[str, Rows],
    *,
    followed: Followed,
    before: Outcome,
    count: int,
) -> Freed:
    proto = onnx.ModelProto()
    if loaded.proto.functions:
        # Their nodes are not in the graph: the inlined model is what is changed.
        proto = ir.to_proto(loaded.ir)
    else:
        proto.CopyFrom(loaded.proto)
    batch = rewritten(proto, starts, followed)
    new = replace(loaded, proto=proto, ir=normalise(proto, loaded.data), solved={})
    for rows in (count + 1, 2 * count + 3):
        _check(loaded.ir, new.ir, fed, starts, followed=followed, before=before, rows=rows)
    axes = {n: r.axis for n, r in starts.items()}
    return Freed(new, batch, axes, len(followed.patches))


def _check(
    old: ir.Model,
    new: ir.Model,
    fed: Signature,
    starts: Mapping[str, Rows],
    *,
    followed: Followed,
    before: Outcome,
    rows: int,
) -> None:
    """Obstacle where a value of the freed model has another shape than its rows ask for."""
    after = _run(new, fed, {n: (r.axis, rows) for n, r in starts.items()}, 0)
    if after.conflict is not None and after.node is not None:
        name = f"node '{after.node.name}' ({after.node.op_type})"
        raise Obstacle(f"{name}, for {rows} rows, {after.conflict.words}")
    shapes = {v.name: after.known.get(id(v)) for node in new.graph for v in node.outputs}
    for node in old.graph:
        for value in node.outputs:
            was, now = before.known.get(id(value)), shapes.get(value.name)
            if was is None or now is None or was.dims is None or now.dims is None:
                continue
            wanted, place = [int(n) for n in was.dims], followed.places.get(value.name or "")
            if place is not None:
                wanted[place.axis] = place.outer * rows * place.inner
            if [int(n) for n in now.dims] != wanted:
                shape = "×".join(map(str, now.dims))
                raise Obstacle(
                    f"node '{node.name}' ({node.op_type}) gives {shape} for {rows} rows, and "
                    f"{'×'.join(map(str, wanted))} would keep them apart"
                )
