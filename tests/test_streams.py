"""Batches to search on, to select on and to report on have no row in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graph_init
from graph_init.ir import Array
from graph_init.problem import streams
from graph_init.problem.streams import Source
from tests.small_models import deep_mlp
from tests.test_data import product_rows, two_outputs

pytest.importorskip("onnxruntime")

NAMES = ("search", "select", "report")

#: What each tuner counts.
COUNTS = {"restore": "updates", "metainit": "steps"}


def seen(source: Source, batches: int = 5) -> dict[str, set[int]]:
    """The numbers of the rows that each stream gives."""
    return {
        name: {int(row) for k in range(batches) for row in getattr(source, name).batch(k)["target"]}
        for name in NAMES
    }


def numbered(rows: int) -> dict[str, Array]:
    return {"x": np.arange(rows)[:, None] * 1.0, "target": np.arange(rows)}


@given(rows=st.integers(1, 120), size=st.integers(1, 40), seed=st.integers(0, 3))
@settings(deadline=None)
def test_the_rows_of_a_file_are_split(rows: int, size: int, seed: int) -> None:
    size = min(size, rows)
    source = streams.of_rows(numbered(rows), size, seed)
    found = seen(source)
    for name in NAMES:
        for k in (4, 1, 4):
            batch = getattr(source, name).batch(k)
            np.testing.assert_array_equal(batch["x"][:, 0], batch["target"])
            assert len(set(batch["target"])) == size
    if rows >= 2 * size:
        assert not found["report"] & (found["search"] | found["select"])
    assert bool(found["search"] & found["select"]) <= (rows < 3 * size)
    assert bool(source.notes) == (rows < 3 * size)


def test_shares_of_a_file() -> None:
    """A fifth to select on, a fifth to report on, and all of the rest to search on."""
    found = seen(streams.of_rows(numbered(100), 10, 0), 100)
    assert [len(found[name]) for name in NAMES] == [60, 20, 20]
    whole = streams.of_rows(numbered(8), 8, 0)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(whole, name).batch(3)["target"], np.arange(8))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (48, None),
        (
            40,
            "has 40 rows, fewer than three batches of 16: the scales are found .* "
            "--batch-size of 13",
        ),
        (
            20,
            "the reported figures are measured on rows that the tuner has used; .* "
            "--batch-size of 6 ",
        ),
        (4, "has 4 rows, .*; a --batch-size of 1, or more rows would avoid that"),
        (1, "has 1 row, .*; more rows would avoid that"),
    ],
)
def test_too_few_rows_are_said(rows: int, words: str | None) -> None:
    result = graph_init.initialize(
        two_outputs(), data=product_rows(rows), updates=3, output_name="a", loss="mse"
    )
    found = [note for note in result.notes if "--data" in note]
    assert len(found) == (words is not None)
    if words is not None:
        assert re.search(words, found[0])
        assert result.to_json()["notes"] == result.notes


def listed(count: int) -> list[dict[str, Array]]:
    return [{"target": np.array([k])} for k in range(count)]


@given(count=st.integers(1, 12), order=st.lists(st.integers(0, 15), min_size=2, max_size=8))
@settings(deadline=None)
def test_batches_of_an_iterable(count: int, order: list[int]) -> None:
    """They are apart, and each is a function of its number alone, whatever was asked before."""
    straight = streams.of_batches(iter(listed(count)), lambda item: item)
    jumping = streams.of_batches(listed(count), lambda item: item)
    for name in NAMES:
        expected = [int(getattr(straight, name).batch(k)["target"][0]) for k in range(16)]
        for k in order:
            assert int(getattr(jumping, name).batch(k)["target"][0]) == expected[k]
    found = seen(jumping, 16)
    if count >= 2:
        assert not found["report"] & (found["search"] | found["select"])
    if count >= 3:
        assert not found["search"] & found["select"]
        assert set().union(*found.values()) == set(range(count))
    assert bool(jumping.notes) == (count < 3)


def test_an_iterable_that_shuffles_keeps_the_rows_apart() -> None:
    """It is read once, though more batches are asked for than it has."""

    class Shuffling:
        epochs = 0

        def __iter__(self) -> Iterator[dict[str, Array]]:
            Shuffling.epochs += 1
            rng = np.random.default_rng(Shuffling.epochs)
            return iter([{"target": np.array([k])} for k in rng.permutation(8)])

    found = seen(streams.of_batches(Shuffling(), lambda item: item), 40)
    assert not found["report"] & (found["search"] | found["select"])
    assert not found["search"] & found["select"]


def test_of_large_batches_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_KEPT_BYTES", 3 * listed(1)[0]["target"].nbytes)
    source = streams.of_batches(listed(20), lambda item: item)
    found = [int(source.search.batch(k)["target"][0]) for k in (7, 0, 1, 2, 3, 7)]
    assert found == [5, 4, 5, 6, 4, 5]


def test_random_batches_are_apart() -> None:
    source = of_random()
    drawn = [getattr(source, name).batch(k)["x"] for name in NAMES for k in range(60)]
    assert len({a.tobytes() for a in drawn}) == len(drawn)


def of_random() -> Source:
    from graph_init.analysis import analyze
    from graph_init.model.load import load
    from graph_init.options import Options
    from graph_init.problem import workload
    from graph_init.problem.forward_graph import initial_values

    loaded = load(deep_mlp())
    options = Options(batch_size=4)
    return workload.build(loaded, analyze(loaded.ir), initial_values(loaded), options).source


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Array]]]:
    """Each batch that is taken, with the name of its stream."""
    taken: list[tuple[str, dict[str, Array]]] = []

    class Spy:
        def __init__(self, name: str, stream: streams.Stream) -> None:
            self.name, self.stream = name, stream

        def batch(self, number: int) -> Any:
            taken.append((self.name, dict(self.stream.batch(number))))
            return taken[-1][1]

    original = Source.__init__

    def init(self: Source, search: Any, select: Any, report: Any, notes: Any = ()) -> None:
        spied = (Spy(n, s) for n, s in zip(NAMES, (search, select, report), strict=True))
        original(self, *spied, notes)

    monkeypatch.setattr(Source, "__init__", init)
    return taken


@pytest.mark.parametrize("tuner", ["restore", "metainit"])
@pytest.mark.parametrize("form", ["random", "file", "iterable"])
def test_what_is_reported_was_not_chosen_by(
    tmp_path: Path, fed: list[tuple[str, dict[str, Array]]], tuner: str, form: str
) -> None:
    """Every row that a tuner sees, by what it is for."""
    rows = product_rows(64)
    data: Any = {"random": None, "file": rows}.get(
        form, [{k: a[i : i + 8] for k, a in rows.items()} for i in range(0, 64, 8)]
    )
    graph_init.initialize(
        two_outputs(),
        data=data,
        batch_size=8,
        tuner=tuner,
        **{COUNTS[tuner]: 6},
        output_name="a",
        loss="mse",
    )
    found = {
        name: {row.tobytes() for n, batch in fed if n == name for row in batch["x"]}
        for name in NAMES
    }
    assert all(found.values())
    assert not found["report"] & (found["search"] | found["select"])
    assert not found["search"] & found["select"]
