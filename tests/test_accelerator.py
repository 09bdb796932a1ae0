"""The table of an accelerator: what a row says, and that it ends in time."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("torch")

from tools import accelerator
from tools.benchmark_models import SMALL


def test_a_row_compares_one_step() -> None:
    """The CPU beside itself: a row whose differences are none."""
    name = next(iter(SMALL))
    cells = accelerator.row(name, "torch", "cpu", time.monotonic() + 300).split(" | ")
    assert cells[:2] == [f"| {name}", "torch"]
    assert all(float(seconds) > 0 for seconds in cells[2:4])
    assert float(cells[6]) == 0  # no memory of an accelerator
    assert [float(cell.strip(" |")) for cell in cells[7:]] == [0, 0]


def test_slopes_are_compared_by_the_largest() -> None:
    here = {"deviation": 2.0, "slopes": [1.0, -4.0]}
    there = {"deviation": 2.2, "slopes": [1.2, -4.0]}
    assert accelerator.differences(here, there) == pytest.approx((0.1, 0.05))


def test_a_row_ends_when_the_time_is_over() -> None:
    shown = accelerator.row(next(iter(SMALL)), "torch", "cpu", time.monotonic())
    assert shown.endswith("not run to its end: the time was over |")


def test_where_there_is_none_each_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "devices", lambda: {"torch": (), "onnxruntime": ("cuda",)})
    monkeypatch.setattr("sys.argv", ["accelerator.py", "--device", "mps"])
    with pytest.raises(SystemExit, match="has mps: torch has the CPU alone; onnxruntime has cuda"):
        accelerator.main()


@pytest.mark.skipif(
    not any(accelerator.devices().values()), reason="no engine here finds an accelerator"
)
def test_an_accelerator_computes_what_the_cpu_does() -> None:
    name = next(iter(SMALL))
    for engine, found in accelerator.devices().items():
        for device in found:
            cells = accelerator.row(name, engine, device, time.monotonic() + 300).split(" | ")
            assert max(float(cell.strip(" |")) for cell in cells[7:]) < 1e-3
