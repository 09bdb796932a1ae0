"""Fixed tables and weights, planted in small models: which are parameters."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tools.experiments import planted
from tools.experiments.planted import Maker

pytest.importorskip("sklearn")
pytest.importorskip("torch")

#: Models of each form.
FEW = 2


def name(maker: Maker) -> str:
    return maker.__name__


@pytest.mark.parametrize("maker", planted.TABLES, ids=name)
def test_a_table_is_no_parameter(maker: Maker) -> None:
    for seed in range(FEW):
        use, table = maker(np.random.default_rng([11, seed]))
        found = planted.planted(use, table.astype(np.float32))
        assert (found.kind, found.trainable) == ("constant", False), found.reason
        assert found.reason.endswith("--trainable overrules")


@pytest.mark.parametrize("maker", planted.WEIGHTS, ids=name)
def test_a_weight_in_its_place_is_one(maker: Maker) -> None:
    for seed in range(FEW):
        use, weight = maker(np.random.default_rng([11, seed]))
        found = planted.planted(use, weight.astype(np.float32))
        assert found.trainable, found.reason


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (planted.mel, r"^a bank of \d+ filters \(non-negative, one hump each, in order\), "),
        (planted.stft, "^a table of sines of equidistant phases, kernel of Conv 'first'"),
        (planted.log_spaced, r"^a table of \d+ sines and cosines in one window, "),
        (planted.window, r"^a window of \d+ elements "),
        (planted.resample, "^a symmetric low-pass kernel, one for all channels, "),
        (planted.phases, r"^\d phases of a symmetric low-pass kernel, "),
        (planted.grid, "^a grid of coordinates or anchors "),
        (planted.ramp, r"^\d+ numbers at one distance, "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_reason_says_what_it_is(maker: Maker, words: str) -> None:
    use, table = maker(np.random.default_rng(5))
    assert re.match(words, planted.planted(use, table.astype(np.float32)).reason)


@pytest.mark.long
@pytest.mark.parametrize("case", planted.SETS, ids=lambda case: case[0])
def test_at_most_one_in_a_hundred_is_told_wrong(
    case: tuple[str, tuple[Maker, ...], int, int, bool],
) -> None:
    """Hundreds of models, some of which are trained first."""
    _, makers, count, seed, table = case
    assert len(planted.wrong(makers, count, seed, table)) <= count / 100


@pytest.mark.parametrize(("new", "old"), [(2, 3), (1, 3), (2, 1)])
def test_a_kernel_that_resamples_may_be_cut_off(new: int, old: int) -> None:
    """As exporters write it: with an axis of 1, and more zeros behind it than before it."""
    width, rate = 6, min(new, old) * 0.99
    scale = int(np.ceil(width * old / rate))
    t = (-np.arange(new)[:, None] / new + np.arange(-scale, scale + old) / old) * rate
    t = np.clip(t, -width, width)
    kernel = np.cos(t * np.pi / width / 2) ** 2 * np.sinc(t) * rate / old
    for shape in ((new, 1, -1), (new, 1, 1, -1)):
        table = kernel.reshape(shape).astype(np.float32)
        use = "conv1d" if table.ndim == 3 else "depthwise"
        assert "low-pass kernel" in planted.planted(use, table).reason
        moved = table + 0.03 * np.abs(table).max() * np.random.default_rng(3).standard_normal(
            table.shape
        ).astype(np.float32)
        assert planted.planted(use, moved).trainable
