"""A batch that the model's file fixes, where other rows are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from graph_init import rows
from graph_init.errors import UnsupportedModelError, printable
from graph_init.frontends.resolve import ResolvedModel
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.problem.signature import signature
from graph_init.problem.workload import batch_rows, read, without_rows


@dataclass(frozen=True)
class Batch:
    """``subject`` is what is written, ``loaded`` what is computed; ``notes`` say what differs."""

    subject: ResolvedModel
    loaded: LoadedModel
    options: Options
    notes: list[str] = field(default_factory=list)


def freed(subject: ResolvedModel, options: Options, write: bool) -> Batch:
    """The batch freed where ``options`` or their data ask for other rows than the file fixes.

    With ``write`` it is freed in any case, and in what is written.

    Raises:
        UnsupportedModelError: A node holds the batch; the message names it.
    """
    loaded = subject.loaded
    fixed = rows.fixed(loaded)
    if fixed is None:
        if write and not rows.is_open(loaded):
            raise UnsupportedModelError("--free-batch: no input of the model has rows")
        return Batch(subject, loaded, options)
    given = read(loaded, options.data, options.memory_limit)
    options = replace(options, data=given)
    wanted = batch_rows(loaded, given, options)
    name, size = fixed
    if wanted in (None, size) and not write:
        return Batch(subject, loaded, options)
    whole = {} if given is None else {n: given.arrays[n] for n in given.whole}
    fed = signature(loaded, options, whole, whole=whole)
    try:
        new = rows.free(loaded, fed).loaded
    except rows.Obstacle as obstacle:
        asked, way = "--free-batch", "leave the option out"
        if not write:
            asked = f"--batch-size {wanted}"
            if options.batch_size is None:
                asked, way = f"--data of {wanted} rows", f"give {size}"
        raise UnsupportedModelError(
            f"{asked}: input '{printable(name)}' has the fixed batch size {size}, and {obstacle}; "
            f"{way} or export the model with a dynamic batch"
        ) from obstacle
    if given is not None:
        given = replace(given, whole=without_rows(new, given.arrays))
        options = replace(options, data=given)
    if write:
        return Batch(replace(subject, loaded=new), new, options)
    words = f"the batch of {size} that the file fixes stays in what is written; see --free-batch"
    return Batch(subject, new, options, [words])
