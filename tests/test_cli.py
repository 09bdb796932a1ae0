"""The command line: exit statuses, JSON, and that a failure leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import graph_init
from graph_init.cli import cli
from tests.small_models import one_layer, plain_cnn


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(plain_cnn(3), path)
    return path


def test_json_is_the_only_thing_on_standard_output(model: Path, tmp_path: Path) -> None:
    found = json.loads(run("measure", model, "--scale-gradient", "--json").stdout)
    keys = "gradient_deviation loss gradient_norm vanished_fraction elements method epsilon"
    assert set(keys.split()) | {"parameters"} <= set(found)
    row = found["parameters"][0]
    assert {"name", "kind", "shape", "elements", "scalable", "norm", "gradient_deviation"} < set(
        row
    )
    assert "log_scale_gradient" in row
    listed = json.loads(run("inspect", model, "--json").stdout)["parameters"]
    assert {
        "name",
        "kind",
        "shape",
        "dtype",
        "trainable",
        "scalable",
        "reason",
        "consumers",
    } <= set(listed[0])
    out = tmp_path / "out.onnx"
    done = run("initialize", model, "-o", out, "--updates", 2, "--json")
    content = json.loads(done.stdout)
    assert {"output", "before", "after", "steps", "seconds", "history", "scales"} <= set(content)
    assert content["output"] == str(out) and out.exists()


def test_tables_for_people(model: Path, tmp_path: Path) -> None:
    scales, out = tmp_path / "s.json", tmp_path / "out.onnx"
    assert "fan-in" in run("inspect", model).stdout
    assert "gradient deviation" in run("measure", model).stdout
    done = run("initialize", model, "-o", out, "--updates", 1, "--save-scales", scales)
    assert done.exit_code == 0 and "vanished fraction" in done.stdout
    assert run("apply", scales, model, "-o", tmp_path / "again.onnx").exit_code == 0
    assert run("doctor").exit_code == 0


@pytest.mark.parametrize(("scheme", "told"), [("keep", False), ("he", True)])
def test_apply_says_that_scales_are_for_other_weights(
    model: Path, tmp_path: Path, scheme: str, told: bool
) -> None:
    scales, out = tmp_path / "s.json", tmp_path / "out.onnx"
    run("initialize", model, "-o", out, "--scheme", scheme, "--updates", 1, "--save-scales", scales)
    found = run("apply", scales, model, "-o", out, "--json")
    assert found.exit_code == 0
    assert ("weights of --scheme he" in found.stderr) == told
    assert len(json.loads(found.stdout)["notes"]) == told


@pytest.mark.parametrize(
    "arguments",
    [
        ("measure", "{model}", "--batch-size", "none"),
        ("measure", "{model}", "--freeze", "("),
        ("measure", "{model}", "--dim", "nothing=3"),
        ("measure", "{model}", "--data", "{folder}/none.npz"),
        ("initialize", "{model}", "-o", "{folder}/o.onnx", "--scheme", "hee"),
        ("initialize", "{model}", "-o", "{folder}/o.onnx", "--tuner", "metaint"),
        ("initialize", "{model}", "-o", "{folder}/missing/o.onnx", "--updates", "1"),
    ],
)
def test_wrong_usage_is_2(model: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = run(*(a.format(model=model, folder=tmp_path) for a in arguments))
    assert found.exit_code == 2, found.output
    assert found.stderr


def test_unreadable_file_is_3(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"this is no model")
    for path in (tmp_path / "missing.onnx", garbage):
        found = run("measure", path)
        assert found.exit_code == 3 and path.name in found.stderr


def test_what_cannot_be_done_is_4_and_names_the_node(tmp_path: Path) -> None:
    path, out = tmp_path / "det.onnx", tmp_path / "out.onnx"
    onnx.save(one_layer("Det"), path)
    out.write_bytes(b"mine")
    found = run("initialize", path, "-o", out, "--updates", 1, "--dim", "n=4")
    assert found.exit_code == 4, found.output
    assert "'last'" in found.stderr and "Det" in found.stderr
    assert out.read_bytes() == b"mine"
    assert {p.name for p in tmp_path.iterdir()} == {"det.onnx", "out.onnx"}


def test_failed_numbers_are_5(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    onnx.save(one_layer("Exp", weight=1e30), path)
    found = run("measure", path)
    assert found.exit_code == 5 and "loss" in found.stderr


def test_anything_else_is_1(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(graph_init, "measure", fail)
    found = run("measure", model)
    assert found.exit_code == 1
    assert "boom" in found.stderr and "Traceback" not in found.output


def test_data_is_checked(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    x = np.zeros((4, 3, 8, 8), np.float32)
    for arrays, word in (
        ({"x": x}, "target"),
        ({"x": x, "target": np.full(4, 10)}, "classes"),
        ({"x": x[:, :2], "target": np.zeros(4, int)}, "shape"),
        ({"x": x, "target": np.zeros(3, int)}, "row"),
    ):
        np.savez(file, **arrays)
        found = run("measure", model, "--data", file)
        assert found.exit_code == 2 and word in found.stderr, found.output
