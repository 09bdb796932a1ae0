"""Running the meta-step graph on onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graph_init.builder import Array
from graph_init.deviation.taylor import SCALE_INPUT, MetaGraph
from graph_init.errors import EngineError, NumericalError, UnsupportedModelError


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the meta-step graph; the vectors have one element a parameter."""

    loss: float
    gradient_deviation: float
    gradient_norm: float
    vanished_fraction: float
    deviation_sums: Array
    value_squares: Array
    log_scale_gradient: Array
    extras: tuple[float, ...]


def open_session(model: onnx.ModelProto) -> Any:
    """An inference session on the CPU for ``model``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}); run `pip install 'graph-init[cpu]'`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The builder has folded and shared what there is. The engine's own optimisers make a session
    # eight times slower to open (light_densenet121: 70 s against 9 s) and no step faster; one of
    # them, GatherSliceToSplitFusion, breaks large graphs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # the engine's errors share no base class but this
        raise UnsupportedModelError(
            f"onnxruntime refuses the model's operators: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class MetaStep:
    """(batch, scales) → :class:`Evaluation`, with the tensors bound once."""

    def __init__(
        self, graph: MetaGraph, tensors: Mapping[str, Array], sizes: Sequence[int]
    ) -> None:
        """``tensors``: the parameters' and fed values; ``sizes``: elements of each parameter."""
        self._graph = graph
        self._elements = int(sum(sizes))
        self._session = open_session(graph.model)
        self._fixed = {n: tensors[n] for n in graph.inputs if n in tensors}

    def __call__(self, batch: Mapping[str, Array], scales: Array) -> Evaluation:
        """``scales`` has one float a scaled tensor. Raises NumericalError if not finite."""
        feeds = {n: v for n, v in batch.items() if n in self._graph.inputs}
        feeds.update(self._fixed)
        if self._graph.scaled:
            feeds[SCALE_INPUT] = np.asarray(scales, np.float32)
        try:
            loss, deviation, vanished, squares, values, *rest = self._session.run(None, feeds)
        except Exception as error:  # an index out of range, or memory
            raise UnsupportedModelError(
                f"onnxruntime failed while running the model: {_first_line(error)}"
            ) from error
        slopes: Array = np.zeros(0, np.float32)
        if self._graph.with_scale_gradient:
            slopes, *rest = rest
        total = deviation.astype(np.float64).sum() / self._elements
        return Evaluation(
            float(loss),
            float(total),
            float(np.sqrt(squares.astype(np.float64).sum())),
            float(vanished.astype(np.float64).sum() / self._elements),
            deviation,
            values,
            slopes.astype(np.float64),
            tuple(float(r) for r in rest),
        )


def require_finite(evaluation: Evaluation, names: Sequence[str]) -> None:
    """NumericalError that says which number failed first, and in which parameter."""
    if not np.isfinite(evaluation.loss):
        raise NumericalError(
            f"the loss is {evaluation.loss}: the forward pass overflows; start from a scheme, "
            "for example --scheme he"
        )
    if not np.isfinite(evaluation.gradient_deviation):
        bad = np.flatnonzero(~np.isfinite(evaluation.deviation_sums))
        where = f" in '{names[bad[0]]}'" if len(bad) else ""
        raise NumericalError(
            f"the gradient deviation{where} is not finite; start from a scheme, for example "
            "--scheme he"
        )
