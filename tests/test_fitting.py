"""What is taken where the batch that was asked for does not fit into memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import graph_init
from graph_init import sizes
from graph_init.cli import cli
from graph_init.cli.terminal import Forecast
from graph_init.engine import memory
from graph_init.errors import MemoryLimitError
from graph_init.ir import Array
from graph_init.model.load import load
from graph_init.problem import fitting
from graph_init.training import runner
from tests.small_models import plain_cnn

pytest.importorskip("onnxruntime")

#: What each tuner counts.
COUNTS = {"restore": "updates", "metainit": "steps"}


def network() -> onnx.ModelProto:
    """Its activations are larger than its weights."""
    return plain_cnn(4, size=16)


def fixed(model: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = rows
    return model


def images(rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3, 16, 16)).astype(np.float32)
    return {"x": x, "target": rng.integers(0, 10, rows)}


def needed(rows: int, at_once: int | None = None, **options: Any) -> int:
    """Bytes that are estimated for a measurement of so many rows, done so."""
    with pytest.raises(MemoryLimitError) as refused:
        graph_init.measure(
            network(),
            batch_size=rows,
            micro_batch=at_once or rows,
            memory_limit="1000000",
            **options,
        )
    return refused.value.needed


def test_the_default_is_done_in_slices_that_fit() -> None:
    whole = graph_init.measure(network())
    limit = needed(16) - 1
    found = graph_init.measure(network(), memory_limit=str(limit))
    told = graph_init.measure(network(), micro_batch=8)
    assert not whole.notes
    assert found.notes[0].startswith("16 rows at once need about ")
    assert found.notes[0].endswith("; the batch of 16 rows is computed in slices (--micro-batch 8)")
    assert found.to_json() == {**told.to_json(), "notes": found.notes}
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)


def test_slices_go_down_to_one_row() -> None:
    found = graph_init.measure(network(), memory_limit=str(needed(16, 1)))
    assert found.notes[0].endswith("(--micro-batch 1)")
    words = (
        "even one row at a time needs about 64 MB of memory, and 50 MB is allowed by "
        "--memory-limit; take --method finite-difference"
    )
    with pytest.raises(MemoryLimitError) as refused:
        graph_init.measure(network(), memory_limit="50MB")
    assert str(refused.value) == words


def test_where_slices_see_too_little_fewer_rows_are_taken() -> None:
    """Batch statistics are the whole batch's."""
    found = graph_init.measure(network(), batch_norm="train", memory_limit=str(needed(4)))
    told = graph_init.measure(network(), batch_norm="train", batch_size=4)
    assert found.notes[0].endswith("batches of fewer rows are used (--batch-size 4)")
    assert found.to_json() == {**told.to_json(), "notes": found.notes}


def test_of_many_rows_not_every_size_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice what fits is not built; one row is, to say what it needs."""
    built: list[int] = []
    original = memory.require

    def require(needed: int, limit: int | None, remedies: Any) -> None:
        built.append(needed)
        original(needed, limit, remedies)

    monkeypatch.setattr(memory, "require", require)
    options: dict[str, Any] = {"batch_norm": "train", "batch_size": None}
    with pytest.raises(MemoryLimitError, match="^even one row at a time .* take --method"):
        graph_init.measure(network(), memory_limit="1MB", **options)
    evaluations = [n for n in built if n > 64 << 20]
    assert len(evaluations) == 2 and evaluations[0] - evaluations[1] > 1 << 20


@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ({"batch_size": 12}, 6),
        ({"data": images(12)}, 6),
        ({"data": [images(12)]}, 6),
        ({"data": iter([images(12)])}, 6),
    ],
    ids=["option", "file", "list", "iterator"],
)
def test_a_batch_that_was_asked_for_keeps_its_rows(options: dict[str, Any], slices: int) -> None:
    limit = str(needed(12) - 1)
    found = graph_init.measure(network(), memory_limit=limit, **options)
    assert found.notes[0].endswith(
        f"; the batch of 12 rows is computed in slices (--micro-batch {slices})"
    )


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"batch_size": 12, "batch_norm": "train"}, "a smaller --batch-size or --method"),
        ({"micro_batch": 16}, "--micro-batch, a smaller"),
        ({"dims": {"batch": 16}}, "--micro-batch, a smaller"),
        # Neither option is taken where the model fixes the batch.
        ({"fixed": 16}, "--method finite-difference or a model with a dynamic batch$"),
    ],
    ids=["statistics", "slices", "dim", "model"],
)
def test_what_leaves_no_choice_is_refused(options: dict[str, Any], advice: str) -> None:
    options = dict(options)
    model = fixed(network(), options.pop("fixed")) if "fixed" in options else network()
    with pytest.raises(MemoryLimitError, match=f"^this needs about .*; take {advice}"):
        graph_init.measure(model, memory_limit=str(needed(8)), **options)


@pytest.mark.parametrize("tuner", ["restore", "metainit"])
@pytest.mark.parametrize("data", [None, images(60)], ids=["random", "file"])
def test_initialize_takes_what_fits(tuner: str, data: dict[str, Array] | None) -> None:
    limit = needed(16, scale_gradient=tuner == "metainit") - 1
    options: dict[str, Any] = {"data": data, "tuner": tuner, COUNTS[tuner]: 3}
    found = graph_init.initialize(network(), memory_limit=str(limit), **options)
    told = graph_init.initialize(network(), micro_batch=8, **options)
    assert found.notes[0].endswith("(--micro-batch 8)") and len(found.notes) == 1
    assert found.scales == told.scales and found.settings == told.settings
    assert found.settings["batch_size"] == 16 and found.settings["micro_batch"] == 8
    assert found.to_json()["notes"] == found.notes


def test_trials_take_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring fits, and the trials do not: those rows count for both."""
    original = runner.Trainer.__init__

    def init(self: runner.Trainer, problem: Any, *given: Any, admit: Any, **named: Any) -> None:
        admit(problem.batch_size * (60 << 20))
        original(self, problem, *given, **named)

    monkeypatch.setattr(runner.Trainer, "__init__", init)
    found = graph_init.initialize(network(), updates=3, memory_limit="500MB")
    assert found.notes[0].endswith("(--micro-batch 4)")
    assert not graph_init.initialize(network(), updates=0, memory_limit="500MB").notes


def test_lsuv_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the batch that fits, for the weights as the scheme has drawn them."""
    options: dict[str, Any] = {"scheme": "lsuv", "updates": 0}
    found = graph_init.initialize(network(), memory_limit=str(needed(16) - 1), **options)
    told = graph_init.initialize(network(), micro_batch=8, **options)
    assert found.notes and found.after.to_json() == told.after.to_json()
    for mine, theirs in zip(
        found.model.graph.initializer, told.model.graph.initializer, strict=True
    ):
        assert mine.SerializeToString() == theirs.SerializeToString()


def test_the_trials_count_their_activations() -> None:
    """An update's graph, not the weights alone."""
    asked: list[int] = []
    memory.admissions.append(asked.append)
    try:
        graph_init.initialize(network(), updates=1, batch_size=4)
        graph_init.initialize(network(), updates=1, batch_size=32)
    finally:
        memory.admissions.remove(asked.append)
    assert len(asked) == 6 and asked[5] > asked[2] + (1 << 20)


@pytest.mark.parametrize("command", ["measure", "initialize"])
def test_the_commands_say_it(tmp_path: Path, command: str) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    given = ["-o", str(tmp_path / "out.onnx"), "--updates", "1"] if command == "initialize" else []
    limit = str(needed(16) - 1)
    result = CliRunner().invoke(
        cli, [command, str(tmp_path / "model.onnx"), *given, "--memory-limit", limit, "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert "(--micro-batch 8)" in result.stderr
    assert json.loads(result.stdout)["notes"][0].endswith("(--micro-batch 8)")


def test_a_batch_that_takes_long_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says how many: an eighth of the work is two of sixteen rows."""
    work = sizes.solve(load(network()).ir).work
    assert work > 0
    monkeypatch.setattr(fitting, "MOST_WORK", work // 8)
    found = graph_init.measure(network())
    assert found.dims["x"]["0"]["size"] == 2 and "(--batch-size 2)" in found.notes[0]
    asked = graph_init.measure(network(), batch_size=16)
    assert asked.dims["x"]["0"]["size"] == 16 and not asked.notes


def test_a_zoo_takes_what_fits(tmp_path: Path) -> None:
    """Within a limit that holds for the whole process."""
    pytest.importorskip("distributed")
    from graph_init import zoo

    onnx.save(plain_cnn(4, size=384), tmp_path / "model.onnx")
    options: dict[str, Any] = {"updates": 0}
    (row,) = zoo.run(
        [str(tmp_path / "model.onnx")], str(tmp_path / "out"), memory_limit="850MB", **options
    ).rows
    assert row.status == "done", row.error
    assert "(--micro-batch" in row.notes[0] and row.to_json()["notes"] == row.notes


def test_what_remains_is_said_from_the_first_part_on() -> None:
    now = 100.0
    forecast = Forecast(lambda: now)
    now = 500.0  # the model was read
    assert forecast(0, 12) == ""
    now += 30
    assert forecast(1, 12) == "about 6 min left"
    now += 30
    assert forecast(2, 12) == "about 5 min left"
    now += 300
    assert forecast(12, 12) == ""
    assert forecast(0, 12) == ""
    now += 4
    assert forecast(1, 12) == ""  # less than a minute in all
    forecast(0, 100)
    now += 120
    assert forecast(1, 100) == "about 3.3 h left"


@pytest.mark.parametrize(("tuner", "total"), [("restore", 12), ("metainit", 5)])
def test_progress_is_told_from_the_first_trial_on(tuner: str, total: int) -> None:
    told: list[tuple[int, int]] = []
    graph_init.initialize(
        network(),
        batch_size=4,
        tuner=tuner,
        **{COUNTS[tuner]: 5},
        on_progress=lambda what, done, of: told.append((done, of)),
    )
    assert told[0] == (0, total) and told[1] == (1, total) and told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
