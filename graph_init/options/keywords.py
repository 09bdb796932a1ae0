"""The options as keyword arguments, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ExampleKeywords(TypedDict, total=False):
    """What a framework's model is called with, and options of its frontend."""

    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    export: Mapping[str, Any] | None


class ParameterKeywords(TypedDict, total=False):
    """Those of :class:`ParameterOptions`."""

    trainable: Sequence[str]
    freeze: Sequence[str]


class InspectKeywords(ExampleKeywords, ParameterKeywords, total=False):
    """Those of :func:`graph_init.inspect`."""

    dims: Mapping[str, int] | None
    input: Mapping[str, float | bool] | None


class BatchKeywords(ParameterKeywords, total=False):
    """Those of the functions that compute a loss."""

    batch_size: int | None
    seed: int
    loss: str
    output_name: str | Sequence[str] | None
    dims: Mapping[str, int] | None
    input: Mapping[str, float | bool] | None
    batch_norm: str


class CompareKeywords(ExampleKeywords, BatchKeywords, total=False):
    """Those of :func:`graph_init.compare`."""

    method: str
    device: str
    engine: str


class ProblemKeywords(CompareKeywords, total=False):
    """Those that :func:`graph_init.measure` and :func:`graph_init.initialize` share."""

    data: Any
    difference_step: float | None
    micro_batch: int | None
    memory_limit: str | int | None


class MeasureKeywords(ProblemKeywords, total=False):
    """Those of :func:`graph_init.measure`."""

    scale_gradient: bool


class CheckKeywords(ExampleKeywords, BatchKeywords, total=False):
    """Those of :func:`graph_init.check`."""

    data: Any
    device: str
    engine: str
    memory_limit: str | int | None
    ignore: Sequence[str]


class InitializeKeywords(ProblemKeywords, total=False):
    """Those of :func:`graph_init.initialize`."""

    scheme: str
    gain: float | str | None
    std: float | None
    updates: int | None
    steps: int | None
    rate: float | None
    momentum: float | None
    free_batch: bool


class ArtifactKeywords(BatchKeywords, total=False):
    """Those of :func:`graph_init.write_artifacts`."""

    scheme: str
