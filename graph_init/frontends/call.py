"""A call of the public functions: its model, the parameters of that, and the options for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graph_init.analysis import Parameter, analyze
from graph_init.analysis.unfit import require_network
from graph_init.frontends.resolve import ResolvedModel, resolve
from graph_init.model import branches, cut
from graph_init.model.load import LoadedModel
from graph_init.options import Options
from graph_init.options.fields import require_known
from graph_init.options.keywords import InspectKeywords
from graph_init.problem.workload import batch_rows, fed_signature, read


@dataclass(frozen=True)
class Call:
    """A model with its parameters, and the options as they take effect for it."""

    subject: ResolvedModel
    #: The subject's, or its part up to a value inside that ``output_name`` names.
    loaded: LoadedModel
    parameters: list[Parameter]
    options: Options


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
    if branches.hold_weights(subject.loaded):
        given = read(subject.loaded, options.data)
        options = replace(options, data=given)
        rows = batch_rows(subject.loaded, given, options)
        fed = fed_signature(subject.loaded, options, given, rows)
        subject = replace(subject, loaded=branches.with_branches(subject.loaded, fed))
    names = [options.output_name] if isinstance(options.output_name, str) else options.output_name
    loaded = cut.at_values(subject.loaded, names or [])
    chosen = (options.trainable, options.freeze)
    parameters = analyze(loaded.ir, *chosen, subject.trained, subject.buffers)
    if known is not InspectKeywords:
        require_network(loaded.ir, parameters, None if loaded.path is None else str(loaded.path))
    return Call(subject, loaded, parameters, options)
