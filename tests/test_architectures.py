"""Architectures of ``transformers``: exported, measured, compared with triple backprop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

from tests.architecture_report import Result, evaluate
from tests.architectures import ARCHITECTURES, Architecture

#: One of each kind of layer; the rest takes minutes.
QUICK = frozenset({"SqueezeBert", "ConvNext", "Swin", "CLIP", "T5", "Mamba"})
#: Single precision against double: gradient deviation divides by gradients down to 1e-5.
TOLERANCE = 0.02

RESULTS: list[Result] = []


@pytest.fixture(scope="module", autouse=True)
def shares() -> Iterator[None]:
    """Print the share that is measured, and the reasons of the rest."""
    yield
    exported = [r for r in RESULTS if r.status != "not exported"]
    measured = [r for r in exported if r.status == "measured"]
    print(f"\n{len(measured)} of {len(exported)} exported architectures are measured")
    for r in RESULTS:
        if r.status != "measured":
            print(f"  {r.architecture.name}: {r.status}: {r.why}")


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=() if a.name in QUICK else pytest.mark.long) for a in ARCHITECTURES],
    ids=lambda a: a.name,
)
def test_architecture(architecture: Architecture, tmp_path: Path) -> None:
    result = evaluate(architecture, tmp_path)
    RESULTS.append(result)
    if result.status == "not exported":
        pytest.skip(f"PyTorch does not export it: {result.why}")
    assert result.status == "measured", result.why
    assert result.deviation >= 0
    if result.error is not None:
        assert result.error < TOLERANCE


@pytest.mark.long
def test_at_least_90_percent_of_40_are_measured() -> None:
    exported = [r for r in RESULTS if r.status != "not exported"]
    assert len(exported) >= 40
    assert sum(r.status == "measured" for r in exported) / len(exported) >= 0.9
