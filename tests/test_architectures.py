"""Architectures of ``transformers``: exported, measured, compared with triple backprop."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

from tests.architecture_report import evaluate
from tests.architectures import ARCHITECTURES, Architecture

#: One of each kind of layer; the rest takes minutes.
QUICK = frozenset({"SqueezeBert", "ConvNext", "Swin", "CLIP", "T5", "Mamba"})
#: Single precision against double: gradient deviation divides by gradients down to 1e-5.
TOLERANCE = 0.02

#: PyTorch's exporter refuses these; all others have to be measured.
NOT_EXPORTED = frozenset({"Nystromformer", "Mixtral", "Cvt", "Vilt"})


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=() if a.name in QUICK else pytest.mark.long) for a in ARCHITECTURES],
    ids=lambda a: a.name,
)
def test_architecture(architecture: Architecture, tmp_path: Path) -> None:
    result = evaluate(architecture, tmp_path)
    if result.status == "not exported" and architecture.name in NOT_EXPORTED:
        pytest.skip(f"PyTorch does not export it: {result.why}")
    assert result.status == "measured", result.why
    assert result.deviation >= 0
    if result.error is not None:
        assert result.error < TOLERANCE
