"""Every operator: values, and derivatives of three orders; the table in docs/operators.md."""

from __future__ import annotations

import functools
import json

import pytest
from onnx import TensorProto

from graph_init.engine.choice import VARIABLE
from graph_init.ir import ZERO_DERIVATIVE, Array
from graph_init.lowering.registry import UNSUPPORTED
from tests import engines, operator_report
from tests.node_cases import NodeCase
from tests.operator_report import Outcome

pytest.importorskip("onnxruntime")

#: Why a backend case may be refused: its operator is on the list, or its course hangs on floats.
REFUSED = ("Unique", "Det", "QuantizeLinear", "trip count")
#: Cases whose outputs do not move: constants of their attributes, and empty tensors.
STILL = frozenset("DequantizeLinear Range MelWeightMatrix".split()) | ZERO_DERIVATIVE


def failures(outcomes: list[Outcome]) -> list[str]:
    return [
        f"{o.case.name}: {o.status}: {o.why}"
        for o in outcomes
        if o.status not in ("equal", "excluded")
    ]


def test_backend_cases_give_their_outputs() -> None:
    outcomes = operator_report.backend_lowering()
    refused = [o for o in outcomes if o.status == "refused"]
    assert all(any(word in o.why for word in REFUSED) for o in refused)
    assert not [f for f in failures(outcomes) if ": refused" not in f]
    assert sum(o.status == "equal" for o in outcomes) > 1200


def test_derivatives_of_backend_cases() -> None:
    outcomes = operator_report.backend_derivatives()
    assert not [f for f in failures(outcomes) if ": refused" not in f]
    assert sum(o.status == "equal" for o in outcomes) > 780


def test_an_output_that_moves_is_never_taken_for_a_constant() -> None:
    for o in operator_report.backend_derivatives():
        if o.why == "no output that moves":
            empty = any(getattr(v, "size", 1) == 0 for v in o.case.inputs.values())
            part = "zero_size" in o.case.name or "out_of_bounds" in o.case.name
            assert o.case.operator.partition(".onnx.")[2] in STILL or empty or part, o.case.name


@pytest.mark.parametrize("which", ["standard", "fused"])
def test_cases_checked_against_the_engine(which: str) -> None:
    assert not failures(operator_report.engine_lowering(which))
    assert not failures(operator_report.engine_derivatives(which))


def test_the_table_is_current() -> None:
    from tools import operator_table

    written = operator_table.TABLE.read_text("utf-8")
    assert written == operator_table.render(), "run python tools/operator_table.py"


#: Errors of engines in float32; a saturated recurrent unit rounds more than others.
ROUNDING, SATURATED = 2e-4, 2e-2


@pytest.mark.parametrize("engine", engines.KERNELS)
def test_derivatives_are_those_of_an_independent_oracle(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first case of each operator: by PyTorch's own function, or by central differences."""
    pytest.importorskip("torch")
    from tests import accuracy

    monkeypatch.setenv(VARIABLE, engine)
    known = _oracle()
    for case in _first_cases():
        if any(key.startswith(f"{case.name}/") for key in known):
            found = max(accuracy.errors(case, engine, known, TensorProto.FLOAT))
            saturates = case.operator.endswith(("RNN", "LSTM", "GRU"))
            assert found < (SATURATED if saturates else ROUNDING), (case.name, found)
    assert len(known) / 3 > 140


def test_the_errors_of_the_table_are_those_of_all_engines() -> None:
    from tools import operator_accuracy

    rows = json.loads(operator_accuracy.DATA.read_text("utf-8"))
    assert {r["engine"].split()[0] for r in rows} >= {"torch", "onnxruntime"}
    page = operator_accuracy.PAGE.read_text("utf-8")
    assert operator_accuracy.written(page, rows) == page, "run python tools/operator_accuracy.py"
    for row in rows:
        small = 1e-5 if row["how"] == "float64" else ROUNDING
        for name, found in row["operators"].items():
            saturates = name.endswith(("RNN", "LSTM", "GRU"))
            assert max(found["errors"]) < (SATURATED if saturates else small), (row["engine"], name)


@functools.cache
def _first_cases() -> list[NodeCase]:
    from tests import accuracy

    first: dict[str, NodeCase] = {}
    for case in accuracy.cases():
        if case.operator not in first and accuracy.taken(case, TensorProto.DOUBLE) is not None:
            first[case.operator] = case
    return list(first.values())


@functools.cache
def _oracle() -> dict[str, Array]:
    from tests import accuracy

    return accuracy.oracle(iter(_first_cases()))


def test_at_least_95_percent_of_the_differentiable_operators_are_handled() -> None:
    from tools import operator_table

    kinds = [r.kind for r in operator_table.standard_rows()]
    handled = sum(k in ("primitive", "lowered") for k in kinds)
    assert handled / (handled + kinds.count("not supported")) >= 0.95
    assert {r.operator for r in operator_table.standard_rows() if r.kind == "not supported"} <= {
        *UNSUPPORTED,
        "MaxRoiPool",
    }
