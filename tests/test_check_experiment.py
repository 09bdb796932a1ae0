"""The experiment on ``check``: its quick form, what it plants, and how it counts."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

import graph_init
from tools.experiments import check, check_faults, check_models
from tools.experiments.check_faults import Model
from tools.experiments.check_tables import Case


def test_the_quick_form_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = argparse.Namespace(
        quick=True, part="all", models=None, missed=True, cached=False, cache=str(tmp_path)
    )
    lines = check.experiment(given)
    rows = [line for line in lines if line.startswith("| a factor of 10")]
    assert (
        rows == ["| a factor of 10 | 1 | 1/1 (100%) | 1/1 (100%) | 1/1 (100%) | 1/1 (100%) |"] * 2
    )
    assert any(re.match(r"\| all \| 0/1 .* 0/1 ", line) for line in lines)
    # What is there is not computed again.
    monkeypatch.setattr(check, "evidence", None)
    assert check.experiment(given) == lines


@pytest.fixture(scope="module")
def model() -> Model:
    proto = check_models.torch_model("cnn", "he")
    return Model("torch/cnn/he", proto, graph_init.inspect(proto).parameters)


@pytest.mark.parametrize("name", [*check_faults.EVERY, *check_faults.OWN])
def test_a_fault_changes_what_it_says(model: Model, name: str) -> None:
    fault = {**check_faults.EVERY, **check_faults.OWN}[name]
    made = next(fault(model), None)
    assert made is not None
    proto = model.with_values(made.values)
    other = Model(model.name, proto, graph_init.inspect(proto).parameters)
    changed = {n for n, v in model.values.items() if not np.array_equal(v, other.value(n))}
    assert changed == set(made.values)
    assert changed & set(made.right)
    if name.startswith("a factor of "):
        (tensor,) = changed
        ratio = np.linalg.norm(other.value(tensor)) / np.linalg.norm(model.value(tensor))
        assert max(ratio, 1 / ratio) == pytest.approx(float(name.split()[-1]), rel=1e-4)


def test_a_place_is_counted_among_tensors_and_only_what_is_new() -> None:
    found = [
        ("GI121", "error", "a", ""),
        ("GI122", "error", "a", ""),
        ("GI201", "error", "", ""),
        ("GI124", "warning", "b", ""),
        ("GI104", "note", "c", ""),
    ]
    assert Case("m", "f", found=found, right=["a"]).place == 0
    assert Case("m", "f", found=found, right=["b"]).place == 1
    assert Case("m", "f", found=found, right=["c"]).place is None
    assert Case("m", "f", found=found, right=["b"], known=[["GI124", "b"]]).place is None
    assert Case("m", "f", found=found, right=["a"]).is_error
    assert not Case("m", "f", found=found, right=["b"]).is_error


def test_about_half_of_the_models_are_held_out() -> None:
    parts = [s.held_out for s in check_models.sound()]
    assert 0.4 < sum(parts) / len(parts) < 0.6
