"""The engines that are installed, and what they give for ONNX's backend cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from onnx import TensorProto, helper

from graph_init.engine import pytorch, runtime
from graph_init.engine.choice import TORCH, VARIABLE, choose
from graph_init.engine.runtime import PLAIN, TRAINING
from graph_init.engine.session import open_session
from graph_init.errors import EngineError, GraphInitError
from graph_init.ir import Array
from tests import node_cases, operator_report
from tests.derivatives import Derivatives
from tests.node_cases import NodeCase

#: Largest relative error of an engine's derivatives against ONNX's reference in float64.
TOLERANCES = {TensorProto.FLOAT: 2e-3, TensorProto.DOUBLE: 1e-7}
#: What an engine is asked in: onnxruntime has not all kernels in float64.
PRECISIONS = {TORCH: TensorProto.DOUBLE}


def missing(engine: str) -> str | None:
    """Why ``engine`` cannot be asked here; None if it can."""
    if engine == TORCH:
        return None if pytorch.is_installed() else "PyTorch is not installed"
    try:
        build = runtime.installed()
    except EngineError:
        return "onnxruntime is not installed"
    if engine in (TRAINING, "auto") and build != TRAINING:
        return "onnxruntime's training build is not installed"
    return None


def _parameter(engine: str) -> object:
    why = missing(engine)
    marks = () if why is None else pytest.mark.skip(reason=f"{engine}: {why}")
    return pytest.param(engine, marks=marks)


#: For ``parametrize``: ``auto`` are the training build's operators, with gradients of our own.
KERNELS = [_parameter(e) for e in (PLAIN, "auto", TORCH)]
#: Those, and the training build's own gradients.
ENGINES = [*KERNELS, _parameter(TRAINING)]


@dataclass(frozen=True)
class Comparison:
    """``status``: equal, different (by ``errors``, of three orders), refused or excluded."""

    case: NodeCase
    status: str
    errors: tuple[float, ...] = ()
    why: str = ""


def derivatives(case: NodeCase, engine: str) -> Comparison:
    """Gradient, Hessian-vector product and mixed third derivative, by the reference in float64."""
    reason = node_cases.exclusion(case)
    if reason is not None:
        return Comparison(case, "excluded", why=reason)
    precision = PRECISIONS.get(engine, TensorProto.FLOAT)
    try:
        exact = taken(case, TensorProto.DOUBLE)
        asked = exact if engine == TORCH else taken(case, precision)
    except GraphInitError as refusal:
        return Comparison(case, "refused", why=str(refusal))
    if exact is None or asked is None:
        return Comparison(case, "excluded", why="no output that moves, or more than 5,000 numbers")
    got = computed(asked, precision, engine)
    _, want = exact.at({}, 0.0)
    if not all(np.isfinite(v).all() for v in want):
        return Comparison(case, "excluded", why="not finite at the point")
    errors = tuple(error(g, w) for g, w in zip(got, want, strict=True))
    equal = max(errors) < TOLERANCES[precision]
    return Comparison(case, "equal" if equal else "different", errors)


def computed(asked: Derivatives, precision: int, engine: str) -> list[Array]:
    """The vectors g, Hg and mixed of ``asked``, made in ``precision``, by ``engine``."""
    kind = helper.tensor_dtype_to_np_dtype(precision)
    feeds = {n: a.astype(kind) for n, a in asked.feeds.items()}
    found = open_session(asked.program, choose(engine))(feeds)
    return _rows(list(found.values())[1:], len(asked.used))


def taken(case: NodeCase, precision: int) -> Derivatives | None:
    """The derivatives of ``case``; None if nothing moves, or more than 5,000 numbers do."""
    lowered = node_cases.lower(case, precision)
    outputs = list(lowered.outputs.values())
    if not any(v.requires_grad and v.size for v in outputs):
        return None
    if not 0 < sum(a.size for a in lowered.feeds.values()) <= 5_000:
        return None
    wide = {n: a.astype(np.float64) for n, a in lowered.feeds.items()}
    found = Derivatives(lowered.builder, outputs, operator_report.point_of(case, wide))
    return found if found.used else None


def _rows(values: list[Array], count: int) -> list[Array]:
    parts = [values[i * count : (i + 1) * count] for i in range(3)]
    return [np.concatenate([v.ravel() for v in part]).astype(np.float64) for part in parts]


def error(got: Array, want: Array) -> float:
    """Relative to the largest element of ``want``, or to 0.01 if that is smaller."""
    return float(np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-2))


__all__ = [
    "ENGINES",
    "KERNELS",
    "VARIABLE",
    "Comparison",
    "computed",
    "derivatives",
    "error",
    "missing",
    "taken",
]
