"""What other projects' tests use: an assertion, a plugin of pytest, a hook, an action."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
import yaml
from torch import nn

import graph_init_torch
from graph_init.errors import ModelFileError, UsageError
from graph_init.testing import assert_well_initialized

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
#: For pytester's own folders.
MODELS = """
import torch
from torch import nn

def network(factor):
    torch.manual_seed(0)
    layers = [nn.Linear(24, 32), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 5))
    with torch.no_grad():
        model[4].weight *= factor
    return model

ROWS = torch.randn(8, 24)
"""


def network(factor: float = 1.0) -> tuple[nn.Module, torch.Tensor]:
    names: dict[str, Any] = {}
    exec(MODELS, names)
    return names["network"](factor), names["ROWS"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound and a faulty file."""
    folder = tmp_path_factory.mktemp("files")
    for name, factor in {"sound": 1, "faulty": 4}.items():
        model, rows = network(factor)
        graph_init_torch.export(model, (rows,), path=folder / f"{name}.onnx")
    return folder


def test_a_module() -> None:
    model, rows = network()
    found = assert_well_initialized(model, (rows,))
    assert found.tensors == len(list(model.parameters()))
    assert_well_initialized(model, kwargs={"input": rows})
    bad, rows = network(4)
    with pytest.raises(AssertionError, match=r"1 finding:\n  GI121 error: '4\.weight'.*times 0\.2"):
        assert_well_initialized(bad, (rows,))
    assert_well_initialized(bad, (rows,), ignore=["GI121"])


def test_the_severity_from_which_it_fails() -> None:
    model, rows = network(1.7)
    assert_well_initialized(model, (rows,))
    with pytest.raises(AssertionError, match="GI121 warning"):
        assert_well_initialized(model, (rows,), fail_on="warning")
    with pytest.raises(UsageError, match="fail_on is 'never'; known: error, warning, note"):
        assert_well_initialized(model, (rows,), fail_on="never")


def test_a_file_and_a_model_of_keras(tmp_path: Path) -> None:
    bad, rows = network(4)
    proto = graph_init_torch.export(bad, (rows,), path=tmp_path / "model.onnx")
    for model in (tmp_path / "model.onnx", str(tmp_path / "model.onnx"), proto):
        with pytest.raises(AssertionError, match=r"'4\.weight'"):
            assert_well_initialized(model)
    with pytest.raises(ModelFileError):
        assert_well_initialized(tmp_path / "other.onnx")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu", name=f"layer_{k}") for k in range(5)]
    made = keras.Sequential([keras.Input((32,)), *layers])
    assert_well_initialized(made)
    kernel = made.get_layer("layer_2").kernel
    kernel.assign(kernel * 5)
    with pytest.raises(AssertionError, match="layer_2/kernel"):
        assert_well_initialized(made)


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a file of tests beside ``models.py`` with the plugin, and lines of an ini file."""
    pytester.makepyfile(models=MODELS)
    monkeypatch.syspath_prepend(str(pytester.path))

    def call(tests: str, ini: str = "") -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makepyfile(test_own=tests)
        # In a process of its own: this one's plugins and modules are not those of a user.
        path = os.pathsep.join([str(pytester.path), str(ROOT), str(ROOT / "frontends")])
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_subprocess("-p", "graph_init_pytest")

    return call


#: With files, which need no framework.
TESTS = """
import pytest

@pytest.fixture(params=["sound.onnx", "faulty.onnx"])
def model(request):
    return FOLDER + "/" + request.param

@pytest.fixture
def inner(model):
    return model

def test_direct(model): pass
def test_indirect(inner): pass
def test_without(): pass
"""


def test_the_plugin_checks_what_a_fixture_yields(run: Run, files: Path) -> None:
    done = run(f"FOLDER = {str(files)!r}\n{TESTS}", "graph_init_fixtures = model")
    done.assert_outcomes(passed=3, failed=2)
    done.stdout.fnmatch_lines(["*fixture 'model': the model is not well initialised, 1 finding:"])
    failed = re.findall(r"FAILED test_own\.py::(\S+)", done.stdout.str())
    assert sorted(failed) == ["test_direct[faulty.onnx]", "test_indirect[faulty.onnx]"]


def test_a_fixture_may_give_an_example_with_the_model(run: Run) -> None:
    tests = """
import pytest
from models import ROWS, network

@pytest.fixture
def by_place():
    return network(4), (ROWS,)

@pytest.fixture
def by_name():
    yield network(1), {"input": ROWS}

def test_by_place(by_place): pass
def test_by_name(by_name): pass
"""
    done = run(tests, "graph_init_fixtures = by_place by_name")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*fixture 'by_place': the model is not well initialised*"])


def test_the_plugin_has_its_options(run: Run, files: Path) -> None:
    tests = f"FOLDER = {str(files)!r}\n{TESTS}"
    ini = "graph_init_fixtures = model\ngraph_init_ignore = GI121 GI105"
    run(tests, ini).assert_outcomes(passed=5)
    ini = "graph_init_fixtures = model\ngraph_init_fail_on = note"
    run(tests, ini).assert_outcomes(passed=1, failed=4)
    ini = "graph_init_fixtures = model\ngraph_init_fail_on = all"
    done = run(tests, ini)
    done.stdout.fnmatch_lines(["*fail_on is 'all'; known: error, warning, note"])


def test_the_plugin_does_nothing_unless_it_is_asked(run: Run) -> None:
    tests = """
import sys

def test_nothing_is_imported():
    assert "graph_init_pytest" in sys.modules
    assert not any(name == "graph_init" or name.startswith("graph_init.") for name in sys.modules)
    assert "onnx" not in sys.modules and "numpy" not in sys.modules
"""
    run(tests).assert_outcomes(passed=1)
    run(f"FOLDER = 'nowhere'\n{TESTS}").assert_outcomes(passed=5)


def test_several_files_in_one_command(files: Path) -> None:
    """As pre-commit gives them."""
    command = [sys.executable, "-m", "graph_init", "check"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=files, capture_output=True, text=True, check=False
        )

    assert run("sound.onnx", "sound.onnx").returncode == 0
    done = run("faulty.onnx", "sound.onnx")
    assert done.returncode == 6
    assert done.stdout.index("faulty.onnx") < done.stdout.index("sound.onnx")
    done = run("sound.onnx", "faulty.onnx", "--json")
    assert done.returncode == 2
    assert "are of one file" in done.stderr


def test_the_hook_of_pre_commit() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert hook["id"] == "graph-init-check"
    assert hook["entry"] == "graph-init check"
    assert re.search(hook["files"], "models/a.onnx")
    assert not re.search(hook["files"], "models/a.onnx.data")
    # A hook's environment is made of what it names: the program needs an engine.
    assert any("onnxruntime" in extra for extra in hook["additional_dependencies"])


def test_the_steps_of_the_action(files: Path, tmp_path: Path) -> None:
    """Its shell code, run as a runner would: inputs come through the environment."""
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    assert action["runs"]["using"] == "composite"
    step = next(s for s in action["runs"]["steps"] if "graph-init check" in s.get("run", ""))
    given = {k: str(v.get("default", "")) for k, v in action["inputs"].items()}
    assert {f"INPUT_{k.upper().replace('-', '_')}" for k in given if k != "version"} == set(
        step["env"]
    )
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "graph-init"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m graph_init "$@"\n')
    script.chmod(0o755)

    def run(**inputs: str) -> tuple[int, list[dict[str, Any]]]:
        own = {**given, **inputs, "sarif": str(tmp_path / "found")}
        env = {f"INPUT_{k.upper().replace('-', '_')}": v for k, v in own.items()}
        env |= {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        env |= {k: v for k, v in os.environ.items() if k == "PYTHONPATH"}
        done = subprocess.run(["bash", "-c", step["run"]], cwd=files, env=env, check=False)
        logs = sorted((tmp_path / "found").glob("*.sarif"))
        return done.returncode, [json.loads(p.read_text("utf-8")) for p in logs]

    status, logs = run(models="*.onnx")
    assert status == 6
    assert len(logs) == 2
    assert run(models="sound.onnx")[0] == 0
    assert run(models="faulty.onnx", **{"fail-on": "never"})[0] == 0
    assert run(models="nothing-*.onnx")[0] == 2
