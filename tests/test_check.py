"""``check``: planted faults are found at the right tensor, sound models are left in peace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import graph_init
import graph_init_torch
from graph_init.check import RULES, schemes, statistics
from graph_init.check.evidence import Evidence
from graph_init.check.sarif import sarif
from graph_init.errors import UsageError
from tools import rule_examples, rule_page

ROWS = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))


def mlp(depth: int = 6, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """24 → 32 → … → 5, as PyTorch draws it."""
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Linear(24, 32), activation()]
    for _ in range(depth - 2):
        layers += [nn.Linear(32, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 5))


def cnn() -> nn.Sequential:
    """Layers of different shapes, so that no weight has siblings."""
    torch.manual_seed(4)
    channels = (3, 16, 24, 32, 48)
    layers: list[nn.Module] = []
    for a, b in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def errors(found: graph_init.CheckResult) -> list[graph_init.Finding]:
    return [f for f in found.findings if f.severity == "error"]


@pytest.mark.parametrize(("model", "x"), [(mlp(), ROWS), (cnn(), IMAGES)], ids=["mlp", "cnn"])
def test_a_sound_model_has_no_error(model: nn.Module, x: torch.Tensor) -> None:
    found = graph_init_torch.check(model, (x,))
    assert errors(found) == []
    assert found.tensors == len(list(model.parameters()))
    assert not found.is_trained
    assert any("PyTorch's default" in f.message for f in found.findings if f.id == "GI120")


@pytest.mark.parametrize("factor", [0.2, 1 / 3, 3.0, 10.0])
@pytest.mark.parametrize(
    ("make", "x", "place", "rule"),
    [(mlp, ROWS, 4, "GI121"), (cnn, IMAGES, 4, "GI122")],
    ids=["beside siblings", "beside a scheme"],
)
def test_a_wrong_scale_is_named_first(
    make: Callable[[], nn.Sequential], x: torch.Tensor, place: int, rule: str, factor: float
) -> None:
    model = make()
    with torch.no_grad():
        model[place].weight *= factor
    first = graph_init_torch.check(model, (x,)).findings[0]
    assert (first.id, first.severity, first.tensor) == (rule, "error", f"{place}.weight")
    assert first.factor == pytest.approx(1 / factor, rel=0.15)


def test_a_norm_behind_a_layer_undoes_its_scale() -> None:
    torch.manual_seed(5)
    layers: list[nn.Module] = [nn.Linear(24, 32), nn.LayerNorm(32), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 5))
    with torch.no_grad():
        model[6].weight *= 5
    found = graph_init_torch.check(model, (ROWS,))
    assert errors(found) == []
    mine = next(f for f in found.findings if f.tensor == "6.weight")
    assert mine.severity == "warning"
    assert "undoes the scale" in mine.message


def _fill(value: float) -> Callable[[nn.Sequential], None]:
    def plant(model: nn.Sequential) -> None:
        model[4].weight.fill_(value)

    return plant


def _copy_rows(model: nn.Sequential) -> None:
    model[4].weight[20:] = model[4].weight[:12]


def _copy_layer(model: nn.Sequential) -> None:
    model[4].weight.copy_(model[2].weight)


def _low_rank(model: nn.Sequential) -> None:
    u, s, v = torch.linalg.svd(model[4].weight)
    s[16:] = 0
    model[4].weight.copy_(u @ torch.diag(s) @ v)


def _clip(model: nn.Sequential) -> None:
    drawn = torch.randn(32, 32) * 0.1
    model[4].weight.copy_(drawn.clamp(-0.1, 0.1))


PLANTED = {
    "GI101": _fill(float("nan")),
    "GI102": _fill(1e-40),
    "GI103": _fill(0.1),
    "GI105": _copy_layer,
    "GI106": _copy_rows,
    "GI107": _low_rank,
    "GI108": _clip,
}


_EQUAL = pytest.mark.exact("rows are equal to the bit, or they are not equal")


@_EQUAL
@pytest.mark.parametrize("rule", PLANTED)
def test_what_no_initialisation_means_is_found(rule: str) -> None:
    model = mlp()
    with torch.no_grad():
        PLANTED[rule](model)
    found = graph_init_torch.check(model, (ROWS,))
    assert "4.weight" in [f.tensor for f in found.findings if f.id == rule]
    assert not any(f.id == "GI104" for f in found.findings)  # what is not finite is not zero


def test_zero_weights_are_meant_where_they_learn() -> None:
    """A zero head is a note; a zero layer in the middle stops everything."""
    model = mlp()
    with torch.no_grad():
        model[-1].weight.zero_()
    found = graph_init_torch.check(model, (ROWS,))
    assert [f.severity for f in found.findings if f.id == "GI104"] == ["note"]
    model = mlp()
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.zero_()
    found = graph_init_torch.check(model, (ROWS,))
    assert [f.severity for f in found.findings if f.id == "GI104"] == ["error"]
    assert any(f.id == "GI201" and f.tensor == "4.weight" for f in errors(found))


def test_dead_and_saturated_units() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    found = graph_init_torch.check(model, (ROWS,))
    assert any(f.id == "GI204" and f.tensor == "2.weight" for f in errors(found))
    model = mlp(activation=nn.Tanh)
    with torch.no_grad():
        model[2].weight *= 300
    found = graph_init_torch.check(model, (ROWS,))
    assert any(f.id == "GI205" and f.tensor == "2.weight" for f in found.findings)


def test_an_explosion_is_found_where_it_begins() -> None:
    model = mlp()
    with torch.no_grad():
        for place in (4, 6, 8):
            model[place].weight *= 100
    found = graph_init_torch.check(model, (ROWS,))
    assert any(f.id == "GI202" for f in errors(found))


def test_curvature_is_that_of_autograd() -> None:
    """gᵀHg/gᵀg and the largest eigenvalue, against PyTorch's Hessian in float64."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(8, 6)
    y = torch.randn(8, 1)
    data = {"input": x.numpy(), "target": y.numpy()}
    name = graph_init_torch.export(model, (x,)).graph.input[0].name
    data[name] = data.pop("input")
    found = graph_init_torch.check(model, (x,), data=data, loss="mse").gradient
    assert found is not None
    theta = torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts, at = [], 0
        for p in model.parameters():
            parts.append(vector[at : at + p.numel()].reshape(p.shape))
            at += p.numel()
        hidden = torch.tanh(x.double() @ parts[0].T + parts[1])
        return ((hidden @ parts[2].T + parts[3] - y.double()) ** 2).mean()

    g = torch.func.grad(loss)(theta)
    hessian = torch.func.hessian(loss)(theta)
    assert found.norm == pytest.approx(float(g.norm()), rel=1e-4)
    assert found.curvature == pytest.approx(float(g @ hessian @ g / (g @ g)), rel=1e-3)
    top = float(torch.linalg.eigvalsh(hessian).abs().max())
    assert 0.5 * top <= abs(found.largest_eigenvalue) <= 1.001 * top


def test_fix_applies_the_factors_and_nothing_else() -> None:
    model = cnn()
    with torch.no_grad():
        model[4].weight *= 4
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = graph_init_torch.check(model, (IMAGES,), fix=True)
    assert set(found.factors) == {"4.weight"}
    for name, p in model.named_parameters():
        factor = found.factors.get(name, 1.0)
        torch.testing.assert_close(p.detach(), before[name] * factor)
    assert errors(graph_init_torch.check(model, (IMAGES,))) == []


def test_nothing_to_fix_changes_nothing() -> None:
    model = cnn()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = graph_init_torch.check(model, (IMAGES,), fix=True)
    assert found.factors == {}
    for name, p in model.named_parameters():
        assert torch.equal(p.detach(), before[name])


def test_it_says_which_inputs_are_drawn_positive() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.log(x))

    found = graph_init_torch.check(Logarithm(), (ROWS.abs() + 0.1,))
    assert any("drawn positive" in note for note in found.notes)


def test_a_file_that_looks_trained_is_said_so() -> None:
    model = mlp()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.1 * torch.randn(p.shape) ** 3
        model[4].weight *= 5
    found = graph_init_torch.check(model, (ROWS,))
    assert found.is_trained
    assert not any(f.id.startswith("GI12") for f in found.findings)
    assert any("looks trained" in note for note in found.notes)


@pytest.mark.parametrize(
    ("draw", "family"),
    [
        (lambda r: r.standard_normal((64, 64)), statistics.NORMAL),
        (lambda r: r.uniform(-1, 1, (64, 64)), statistics.UNIFORM),
        (lambda r: np.linalg.qr(r.standard_normal((64, 64)))[0], statistics.ORTHOGONAL),
    ],
)
def test_what_a_tensor_was_drawn_from(draw: Callable[[Any], Any], family: str) -> None:
    array = draw(np.random.default_rng(0)).astype(np.float32)
    assert statistics.statistics(array).family == family


def test_statistics_of_odd_tensors() -> None:
    assert statistics.statistics(np.full(4, np.nan, np.float32)).nonfinite == 4
    assert statistics.statistics(np.full(9, 3e38, np.float32)).rms == pytest.approx(3e38)
    assert statistics.statistics(np.zeros((0, 3), np.float32)).size == 0


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = cnn()
    with torch.no_grad():
        model[4].weight *= 4
    path = tmp_path_factory.mktemp("check") / "model.onnx"
    graph_init_torch.export(model, (IMAGES,), path=path)
    return path


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graph_init", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_the_command(faulty: Path, tmp_path: Path) -> None:
    done = run(faulty, "--json", folder=tmp_path)
    assert done.returncode == 6, done.stderr
    content = json.loads(done.stdout)
    first = content["findings"][0]
    assert set(first) == {"id", "severity", "tensor", "message", "evidence", "factor", "help"}
    assert (first["id"], first["tensor"]) == ("GI122", "4.weight")
    assert content["tensors"] == 10
    (tmp_path / "pyproject.toml").write_text(
        '[tool.graph-init.check]\nfail-on = "error"\nignore = ["GI122"]\n'
    )
    assert run(faulty, folder=tmp_path).returncode == 0
    (tmp_path / "pyproject.toml").write_text("[tool.graph-init.check]\nignored = 1\n")
    done = run(faulty, folder=tmp_path)
    assert done.returncode == 2
    assert "there is no 'ignored'" in done.stderr
    for text in ("tool = 1\n", "[tool]\ngraph-init = 1\n", "[tool.graph-init]\ncheck = 1\n"):
        (tmp_path / "pyproject.toml").write_text(text)
        done = run(faulty, folder=tmp_path)
        assert done.returncode == 2
        assert "is no table" in done.stderr
    (tmp_path / "pyproject.toml").write_text("a = " + "[" * 5000)
    done = run(faulty, folder=tmp_path)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr


def test_rules_that_are_ignored(faulty: Path, tmp_path: Path) -> None:
    done = run(faulty, "--json", "--ignore", "GI122", "--ignore", "GI304", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    ids = {f["id"] for f in json.loads(done.stdout)["findings"]}
    assert ids and not ids & {"GI122", "GI304"}
    done = run(faulty, "--ignore", "scale", folder=tmp_path)
    assert done.returncode == 2
    assert "'scale' is no identifier of a rule" in done.stderr


def test_sarif_and_junit(faulty: Path, tmp_path: Path) -> None:
    done = run(faulty, "--format", "sarif", "--fail-on", "never", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    log = json.loads(done.stdout)
    assert log["version"] == "2.1.0"
    own = log["runs"][0]
    ids = [r["id"] for r in own["tool"]["driver"]["rules"]]
    assert ids == list(RULES)
    for result in own["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == faulty.as_posix()
    done = run(faulty, "--format", "junit", folder=tmp_path)
    suite = ElementTree.fromstring(done.stdout)
    assert int(suite.get("tests", 0)) == len(suite.findall("testcase")) == len(RULES)
    assert int(suite.get("failures", 0)) == len(suite.findall("testcase/failure")) == 1


def test_a_path_is_a_uri_in_sarif() -> None:
    log = sarif([graph_init.Finding("GI101", "error", "w", "…")], "my models/été.onnx")
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20models/%C3%A9t%C3%A9.onnx"


def test_fix_writes_a_file_in_which_one_tensor_has_changed(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "mended.onnx"
    assert run(faulty, "--fix", "-o", out, folder=tmp_path).returncode == 6
    old, new = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer}
        for p in (faulty, out)
    )
    changed = [n for n in old if not np.array_equal(old[n], new[n])]
    assert changed == ["4.weight"]
    assert run(out, folder=tmp_path).returncode == 0
    assert run(faulty, "--fix", folder=tmp_path).returncode == 2


def test_a_rule_that_is_not_there(faulty: Path) -> None:
    with pytest.raises(UsageError, match="no identifier of a rule"):
        graph_init.check(faulty, ignore=["scale"])


def test_the_page_of_the_rules_is_current() -> None:
    assert rule_page.PAGE.read_text(encoding="utf-8") == rule_page.page()


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=_EQUAL if rule == "GI106" else []) for rule in RULES],
)
def test_the_example_of_a_rule(rule: str) -> None:
    model, x = rule_examples.built(rule)
    own = [f for f in graph_init_torch.check(model, (x,)).findings if f.id == rule]
    assert own[0].severity == RULES[rule].severity


def test_known_schemes_are_found() -> None:
    model = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 100))
    torch.manual_seed(0)
    nn.init.kaiming_normal_(model[0].weight)
    nn.init.orthogonal_(model[2].weight)
    inspected = graph_init.inspect(model, args=(torch.randn(2, 200),)).parameters
    own = {n: p.detach().numpy() for n, p in model.named_parameters()}
    evidence = Evidence(inspected, own)
    names = {
        p.name: schemes.fitting(evidence.statistics[p.name], schemes.layer(p))
        for p in evidence.weights
    }
    assert "He (fan-in)" in names["0.weight"]
    assert "orthogonal" in names["2.weight"]
