"""A call of the public functions: its model, the parameters of that, and the options for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graph_init.analysis import Parameter, analyze
from graph_init.analysis.unfit import require_network
from graph_init.frontends.batch import freed
from graph_init.frontends.resolve import ResolvedModel, resolve
from graph_init.model import branches, cut
from graph_init.model.load import LoadedModel
from graph_init.options import Options, WritingOptions
from graph_init.options.fields import require_known
from graph_init.options.keywords import InspectKeywords
from graph_init.problem.workload import batch_rows, fed_signature, read


@dataclass(frozen=True)
class Call:
    """A model with its parameters, and the options as they take effect for it."""

    subject: ResolvedModel
    #: The subject's, with its batch freed where other rows are asked for, or its part up to a
    #: value inside that ``output_name`` names.
    loaded: LoadedModel
    parameters: list[Parameter]
    options: Options
    #: What the written model has otherwise than what was computed, in sentences.
    notes: list[str]


def resolve_call(model: Any, keywords: Mapping[str, Any], known: type[Any], **fixed: Any) -> Call:
    """What a call is about; ``known`` are the keywords that there are, ``fixed`` win over them."""
    require_known(keywords, known.__annotations__)
    options = Options.of({**keywords, **fixed})
    example = (keywords.get(k) for k in ("args", "kwargs", "export"))
    subject = resolve(model, *example)
    options = replace(
        options,
        data=subject.data(options.data),
        batch_size=subject.batch_size(options.batch_size),
        loss=subject.loss(options.loss, options.output_name),
        output_name=subject.output_name(options.output_name),
        dims=subject.dims(options.dims),
    )
    batch = freed(subject, options, WritingOptions.of(keywords).free_batch)
    subject, loaded, options = batch.subject, batch.loaded, batch.options
    if branches.hold_weights(loaded):
        given = read(loaded, options.data, options.memory_limit)
        options = replace(options, data=given)
        fed = fed_signature(loaded, options, given, batch_rows(loaded, given, options))
        loaded = branches.with_branches(loaded, fed)
        subject = replace(subject, loaded=branches.with_branches(subject.loaded, fed))
    names = [options.output_name] if isinstance(options.output_name, str) else options.output_name
    loaded = cut.at_values(loaded, names or [])
    chosen = (options.trainable, options.freeze)
    parameters = analyze(loaded.ir, *chosen, subject.trained, subject.buffers)
    if known is not InspectKeywords:
        require_network(loaded.ir, parameters, None if loaded.path is None else str(loaded.path))
    return Call(subject, loaded, parameters, options=options, notes=batch.notes)
