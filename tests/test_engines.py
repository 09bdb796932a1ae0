"""Every engine that is installed gives the same numbers: operators, derivatives, whole models.

By default a part of the cases is asked of each engine, and all of them where ``long`` tests run.
``GRAPH_INIT_ENGINE=torch make test`` runs every test of the suite on that engine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from graph_init.engine import choice, pytorch, runtime
from graph_init.engine.choice import TORCH, VARIABLE, choose
from graph_init.engine.runtime import PLAIN
from graph_init.engine.session import open_session
from graph_init.errors import EngineError, UnsupportedModelError, UsageError
from graph_init.ir import Builder, Program
from graph_init.lowering import PRIMITIVES
from tests import node_cases, operator_report
from tests.derivatives import evaluator
from tests.engines import ENGINES, KERNELS, derivatives
from tests.small_models import plain_cnn
from tests.test_tangent import RULES, Make

#: Of the backend cases each engine is asked this one in so many, unless all are.
_PART = 12
#: Whether a test asks an engine a part of the cases, or all.
STEPS = [_PART, pytest.param(1, marks=pytest.mark.long)]

needs_torch = pytest.mark.skipif(not pytorch.is_installed(), reason="PyTorch is not installed")


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``auto`` stands for while a test runs."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


# -- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", KERNELS, indirect=True)
@pytest.mark.parametrize(("op", "make", "shapes"), RULES, ids=[op for op, _, _ in RULES])
def test_primitives_give_the_references_values(
    op: str, make: Make, shapes: list[tuple[int, ...]], engine: str
) -> None:
    from graph_init.autodiff.forms import FORMS

    chosen, rng = choose(engine), np.random.default_rng(0)
    outcomes = []
    for precision, forms in ((TensorProto.FLOAT, FORMS[chosen.kernels]), (TensorProto.DOUBLE, {})):
        b = Builder(precision, fuses=True, forms=forms)
        xs = [b.input(f"x{k}", precision, s, requires_grad=True) for k, s in enumerate(shapes)]
        y = make(b, *xs)
        program = b.program([b.barrier(b.cast(y, precision))], unused_inputs=True)
        outcomes.append(program)
    feeds = {f"x{k}": rng.standard_normal(s) for k, s in enumerate(shapes)}
    single = {n: a.astype(np.float32) for n, a in feeds.items()}
    (got,) = open_session(outcomes[0], chosen)(single).values()
    (want,) = evaluator(outcomes[1].model)(feeds)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("engine", KERNELS, indirect=True)
def test_backend_cases_give_their_outputs(engine: str, step: int) -> None:
    outcomes = operator_report.lowering(node_cases.load()[::step])
    assert not [f"{o.case.name}: {o.why}" for o in outcomes if o.status == "different"]
    assert sum(o.status == "equal" for o in outcomes) > 1200 // step


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("engine", KERNELS, indirect=True)
def test_derivatives_of_backend_cases(engine: str, step: int) -> None:
    """As many cases on every engine: none can be refused by one and computed by another."""
    cases = [c for c in node_cases.load() if not c.expanded][::step]
    found = [derivatives(c, engine) for c in cases]
    assert not [f"{c.case.name}: {c.errors}" for c in found if c.status == "different"]
    assert sum(c.status == "equal" for c in found) > 700 // step


@needs_torch
def test_pytorch_has_every_primitive() -> None:
    from graph_init.autodiff.rules import RULES as DERIVATIVES
    from graph_init.engine.torch_ops import OPERATORS

    assert set(OPERATORS) >= PRIMITIVES | set(DERIVATIVES) - {"StopGradient"}


# -- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize(
    "name",
    [
        "plain_cnn",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("resnet", "vit", "bert", "llama")),
    ],
)
def test_a_measurement_equals_triple_backprop(name: str, engine: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from tests import test_oracle

    test_oracle.test_unoptimised_export(name, tmp_path)


@pytest.mark.parametrize("engine", KERNELS, indirect=True)
@pytest.mark.parametrize(
    "name", ["SqueezeBert", *(pytest.param(n, marks=pytest.mark.long) for n in ("Swin", "Mamba"))]
)
def test_an_architecture(name: str, engine: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("onnxscript")
    from tests import test_architectures
    from tests.architectures import ARCHITECTURES

    architecture = next(a for a in ARCHITECTURES if a.name == name)
    test_architectures.test_architecture(architecture, tmp_path)


# -- sessions ------------------------------------------------------------------------------------


def _program(*outputs: str) -> Program:
    """x and y of shape (3,): ``same`` is x, ``double`` is 2x, ``again`` is the same number."""
    b = Builder()
    x, y = (b.input(n, TensorProto.FLOAT, (3,)) for n in "xy")
    double = b.add(x, x)
    made = {
        "same": b.barrier(x),
        "double": b.barrier(double),
        "again": b.barrier(double),
        "product": b.barrier(b.mul(x, y)),
    }
    for name, value in made.items():
        value.name = name
    return b.program([made[n] for n in outputs])


@pytest.mark.parametrize("engine", KERNELS, indirect=True)
def test_what_comes_out_shares_no_memory(engine: str) -> None:
    session = open_session(_program("same", "double", "again"))
    x = np.arange(3, dtype=np.float32)
    found = session({"x": x})
    for name in found:
        found[name][...] += 10
    np.testing.assert_array_equal(x, [0, 1, 2])
    np.testing.assert_array_equal(found["same"], [10, 11, 12])
    np.testing.assert_array_equal(found["double"], [10, 12, 14])
    np.testing.assert_array_equal(found["again"], [10, 12, 14])


@pytest.mark.parametrize("engine", KERNELS, indirect=True)
def test_outputs_are_written_where_the_caller_says(engine: str) -> None:
    session = open_session(_program("same", "product"))
    x, y, there = (np.full(3, k, np.float32) for k in (2, 3, 0))
    x.flags.writeable = False
    session.fix({"x": x})
    found = session({"y": y, "unknown": y}, {"product": there})
    assert found["product"] is there
    np.testing.assert_array_equal(there, [6, 6, 6])
    run = session.bind({"x": x}, {"same": np.zeros(3, np.float32), "product": there})
    run({"y": 2 * y})
    np.testing.assert_array_equal(there, [12, 12, 12])


@pytest.mark.parametrize("engine", KERNELS, indirect=True)
def test_an_index_out_of_range_is_told_with_its_node(engine: str) -> None:
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (3, 2))
    index = b.input("index", TensorProto.INT64, (2,))
    b.source_node = "lookup"
    program = b.program([b.op("Gather", x, index, axis=0)])
    feeds = {"x": np.zeros((3, 2), np.float32), "index": np.array([0, 7])}
    with pytest.raises(UnsupportedModelError, match="Gather.*3×2 and 2 fails.*--data"):
        open_session(program)(feeds)


@needs_torch
def test_pytorch_gives_values_up_behind_their_last_reader() -> None:
    from graph_init.engine.torch_session import TorchSession

    b = Builder()
    value = b.input("x", TensorProto.FLOAT, (8,))
    for _ in range(5):
        value = b.op("Sin", b.op("Exp", value))
    steps = TorchSession(b.program([value]))._steps
    # Each step's result dies at the next; the input is the caller's.
    assert [len(s.dead) for s in steps] == [0] + [1] * (len(steps) - 1)


@needs_torch
def test_pytorch_goes_back_to_its_own_number_of_threads() -> None:
    import torch

    before = torch.get_num_threads()
    with pytorch.limited_to(3):
        with pytorch.limited_to(3):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


@needs_torch
def test_what_pytorch_has_not_is_computed_by_the_reference() -> None:
    b = Builder()
    text = b.input("text", TensorProto.STRING, (2,))
    x = b.input("x", TensorProto.FLOAT, (2, 2))
    b_equal = b.op("Equal", text, b.constant(np.array(["a", "b"], object), TensorProto.STRING))
    found = b.op("Where", b.reshape(b_equal, [2, 1]), x, b.op("Det", x))
    session = open_session(b.program([found]), choose(TORCH))
    feeds = {"text": np.array(["a", "c"], object), "x": np.array([[1, 2], [3, 4]], np.float32)}
    (got,) = session(feeds).values()
    np.testing.assert_allclose(got, [[1, 2], [-2, -2]], rtol=1e-6)


# -- which engine --------------------------------------------------------------------------------


def _without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@needs_torch
def test_auto_is_pytorch_where_there_is_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_onnxruntime(monkeypatch)
    chosen = choose()
    assert chosen.is_torch and chosen.own and chosen.version.startswith("torch 2.")
    with pytest.raises(EngineError, match=r"onnxruntime cannot be imported.*graph-init\[cpu\]"):
        choose(PLAIN)


def test_no_engine_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_onnxruntime(monkeypatch)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"graph-init\[cpu\]"):
        choose()
    with pytest.raises(EngineError, match=r"torch cannot be imported.*graph-init\[torch\]"):
        choose(TORCH)


def test_a_wrong_name_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tvm")
    with pytest.raises(UsageError, match=f"{VARIABLE} is one of auto, .*torch, not 'tvm'"):
        choose()


def _with_devices(monkeypatch: pytest.MonkeyPatch, *there: str) -> None:
    monkeypatch.setattr(pytorch, "devices", lambda: there)


@needs_torch
def test_devices_are_those_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    _with_devices(monkeypatch, "cpu")
    with pytest.raises(UsageError, match="--device cuda: the installed PyTorch finds no such"):
        choose(TORCH, "cuda")
    with pytest.raises(UsageError, match="--device is one of auto, cpu, cuda, mps, not 'tpu'"):
        choose(TORCH, "tpu")
    assert choose(TORCH, "auto").device == "cpu"
    _with_devices(monkeypatch, "cpu", "cuda")
    assert choose(TORCH, "auto").device == "cuda"


@needs_torch
def test_auto_takes_the_engine_that_has_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(runtime, "devices", lambda: ("cpu",))
    _with_devices(monkeypatch, "cpu", "mps")
    assert choose("auto", "mps") == choice.Engine(TORCH, TORCH, True, "mps")
    assert choose("auto", "auto").device == "mps"
    assert not choose("auto", "cpu").is_torch
    with pytest.raises(UsageError, match="--device mps: onnxruntime has no such.*--engine torch"):
        choose(PLAIN, "mps")


@needs_torch
def test_float64_on_a_device_without_it_is_refused() -> None:
    from graph_init.engine.torch_session import TorchSession

    b = Builder(TensorProto.DOUBLE)
    program = b.program([b.op("Exp", b.input("x", TensorProto.DOUBLE, (2,)))])
    with pytest.raises(UsageError, match="--device mps has no float64.*--device cpu"):
        TorchSession(program, "mps")


#: All that a PyTorch module goes through, in a process in which onnxruntime cannot be imported.
_ALONE = """
import sys
sys.modules["onnxruntime"] = None
import numpy as np, torch
import graph_init
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
given = dict(args=(torch.zeros(4, 6),))
assert len(graph_init.inspect(model, **given).parameters) == 4
found = graph_init.measure(model, **given)
assert found.engine.startswith("torch "), found.engine
result = graph_init.initialize(model, scheme="he", tuner="metainit", steps=3, **given)
assert result.settings["engine"].startswith("torch ")
result = graph_init.initialize(model, scheme="lsuv", tuner="restore", updates=5, **given)
print("done")
"""


@needs_torch
def test_a_pytorch_module_needs_no_onnxruntime() -> None:
    pytest.importorskip("onnxscript")
    found = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:graph_init", "-c", _ALONE],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("done")


@needs_torch
def test_all_commands_take_the_engine(tmp_path: Path) -> None:
    import json

    from click.testing import CliRunner

    from graph_init.cli import cli

    path, rows = tmp_path / "model.onnx", tmp_path / "rows.npz"
    onnx.save(plain_cnn(2, channels=4), path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(rows, x=x, target=rng.integers(0, 10, 40))
    for command in (
        ["measure", str(path), "--engine", "torch", "--device", "cpu", "--json"],
        [
            "compare",
            str(path),
            "--data",
            str(rows),
            "--engine",
            "torch",
            "--seeds",
            "1",
            "--updates",
            "3",
            "--scheme",
            "he",
            "--batch-size",
            "8",
            "--json",
        ],
    ):
        found = CliRunner().invoke(cli, command)
        assert found.exit_code == 0, found.output
        assert "torch 2." in json.dumps(json.loads(found.stdout))
