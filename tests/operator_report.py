"""What lowering and the derivatives give for every backend test, once a process.

    python -m tests.operator_report LeakyRelu

prints it for the cases of one operator.
"""

from __future__ import annotations

import argparse
import collections
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graph_init.errors import GraphInitError
from graph_init.ir import Array
from tests import engine_cases, node_cases
from tests.derivatives import Derivatives
from tests.node_cases import NodeCase

#: Largest relative error of a derivative against central differences in float64.
TOLERANCE = 1e-4
#: Numeric differentiation of larger cases only takes time.
LARGEST = 20_000
#: Inputs that must stay positive, where a logarithm of them is taken.
POSITIVE = frozenset({"ai.onnx.Pow"})


@dataclass(frozen=True)
class Outcome:
    """``status`` is equal, different, refused or excluded; ``why`` says more."""

    case: NodeCase
    status: str
    why: str = ""


def lowering(cases: Iterable[NodeCase]) -> list[Outcome]:
    """Whether the lowered model gives the original's outputs in the engine."""
    found = []
    for case in cases:
        reason = node_cases.exclusion(case)
        if reason is not None:
            found.append(Outcome(case, "excluded", reason))
            continue
        status, _, why = node_cases.check(case).partition(": ")
        found.append(Outcome(case, status, why))
    return found


def derivatives(cases: Iterable[NodeCase]) -> list[Outcome]:
    """Gradient, tangent and mixed tangent against numeric differentiation."""
    return [_derivatives(case) for case in cases]


def _derivatives(case: NodeCase) -> Outcome:
    reason = node_cases.exclusion(case)
    if reason is not None:
        return Outcome(case, "excluded", reason)
    try:
        lowered = node_cases.lower(case, TensorProto.DOUBLE)
    except GraphInitError as error:
        return Outcome(case, "refused", str(error))
    outputs = list(lowered.outputs.values())
    if not any(v.requires_grad and v.size for v in outputs):
        return Outcome(case, "excluded", "no output that moves")
    if sum(a.size for a in lowered.feeds.values()) > LARGEST:
        return Outcome(case, "excluded", f"more than {LARGEST} numbers")
    if any(a.size == 0 for a in lowered.feeds.values()) and case.expanded:
        return Outcome(case, "excluded", "empty input")
    check = Derivatives(lowered.builder, outputs, point_of(case, lowered.feeds))
    if not check.used:
        return Outcome(case, "excluded", "no output that moves")
    errors = check.errors()
    if not np.isfinite(errors).all():
        return Outcome(case, "excluded", "not finite at the point: a mask of −∞ or a row of none")
    worst = max(errors)
    return Outcome(case, "equal" if worst < TOLERANCE else "different", f"{worst:.1e}")


def point_of(case: NodeCase, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Where the derivatives of ``case`` are taken."""
    rng = np.random.default_rng(0)
    point = {n: _away_from_kinks(a, rng) for n, a in feeds.items()}
    if case.operator in POSITIVE:
        point = {n: np.abs(a) + 0.1 for n, a in point.items()}
    return point


def _away_from_kinks(array: Array, rng: np.random.Generator) -> Array:
    """Whole numbers, of which many cases consist, often lie where a function is not smooth."""
    relative, absolute = rng.standard_normal((2, *array.shape))
    moved: Array = array * (1 + 0.02 * relative) + 0.003 * absolute
    return moved


@functools.cache
def _engine(which: str) -> tuple[NodeCase, ...]:
    return tuple(getattr(engine_cases, which)())


@functools.cache
def backend_lowering() -> list[Outcome]:
    """ONNX's backend tests."""
    return lowering(node_cases.load())


@functools.cache
def backend_derivatives() -> list[Outcome]:
    """ONNX's backend tests but those that spell out a function body."""
    return derivatives(c for c in node_cases.load() if not c.expanded)


@functools.cache
def engine_lowering(which: str) -> list[Outcome]:
    """``standard`` or ``fused``: the cases of :mod:`tests.engine_cases`."""
    return lowering(_engine(which))


@functools.cache
def engine_derivatives(which: str) -> list[Outcome]:
    return derivatives(_engine(which))


def counts(outcomes: Iterable[Outcome]) -> collections.Counter[str]:
    """Outcomes by status; exclusions by their reason."""
    return collections.Counter(
        f"excluded: {o.why}" if o.status == "excluded" else o.status for o in outcomes
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The cases of one operator.")
    parser.add_argument("operator", help="such as Relu, or com.microsoft.Gelu")
    operator = parser.parse_args().operator
    whole = operator if "." in operator else f"ai.onnx.{operator}"
    everything = (*node_cases.load(), *engine_cases.standard(), *engine_cases.fused())
    cases = [c for c in everything if c.operator == whole]
    if not cases:
        raise SystemExit(f"no case is about {whole}")
    found = {"values": lowering(cases), "derivatives": derivatives(cases)}
    for what, outcomes in found.items():
        for o in outcomes:
            print(f"{what:12} {o.status:9} {o.case.name}  {o.why}".rstrip())
    if any(o.status not in ("equal", "excluded") for o in sum(found.values(), [])):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
