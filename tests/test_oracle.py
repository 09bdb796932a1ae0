"""``measure --data`` against PyTorch's triple backprop in float64, on exported models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import graph_init  # noqa: E402
from tests.oracle_models import CASES, Case, export  # noqa: E402
from tests.torch_oracle import deviation  # noqa: E402

TRANSFORMERS = {"vit", "bert", "gpt2", "llama"}


def make(name: str) -> Case:
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    return CASES[name]()


def compare(case: Case, path: Path, names: dict[str, str], double: torch.nn.Module) -> None:
    """``names`` maps initializers to parameters of ``double``."""
    arrays = {"x": case.example.numpy(), "target": case.target.numpy()}
    np.savez(path.with_suffix(".npz"), **arrays)
    found = graph_init.measure(
        path, data=path.with_suffix(".npz"), loss="cross-entropy", scale_gradient=True
    )
    parameters = dict(double.named_parameters())
    rows = {r["name"]: r for r in found.parameters}
    assert set(rows) == set(names)
    oracle = deviation(lambda: case.loss(double), {n: parameters[p] for n, p in names.items()})
    assert found.elements == sum(parameters[p].numel() for p in names.values())
    assert found.loss == pytest.approx(oracle.loss, rel=1e-5)
    assert found.gradient_deviation == pytest.approx(oracle.gradient_deviation, rel=1e-3)
    scaled = [n for n in rows if "log_scale_gradient" in rows[n]]
    ours = np.array([rows[n]["log_scale_gradient"] for n in scaled])
    theirs = np.array([oracle.log_scale_gradient[n] for n in scaled])
    large = np.abs(theirs) > 1e-4 * np.abs(theirs).max()
    assert (np.sign(ours) == np.sign(theirs))[large].mean() >= 0.98
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9999


@pytest.mark.parametrize("name", CASES)
def test_unoptimised_export(name: str, tmp_path: Path) -> None:
    case = make(name)
    export(case, tmp_path / "model.onnx", optimize=False)
    double = case.model.double()
    names = {n: n for n, _ in double.named_parameters()}
    compare_tied(case, tmp_path / "model.onnx", names, double)


def compare_tied(case: Case, path: Path, names: dict[str, str], double: torch.nn.Module) -> None:
    """Of tied parameters the file keeps one name, which may not be the one PyTorch lists."""
    found = {p.name for p in graph_init.inspect(path).parameters if p.trainable}
    missing, extra = set(names) - found, found - set(names)
    every = dict(double.named_parameters(remove_duplicate=False))
    for name in missing:
        twin = next(n for n in extra if every[n] is every[name])
        names[twin] = names.pop(name)
    compare(case, path, names, double)


@pytest.mark.parametrize("name", ["plain_cnn", "llama"])
def test_optimised_export(name: str, tmp_path: Path) -> None:
    """Where the exporter keeps the parameters' values, found by content, in any orientation."""
    case = make(name)
    with torch.no_grad():  # equal tensors would be merged into one, which changes the model
        for parameter in case.model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    path = tmp_path / "model.onnx"
    export(case, path, optimize=True)
    import onnx_ir

    model = onnx_ir.load(path)
    double = case.model.double()
    names = {}
    for p in graph_init.inspect(path).parameters:
        if not p.trainable or p.tied_to is not None:
            continue
        tensor = model.graph.initializers[p.name].const_value
        assert tensor is not None
        value = torch.from_numpy(np.array(tensor.numpy())).double()
        names[p.name] = next(n for n, q in double.named_parameters() if _same(q.data, value))
    compare(case, path, names, double)


def _same(parameter: torch.Tensor, stored: torch.Tensor) -> bool:
    if parameter.numel() != stored.numel():
        return False
    if parameter.ndim == 2 and torch.equal(parameter.T, stored):
        return True
    return torch.equal(parameter.reshape(stored.shape), stored)
