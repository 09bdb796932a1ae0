"""The content of a report as JSON: a result, and facts about its model that it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.analysis import Parameter
from graph_init.model.load import LoadedModel


def gather(
    kind: str,
    result: Mapping[str, Any],
    provenance: Mapping[str, str],
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
) -> dict[str, Any]:
    """``result`` is what the command ``kind`` prints as JSON: initialize, check or compare."""
    from graph_init.report.graph_summary import summarize

    name = loaded.path.name if loaded.path else loaded.proto.graph.name or "model"
    return {
        "format": "graph-init/report",
        "version": 1,
        "kind": kind,
        "model": name,
        "provenance": dict(provenance),
        "result": dict(result),
        "graph": summarize(loaded.ir, parameters),
    }
