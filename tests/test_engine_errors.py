"""What an engine refuses or fails at is one line with the user's node; --debug has the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_init.engine import failures
from graph_init.engine.session import open_session
from graph_init.errors import UnsupportedModelError
from graph_init.ir import Builder, Site, Value
from graph_init.lowering import run
from tests import jitter, zoo_runs
from tests.small_models import model

pytest.importorskip("onnxruntime")

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64
#: What no user should have to read.
_FOREIGN = re.compile(r"onnxruntime|ONNXRuntimeError|::|\.cc:|\.h:|Traceback|Status Message|\x1b")


def _weight(name: str, *shape: int) -> TensorProto:
    array = np.random.default_rng(0).standard_normal(shape)
    return numpy_helper.from_array(array.astype(np.float32), name)


def _ints(name: str, *numbers: int) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[str | int]]],
    weights: list[TensorProto],
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    result = [helper.make_tensor_value_info("y", _FLOAT, None)]
    return model(nodes, given, result, weights)


def _lookup() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Add", ["ids", "offset"], ["moved"], "shift"),
            helper.make_node("Gather", ["table", "moved"], ["e"], "tokens/look"),
            helper.make_node("MatMul", ["e", "w"], ["y"], "head"),
        ],
        {"ids": (_INT, ["n", 5])},
        [_weight("table", 10, 8), _ints("offset", 100), _weight("w", 8, 3)],
    )


def _product() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "enc/fc1"),
            helper.make_node("MatMul", ["h", "w2"], ["y"], "enc/fc2"),
        ],
        {"x": (_FLOAT, ["n", 32])},
        [_weight("w", 8, 6), _weight("w2", 6, 3)],
    )


def _join() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Concat", ["x", "z"], ["h"], "join", axis=1),
            helper.make_node("MatMul", ["h", "w"], ["y"], "head"),
        ],
        {"x": (_FLOAT, ["n", 8, 32]), "z": (_FLOAT, ["n", 8, 5])},
        [_weight("w", 5, 3)],
    )


def _view() -> onnx.ModelProto:
    return _model(
        [
            helper.make_node("Reshape", ["x", "s"], ["h"], "flat/view"),
            helper.make_node("MatMul", ["h", "w"], ["y"], "head"),
        ],
        {"x": (_FLOAT, [4, 32])},
        [_ints("s", -1, 7), _weight("w", 7, 3)],
    )


def _images(op: str, channels: int, **attributes: Any) -> onnx.ModelProto:
    return _model(
        [
            helper.make_node(op, ["x", "k"], ["h"], "stem/conv", **attributes),
            helper.make_node("GlobalAveragePool", ["h"], ["y"], "pool"),
        ],
        {"x": (_FLOAT, ["n", channels, 8, 8])},
        [_weight("k", 3, 3, 3, 3)],
    )


#: Model, what the one line must hold: node, operator, shapes, reason, remedy.
def _recurrent() -> onnx.ModelProto:
    """The file does not say how wide the input is that W reads."""
    return _model(
        [
            helper.make_node("RNN", ["x", "W", "R"], ["", "h"], "cell", hidden_size=5),
            helper.make_node("Squeeze", ["h", "zero"], ["y"]),
        ],
        {"x": (_FLOAT, [4, 32, 32])},
        [_weight("W", 1, 5, 7), _weight("R", 1, 5, 5), _ints("zero", 0)],
    )


_CASES = {
    "an index out of range, at run": (
        _lookup(),
        ["'tokens/look' (Gather)", "10×8 and 4×5", "idx=10", "--data"],
    ),
    "a product that does not fit, before any engine": (
        _product(),
        ["'enc/fc1' (MatMul)", "(4, 32), (8, 6)", "32 columns, the second 8 rows", "--dim"],
    ),
    "parts that cannot be joined, before any engine": (
        _join(),
        ["'join' (Concat)", "(4, 8, 32), (4, 8, 5)", "joined along axis 1", "--dim"],
    ),
    "a view of another size, at run": (
        _view(),
        ["'flat/view' (Reshape)", "4×32", "Input shape:{4,32}, requested shape:{18,7}", "--dim"],
    ),
    "a recurrent layer's width": (
        _recurrent(),
        ["'cell' (RNN)", "(4, 32, 32)", "32 columns, the second 7 rows", "--dim"],
    ),
    "channels that do not fit, at run": (
        _images("Conv", 32),
        ["'stem/conv' (Conv)", "4×32×8×8 and 3×3×3×3", "kernel channels: 3", "--dim"],
    ),
    "a negative stride, before any engine": (
        _images("ConvTranspose", 3, strides=[-1, 1]),
        ["'stem/conv' (ConvTranspose)", "strides [-1, 1]", "at least 1"],
    ),
}


def _measure(folder: Path, found: onnx.ModelProto, *options: str) -> tuple[int, str, str]:
    onnx.save(found, folder / "model.onnx")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "graph_init",
            "measure",
            "model.onnx",
            "--batch-size",
            "4",
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": jitter.python_path()},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("case", _CASES)
def test_a_failure_is_one_line_with_node_operator_shapes_and_remedy(
    case: str, tmp_path: Path
) -> None:
    found, words = _CASES[case]
    status, output, errors = _measure(tmp_path, found)
    assert (status, output) == (4, ""), errors
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert not _FOREIGN.search(errors), errors
    for word in words:
        assert word in errors
    assert len(errors) < 450


def test_the_debug_log_has_the_engines_own_words(tmp_path: Path) -> None:
    status, _, errors = _measure(tmp_path, _view(), "--debug", "log.txt")
    log = (tmp_path / "log.txt").read_text()
    assert status == 4
    assert len(errors.splitlines()) == 1
    assert errors.removeprefix("error: ").strip() in log
    for whole in ("Traceback", "Status Message", "reshape_helper.h", "arguments: ['measure'"):
        assert whole in log
    # Another run begins it again; a file of another kind is never written over.
    assert _measure(tmp_path, _lookup(), "--debug", "log.txt")[0] == 4
    assert "reshape_helper.h" not in (tmp_path / "log.txt").read_text()
    status, _, errors = _measure(tmp_path, _lookup(), "--debug", "model.onnx")
    assert (status, "--debug model.onnx: another file" in errors) == (2, True)
    onnx.load(tmp_path / "model.onnx")
    assert _measure(tmp_path, _lookup(), "--debug", "none/log.txt")[0] == 1


def test_the_debug_log_of_a_zoo_has_what_its_processes_met(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name, found in (("look", _lookup()), ("view", _view())):
        onnx.save(found, models / f"{name}.onnx")
    log = tmp_path / "log.txt"
    status, _, errors = zoo_runs.run(models, "-o", tmp_path / "out", "--debug", log)
    assert status == 1
    assert not _FOREIGN.search(errors), errors
    failed = {r["name"]: r["error"] for r in zoo_runs.journal(tmp_path / "out")}
    assert set(failed) == {"look", "view"}
    assert not _FOREIGN.search(json.dumps(failed))
    text = log.read_text()
    assert "\nlook\nTraceback" in text
    assert "\nview\nTraceback" in text
    assert text.count("Status Message") == 2


def test_a_lack_of_memory_says_how_much_and_what_takes_less(
    capfd: pytest.CaptureFixture[str],
) -> None:
    b = Builder()
    environment: dict[str, Value | None]
    environment = {"x": b.input("x", _FLOAT, (1,)), "s": b.ints([1 << 42])}
    run(b, [helper.make_node("Expand", ["x", "s"], ["y"], "blow/up")], environment, 17)
    y = environment["y"]
    assert y is not None
    session = open_session(b.program([b.sum(y)]))
    with pytest.raises(UnsupportedModelError) as caught:
        session({"x": np.ones(1, np.float32)})
    said = str(caught.value)
    assert "not enough memory for another 1.76e+04 GB" in said
    assert "'blow/up' (Expand)" in said
    assert "--micro-batch" in said
    assert not _FOREIGN.search(said)
    assert capfd.readouterr().err == ""


def test_an_operator_that_the_engine_does_not_have_is_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    b = Builder()
    environment: dict[str, Value | None] = {"x": b.input("x", TensorProto.STRING, (3,))}
    run(b, [helper.make_node("Neg", ["x"], ["y"], "cut/here")], environment, 17)
    y = environment["y"]
    assert y is not None
    with pytest.raises(UnsupportedModelError, match=r"'cut/here' \(Neg\).*refused by the engine"):
        open_session(b.program([y]))
    assert capfd.readouterr().err == ""


def test_a_derivative_fails_under_the_name_of_its_node() -> None:
    sites = {"n:Mul#3": Site("Mul", "gate", "Swish", ((2, 3), ()))}
    text = (
        "Non-zero status code returned while running Sum node. Name:'n:Mul#3_Grad/Sum_0' Status "
        "Message: /src/a.cc:12 virtual void onnxruntime::A::B(int (*)(int), const X&) const "
        "a == b was false. The sizes differ\nStacktrace"
    )
    said = str(failures.translated(RuntimeError(text), "fails", sites))
    assert said.startswith(
        "node 'gate' (Swish), in its Mul, on inputs of 2×3 and a number fails: The sizes differ; "
    )
    # A signature alone is no reason.
    text = "/src/b.cc:7 void onnxruntime::C<T>::D(U&) [with T = int] e != nullptr was false."
    said = str(failures.translated(RuntimeError(text), "fails", sites))
    assert said.startswith("the model's graph fails; ")
