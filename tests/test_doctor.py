"""What is said of installations that cannot work."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from graph_init.cli import cli
from graph_init.engine import choice, doctor, runtime
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
        choice.choose("onnxruntime-training")
    auto, plain = choice.choose("auto"), choice.choose("onnxruntime")
    assert (auto.kernels, auto.own) == (plain.kernels, plain.own)


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        UsageError, match="auto, onnxruntime, onnxruntime-training, torch, not 'tvm'"
    ):
        choice.choose("tvm")


def test_an_engine_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is broken, which PyTorch does not mend; without both nothing computes."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "cannot be imported" in findings("onnxruntime")["onnxruntime"].detail
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "[cpu]" in findings("onnxruntime", "--engine auto")["--engine auto"].remedy


def test_without_onnxruntime_pytorch_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if "onnxruntime" in name else real(name)
    )
    found = findings()
    assert found["onnxruntime"].detail == "not installed"
    assert found["--engine auto"].detail.startswith("torch 2.")
    assert "cpu" in found["torch"].detail


def test_what_the_variable_says_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "onnxruntime")
    assert choice.VARIABLE in findings()["--engine auto"].detail
    monkeypatch.setenv(choice.VARIABLE, "tvm")
    assert choice.VARIABLE in findings("--engine auto")["--engine auto"].remedy


def test_the_extras_are_those_of_the_package() -> None:
    project = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
    assert all(f"\n{name} = [" in project for name in doctor.EXTRAS)
    shown = CliRunner().invoke(cli, ["doctor"])
    assert all(f"graph-init[{name}]" in shown.output for name in doctor.EXTRAS)
