"""What is said of installations that cannot work."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from graph_init.cli import cli
from graph_init.engine import doctor, runtime
from graph_init.errors import EngineError, UsageError


def findings(*wanted_bad: str) -> dict[str, doctor.Finding]:
    found = {f.name: f for f in doctor.check()}
    assert {n for n, f in found.items() if not f.ok} == set(wanted_bad)
    return found


def test_a_healthy_installation_has_no_remedies() -> None:
    assert not any(f.remedy for f in findings().values())


def test_an_old_and_a_missing_library_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["numpy>=99", "no-such-library>=1", "onnx>=1.17", "distributed>=9999; extra == 'zoo'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    found = findings("numpy", "no-such-library")
    assert ">=99" in found["numpy"].detail and "numpy>=99" in found["numpy"].remedy
    assert "not installed" in found["no-such-library"].detail


@pytest.mark.parametrize("version", [(3, 9, 0), (3, 15, 1)])
def test_a_python_without_an_engine_is_named(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version))
    assert "3.14" in findings("python")["python"].remedy


def test_two_engines_are_named_with_the_command_that_leaves_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = metadata.version
    monkeypatch.setattr(
        metadata,
        "version",
        lambda name: "1.30.0" if name in ("onnxruntime", "onnxruntime-gpu") else real(name),
    )
    remedy = findings("engine package")["engine package"].remedy
    kept = "onnxruntime-gpu" if "onnxruntime-gpu==" in remedy else "onnxruntime-training-cpu"
    assert "pip uninstall -y " in remedy and "onnxruntime &&" in remedy and f"{kept}==" in remedy
    found = CliRunner().invoke(cli, ["doctor", "--json"])
    assert found.exit_code == 1 and not json.loads(found.stdout)["ok"]


def test_a_plain_build_is_enough_but_for_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.capi import _pybind_state

    monkeypatch.delattr(_pybind_state, "GradientGraphBuilder", raising=False)
    assert "plain build" in findings()["onnxruntime"].detail
    with pytest.raises(EngineError, match="not a training build.*graph-init.training"):
        runtime.bindings()
    with pytest.raises(EngineError):
        runtime.choose("onnxruntime-training")
    assert runtime.choose("auto") == runtime.choose("onnxruntime")


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="auto, onnxruntime, onnxruntime-training, not 'tvm'"):
        runtime.choose("tvm")


def test_an_engine_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "cannot be imported" in findings("onnxruntime")["onnxruntime"].detail
