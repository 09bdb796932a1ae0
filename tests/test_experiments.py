"""The quick form of every experiment, in this process, and the statistics that they share."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("mnist1d")

from tools.experiments import laboratory, study
from tools.experiments.networks import NETWORKS

EXPERIMENTS = (
    "alternatives",
    "curves",
    "depth",
    "outcomes",
    "prediction",
    "random_or_real",
    "recovery",
    "skips_and_norms",
    "ties",
    "transfer",
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def serial(function: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
        return [function(j) for j in jobs]

    monkeypatch.setattr(study, "parallel", serial)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_all_experiments_are_tested() -> None:
    folder = Path(study.__file__).parent
    found = {p.stem for p in folder.glob("*.py") if "study.main(" in p.read_text(encoding="utf-8")}
    assert found - {"study"} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_quick_form(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tools.experiments.{name}")
    given = argparse.Namespace(quick=True, write=False, networks=[], **study.QUICK)
    page = module.experiment(given)
    rows = [line for line in page.lines if line.startswith("| ")]
    assert len(rows) >= 2
    columns = {row.count("|") for row in rows}
    assert len(columns) <= 3  # whole tables
    numbers = [
        float(x) for row in rows for x in re.findall(r"(?<![\w.-])\d+\.?\d*(?:e-?\d+)?", row)
    ]
    assert numbers and np.isfinite(numbers).all()
    for picture in page.pictures.values():
        picture.savefig(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_pair_of_states_is_compared_by_seed() -> None:
    rows = [
        study.Row("n", "off", t, seed, losses={"sgd": loss}, rates={"sgd": 0.1})
        for t, losses in (("start", (1.0, 2.0, 4.0)), ("restore", (0.5, 1.0, 2.0)))
        for seed, loss in enumerate(losses)
    ]
    found = study.Study(
        [*rows, study.Row("n", "off", "restore", 7, losses={"sgd": 9.0}, rates={"sgd": 0.1})]
    )
    differences = found.differences(("n", "off", "restore"), ("n", "off", "start"))
    assert differences == pytest.approx([np.log(0.5)] * 3)
    assert study.verdict(differences) == "better"
    assert study.verdict([-d for d in differences]) == "worse"
    assert study.verdict([-1.0, 1.0, 0.1]) == study.verdict([-1.0]) == "–"
    assert study.ratio(differences) == "×0.50 [0.50, 0.50]"


def test_rows_survive_their_file(tmp_path: Path) -> None:
    row = study.Row(
        "n",
        "off",
        "start",
        3,
        losses={"sgd": 0.25, "adam": 2.0},
        rates={"sgd": 0.1, "adam": np.nan},
    )
    study.record(study.Study([row]), tmp_path / "rows.csv")
    (read,) = study.read(tmp_path / "rows.csv")
    assert read.losses == row.losses and read.key == row.key
    assert read.rates["sgd"] == 0.1 and np.isnan(read.rates["adam"])
    assert not read.trained


def test_a_state_that_two_treatments_share_is_trained_from_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For an MLP delta-orthogonal is orthogonal."""
    counted = []
    outcome = laboratory.Subject.outcome

    def count(*args: Any, **kwargs: Any) -> laboratory.Outcome:
        counted.append(args)
        return outcome(*args, **kwargs)

    monkeypatch.setattr(laboratory.Subject, "outcome", count)
    cases = [
        study.Case("mlp-tanh", NETWORKS["mlp-tanh"], "default", t, seed=0, updates=3)
        for t in ("orthogonal", "delta-orthogonal", "xavier")
    ]
    found = study.train(cases)
    assert len(found.rows) == 3 and len(counted) == 2
    losses = {r.treatment: r.losses for r in found.rows}
    assert losses["orthogonal"] == losses["delta-orthogonal"] != losses["xavier"]
