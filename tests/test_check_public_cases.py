"""Faults that projects had, rebuilt from their descriptions: found, and gone where mended."""

from __future__ import annotations

import pytest

import graph_init_torch
from tools.experiments.check_cases import CASES, Public


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.build.__name__)
def test_the_fault_is_found_first(case: Public) -> None:
    model, example = case.build(False)
    found = [
        (f.id, f.tensor)
        for f in graph_init_torch.check(model, (example,)).findings
        if f.severity != "note"
    ]
    assert found[0] in case.found
    model, example = case.build(True)
    mended = [
        (f.id, f.tensor)
        for f in graph_init_torch.check(model, (example,)).findings
        if f.severity != "note"
    ]
    assert mended == []
