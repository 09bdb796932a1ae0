"""Zoos: what a run writes, that faults stay rows, and that it can be stopped anywhere."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init import zoo
from graph_init.deviation.result import FIGURES
from graph_init.errors import MissingExtraError, ModelFileError, UsageError
from graph_init.output import debug_log
from graph_init.zoo import budget, catalog, cluster, lock, manifest, messages, size, store, summary
from graph_init.zoo.journal import Journal
from graph_init.zoo.records import Figures, Finding, Record
from graph_init.zoo.store import Folder
from tests import jitter
from tests.small_models import model, one_layer, plain_cnn
from tests.zoo_runs import (
    ROOT,
    command,
    contents,
    journal,
    model_processes,
    run,
    small_zoo,
    start,
    tiny,
)

STEPS = ("--updates", "3", "--workers", "2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of models, and the output of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("zoo")
    source, output = small_zoo(folder / "in"), folder / "out"
    status, told, errors = run(source, "-o", output, *STEPS)
    assert status == 0, errors
    assert "6 models: 6 done, 0 failed" in told
    assert errors.count("\n") == 6 and "[6/6]" in errors
    return source, output


def test_output_mirrors_the_input(finished: tuple[Path, Path], tmp_path: Path) -> None:
    source, output = finished
    names = [*(f"deep/cnn{k}" for k in range(5)), "split"]
    expected = {f"{n}{end}" for n in names for end in (".onnx", ".scales.json", ".json")}
    assert set(contents(output)) == expected | {"split.weights.bin"}
    for name in ("deep/cnn1", "split"):
        mine = tmp_path / "mine.onnx"
        result = graph_init.initialize(source / f"{name}.onnx", updates=3)
        result.save(mine)
        written = onnx.load(output / f"{name}.onnx")
        for a, b in zip(written.graph.initializer, onnx.load(mine).graph.initializer, strict=True):
            assert numpy_helper.to_array(a).tobytes() == numpy_helper.to_array(b).tobytes()
        told = json.loads((output / f"{name}.json").read_text())
        assert told["after"] == result.to_json()["after"] and told["scales"] == result.scales
        assert "seconds" not in told


def test_the_overview_has_a_row_a_model(finished: tuple[Path, Path]) -> None:
    found = zoo.read(str(finished[1]))
    assert [r.name for r in found.rows] == sorted(r.name for r in found.rows)
    assert found.summary["done"] == 6 and found.summary["failed"] == 0
    table = list(csv.DictReader(io.StringIO((finished[1] / "zoo.csv").read_text())))
    for row, line in zip(found.rows, table, strict=True):
        assert row.status == "done" and row.attempts == 1
        assert row.seconds > 0 and row.peak_memory > 1e7
        result = found.result(row)
        assert row.after.gradient_deviation == result["after"]["gradient_deviation"]
        assert float(line["after_gradient_deviation"]) == row.after.gradient_deviation
        assert line["name"] == row.name and line["error"] == ""


def test_nothing_is_done_twice(finished: tuple[Path, Path], tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(finished[0], source)
    shutil.copytree(finished[1], output)
    before = contents(output)
    # The journal has the other folder's paths: these are other models, of the same content.
    lines = (output / "journal.jsonl").read_text().replace(str(finished[0]), str(source))
    (output / "journal.jsonl").write_text(lines)
    found = zoo.run([str(source)], str(output), resume=True, updates=3)
    assert found.summary["kept"] == 6 and contents(output) == before
    onnx.save(plain_cnn(2, 4, 4, seed=9), source / "deep" / "cnn0.onnx")
    (output / "deep" / "cnn1.json").unlink()
    data = bytearray((source / "weights.bin").read_bytes())
    data[:4] = np.float32(0.5).tobytes()
    (source / "weights.bin").write_bytes(data)
    found = zoo.run([str(source)], str(output), resume=True, updates=3)
    assert found.summary["kept"] == 3
    after = contents(output)
    changed = {n for n in before if after[n] != before[n]}
    assert {n.partition(".")[0] for n in changed} == {"deep/cnn0", "split"}
    assert zoo.run([str(source)], str(output), resume=True, updates=2).summary["kept"] == 0


def test_two_models_never_write_one_data_file(tmp_path: Path) -> None:
    """``a`` with its data ``b.c``, and ``a.b`` with ``c``."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()

    def write(name: str, data: str) -> None:
        onnx.save(
            plain_cnn(2, 4, 4),
            source / f"{name}.onnx",
            save_as_external_data=True,
            location=data,
            size_threshold=0,
        )

    write("a", "b.c")
    assert zoo.run([str(source)], str(output), updates=1).summary["done"] == 1
    write("a.b", "c")
    found = zoo.run([str(source)], str(output), resume=True, updates=1)
    assert [(r.name, r.status) for r in found.rows] == [("a", "failed"), ("a.b", "done")]
    assert "'a.b.c" in found.rows[0].error.message
    assert "the model 'a.b'" in found.rows[0].error.message
    onnx.checker.check_model(str(output / "a.b.onnx"))


def test_a_folder_in_use_or_not_empty_is_refused(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    status, _, errors = run(finished[0], "-o", finished[1], *STEPS)
    assert status == 2 and "--resume" in errors
    with lock.held(Folder(str(finished[1])), "another"):
        status, _, errors = run(finished[0], "-o", finished[1], "--resume", *STEPS)
    assert status == 2 and f"process {os.getpid()}" in errors


def wait(condition: object, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.02)


def kill_all(runner: subprocess.Popen[str]) -> None:
    """kill -9 the runner; what it has started must end by itself."""
    started = psutil.Process(runner.pid).children(recursive=True)
    runner.kill()
    runner.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


def test_killed_anywhere_a_run_ends_as_if_it_had_not_been(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    source, expected = finished
    output = tmp_path / "out"
    # The runner, before anything is done and in the middle.
    for done in (0, 2):
        runner = start(source, "-o", output, "--resume", *STEPS)
        wait(
            lambda done=done, runner=runner: (
                len(journal(output)) >= done and model_processes(runner.pid)
            ),
            runner,
        )
        assert runner.poll() is None
        kill_all(runner)
    kept = len(journal(output))
    assert 2 <= kept < 6
    # A line that was cut short.
    with (output / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"name":"deep/c')
    # A model's process, and the one that forks them.
    runner = start(source, "-o", output, "--resume", *STEPS)
    wait(lambda: model_processes(runner.pid), runner)
    model_processes(runner.pid)[0].kill()
    wait(lambda: len(journal(output)) > kept, runner)
    for forkserver in psutil.Process(runner.pid).children():
        forkserver.kill()
    told, errors = runner.communicate(timeout=300)
    assert runner.returncode == 0, errors
    assert contents(output) == contents(expected)
    found = zoo.read(str(output))
    assert max(row.attempts for row in found.rows) > 1
    assert sorted(os.listdir(output)) == sorted(os.listdir(expected))


def test_interrupt_stops_in_order(finished: tuple[Path, Path], tmp_path: Path) -> None:
    source, expected = finished
    output = tmp_path / "out"
    runner = start(source, "-o", output, *STEPS)
    wait(lambda: len(journal(output)) >= 1, runner)
    runner.send_signal(signal.SIGINT)
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode == 1 and "--resume" in errors
    found = zoo.read(str(output))
    assert found.summary["interrupted"]
    done = found.summary["done"]
    assert 1 <= done < 6 and {r.status for r in found.rows} == {"done", "unfinished"}
    again = zoo.run([str(source)], str(output), resume=True, updates=3)
    assert again.summary["kept"] == done and contents(output) == contents(expected)


def bomb() -> onnx.ModelProto:
    """x @ w of 8 GB at its default sizes, from a file of a few bytes."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("MatMul", ["wide", "w"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([1 << 27, 4]), "shape"),
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
    ]
    return model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 << 27, 4])],
        weights,
    )


def endless() -> onnx.ModelProto:
    return plain_cnn(40, 32, 32)


def test_planted_faults_are_rows(tmp_path: Path) -> None:
    source, output = tiny(tmp_path / "in"), tmp_path / "out"
    whole = source / "tiny.onnx"
    (source / "truncated.onnx").write_bytes(whole.read_bytes()[:-20])
    (source / "garbage.onnx").write_bytes(os.urandom(500))
    onnx.save(
        plain_cnn(2),
        source / "split.onnx",
        save_as_external_data=True,
        location="gone.bin",
        size_threshold=0,
    )
    (source / "gone.bin").unlink()
    onnx.save(bomb(), source / "bomb.onnx")
    onnx.save(endless(), source / "endless.onnx")
    relu = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "xy"]
    onnx.save(model([relu], value[:1], value[1:], []), source / "nothing.onnx")
    onnx.save(one_layer("Det"), source / "operator.onnx")
    manifest = tmp_path / "zoo.json"
    options = {"steps": 100000, "tuner": "metainit", "time-limit": "3s"}
    models = ["tiny", "truncated", "garbage", "split", "bomb", "nothing", "operator"]
    manifest.write_text(
        json.dumps(
            {
                "format": "graph-init/zoo",
                "version": 1,
                "defaults": {"memory-limit": "2GB"},
                "models": [
                    *(f"in/{m}.onnx" for m in models),
                    {"source": "in/endless.onnx", "options": options},
                ],
            }
        )
    )
    status, told, errors = run(manifest, "-o", output, *STEPS, "--json")
    assert status == 1, errors
    rows = {r["name"]: r for r in json.loads(told)["rows"]}
    assert {n for n, r in rows.items() if r["status"] == "done"} == {"in/tiny"}
    for name, kind, words in (
        ("truncated", "ModelFileError", "truncated.onnx"),
        ("garbage", "ModelFileError", "garbage.onnx"),
        ("split", "ModelFileError", "gone.bin"),
        ("bomb", "MemoryLimitError", "--memory-limit"),
        ("endless", "TimeLimit", "--time-limit"),
        ("nothing", "UnsupportedModelError", "no "),
        ("operator", "UnsupportedModelError", "Det"),
    ):
        error = rows[f"in/{name}"]["error"]
        assert error["class"] == kind and words in error["message"], error
    assert {n.partition(".")[0] for n in contents(output)} == {"in/tiny"}
    # Failures are not tried again, unless that is asked for.
    (source / "gone.bin").write_bytes(b"")
    shutil.copy(whole, source / "garbage.onnx")
    status, told, _ = run(manifest, "-o", output, *STEPS, "--resume", "--json")
    assert status == 1 and json.loads(told)["kept"] == 6 and json.loads(told)["done"] == 2


def test_memory_that_no_estimate_has_foreseen(tmp_path: Path) -> None:
    """The evaluation fits, but the process with all that it has loaded does not."""
    source, output = tiny(tmp_path / "in"), tmp_path / "out"
    options = {"tuner": "metainit", "steps": 10**6, "time_limit": "2m"}
    (row,) = zoo.run([str(source)], str(output), memory_limit="90MB", **options).rows
    assert row.error.kind == "MemoryLimit" and "--memory-limit" in row.error.message
    assert row.peak_memory > 90e6 and row.seconds < 120


def test_a_folder_without_permission_is_a_row(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None and os.geteuid() == 0:
        pytest.skip("root is denied nothing and setpriv is missing; run as another user")
    source = tiny(tmp_path / "in")
    tiny(source / "closed").chmod(0)
    output = tmp_path / "out"
    call = command(source, "-o", output, *STEPS)
    if os.geteuid() == 0:
        call = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *call]
    environment = {**os.environ, "PYTHONPATH": jitter.python_path()}
    found = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=environment)
    (source / "closed").chmod(0o755)
    assert found.returncode == 1, found.stderr
    rows = {r.name: r for r in zoo.read(str(output)).rows}
    assert rows["tiny"].status == "done"
    assert "Permission denied" in rows["closed"].error.message


def test_what_the_cluster_leaves_behind_is_logged_and_not_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a busy machine its connections time out while they are closed, and nobody waits."""
    log = tmp_path / "debug.log"
    debug_log.begin(str(log))
    try:
        with cluster.connected(None, 1) as client:
            loop = client.loop.asyncio_loop

            def fail() -> None:
                loop.create_future().set_exception(TimeoutError("Timeout"))
                gc.collect()

            loop.call_soon_threadsafe(fail)
            client.submit(int, 1).result()
    finally:
        debug_log.begin(None)
    assert not [r for r in caplog.records if r.name == "asyncio"]
    assert "TimeoutError: Timeout" in log.read_text()


def catches(pid: int, number: int) -> bool:
    """Whether the process ``pid`` handles the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> number - 1 & 1)


def test_a_crash_is_a_row(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    onnx.save(endless(), source / "endless.onnx")
    words = ("--tuner", "metainit", "--steps", "100000", "--json")
    log = tmp_path / "log"
    runner = start(source, "-o", output, *words, "--debug", log)
    wait(lambda: model_processes(runner.pid), runner)
    (process,) = model_processes(runner.pid)
    if sys.platform == "linux":  # once it has begun, what native code says is kept
        wait(lambda: catches(process.pid, signal.SIGSEGV), runner)
    process.send_signal(signal.SIGSEGV)
    told, errors = runner.communicate(timeout=60)
    assert runner.returncode == 1
    (row,) = json.loads(told)["rows"]
    assert row["error"]["class"] == "Crash" and "SIGSEGV" in row["error"]["message"], errors
    assert row["error"]["exit_status"] == 7
    assert "Fatal Python error" not in errors and "Segmentation fault" in log.read_text()
    assert row["attempts"] == 1


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"graph-init\[zoo\]"):
        zoo.run([str(tiny(tmp_path / "in"))], str(tmp_path / "out"))


def test_the_lock_of_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(
        catalog, "filesystem", lambda url: (fsspec.filesystem("memory"), url.partition("://")[2])
    )
    monkeypatch.setattr(lock, "STALE", 0.2)
    shared = store.ObjectStore("s3://locked/out")

    def taken_by(**mark: object) -> None:
        shared.write(lock.LOCK, json.dumps(mark).encode())

    with lock.held(shared, "a"):
        assert lock.is_current(shared, "a") and not lock.is_current(shared, "b")
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), lock.held(shared, "b"):
            pass
    assert not lock.is_current(shared, "a")
    gone = subprocess.Popen(["true"])
    gone.wait()
    for mark in (
        {"run": "c", "host": platform.node(), "pid": gone.pid},
        {"run": "c", "host": "elsewhere", "pid": 1, "renewed": 3},
    ):
        taken_by(**mark)
        with lock.held(shared, "d"):
            assert lock.is_current(shared, "d")
    monkeypatch.setattr(lock, "STALE", 5.0)
    taken_by(run="c", host="elsewhere", pid=1, renewed=3)
    later = threading.Timer(0.5, taken_by, (), {"run": "c", "host": "elsewhere", "renewed": 4})
    later.start()
    with pytest.raises(UsageError, match="elsewhere"), lock.held(shared, "d"):
        pass


def names(*sources: object) -> list[str]:
    return [e.name for e in catalog.collect([str(s) for s in sources], "out", {})]


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "a" / "b")
    tiny(tmp_path / "a" / ".hidden")
    tiny(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    assert names("a") == ["b/tiny"]
    assert names(".") == ["a/b/tiny", "c/tiny"]
    assert names("a/b/tiny.onnx") == ["tiny"]
    assert names("*/*.onnx") == ["c/tiny"]
    assert names("**/*.onnx") == ["a/.hidden/tiny", "a/b/tiny", "c/tiny"]
    assert [e.name for e in catalog.collect(["."], "c", {})] == ["a/b/tiny"]
    with pytest.raises(UsageError, match="both be written"):
        names("a/b", "c")
    with pytest.raises(ModelFileError, match="nothing.onnx"):
        names("nothing.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no"):
        names("empty")
    shutil.copy("c/tiny.onnx", "c/zoo.onnx")
    with pytest.raises(UsageError, match="needs for itself"):
        names("c/zoo.onnx")
    shutil.copy("c/tiny.onnx", "c/tiny.scales.onnx")
    with pytest.raises(UsageError, match=r"tiny\.scales\.json"):
        names("c/tiny.onnx", "c/tiny.scales.onnx")
    with pytest.raises(UsageError, match="memory"):
        names("memory://x")


def test_sizes_are_those_of_the_weights(tmp_path: Path) -> None:
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    sizes = {p.stem: size.of_file(p) for p in light.glob("*.onnx")}
    assert 4 * 143e6 < sizes["light_vgg19"] < 4 * 145e6
    assert max(sizes, key=lambda n: sizes[n]) == "light_vgg19"
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert size.of_file(tmp_path / "broken.onnx") < 100
    assert size.of_file(tmp_path / "missing.onnx") == 0


def test_manifest(tmp_path: Path) -> None:
    tiny(tmp_path / "a")
    tiny(tmp_path / "b" / "c")
    path = tmp_path / "m.yaml"
    path.write_text(
        """
format: graph-init/zoo
version: 1
defaults: {scheme: he, batch-size: 4, seed: 5}
models:
  - a/tiny.onnx
  - source: b
    options: {batch-size: 2, dim: {n: 3}, seed: 0, time-limit: 2m}
  - source: a/tiny.onnx
    name: vision/other
"""
    )
    found = {e.name: e.options for e in catalog.collect([str(path)], "out", {"updates": 2})}
    assert found == {
        "a/tiny": {"scheme": "he", "batch_size": 4, "seed": 5, "updates": 2},
        "c/tiny": {
            "scheme": "he",
            "batch_size": 2,
            "dims": {"n": 3},
            "updates": 2,
            "time_limit": 120.0,
        },
        "vision/other": {"scheme": "he", "batch_size": 4, "seed": 5, "updates": 2},
    }


def test_a_model_with_a_tuner_of_its_own_has_that_ones_settings() -> None:
    general = {"tuner": "restore", "updates": 3, "seed": 1}
    assert manifest.over(general, {"tuner": "metainit", "steps": 5}) == {
        "tuner": "metainit",
        "steps": 5,
        "seed": 1,
    }
    assert manifest.over(general, {"seed": 2}) == {"tuner": "restore", "updates": 3, "seed": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [a]", "format"),
        ("format: graph-init/zoo\nversion: 2\nmodels: [a]", "version 2"),
        ("format: graph-init/zoo\nversion: 1\nmodels: []", "at least one"),
        ("format: graph-init/zoo\nversion: 1\nmodel: [a]\nmodels: [a]", "'models'"),
        ("format: graph-init/zoo\nversion: 1\nmodels: [{name: a}]", "model 1: it lacks 'source'"),
        (
            "format: graph-init/zoo\nversion: 1\nmodels: [{source: a, options: {batchsize: 1}}]",
            "did you mean 'batch-size'",
        ),
        (
            "format: graph-init/zoo\nversion: 1\nmodels: [{source: a, options: {updates: many}}]",
            "updates: 'many' is not a whole number",
        ),
        (
            "format: graph-init/zoo\nversion: 1\nmodels: [{source: a, options: {scheme: hee}}]",
            "did you mean 'he'",
        ),
        ("format: graph-init/zoo\nversion: 1\nmodels: [{source: a, steps: 3}]", "under 'options'"),
        ("format: graph-init/zoo\nversion: 1\nmodels: [{source: a, name: ../b}]", "'../b'"),
        ("format: [", "not valid YAML"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        catalog.collect([str(path)], "out", {})
    assert words in str(error.value) and str(path) in str(error.value)


def test_the_journal_survives_a_cut_line(tmp_path: Path) -> None:
    def record(name: str, steps: int) -> Record:
        return Record(zoo.Row(name, f"/in/{name}.onnx", "done", steps=steps), "key")

    folder = Folder(str(tmp_path))
    book = Journal(folder)
    book.append([record("a", 1), record("b", 1)])
    book.append([record("a", 2)])
    book.close()
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole[:length])
        book = Journal(folder)
        book.append([record("c", length)])
        book.close()
        book = Journal(folder)
        assert book["c"] == record("c", length)
        assert ("a" in book) == (length >= whole.index(b"\n"))
        book.close()


def test_records_survive_the_journal_and_the_way_from_the_process() -> None:
    error = zoo.Failure("Killed", "its process was killed", exit_status=1)
    before, after = (
        Figures(
            gradient_deviation=0.5,
            loss=2.0,
            gradient_norm=0.1,
            vanished_fraction=0.0,
            output_std=1.0,
        ),
        Figures(
            gradient_deviation=0.1,
            loss=2.0,
            gradient_norm=0.1,
            vanished_fraction=0.0,
            output_std=1.0,
        ),
    )
    found = Finding(
        before=before,
        after=after,
        elements=9,
        loss_kind="mse",
        loss_reason="it was asked for",
        steps=3,
        scales=2,
        warnings=[],
        notes=["a note"],
        outputs=["a.onnx"],
    )
    rows = [
        zoo.Row("a", "/in/a.onnx", "failed", error, seconds=1.5),
        zoo.Row("a", "/in/a.onnx", "done", **vars(found)),
    ]
    for row in rows:
        record = Record(row, "key", [{"path": "/in/a.onnx", "digest": None}], transient=True)
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert rows[0].to_json()["error"] == {
        "class": "Killed",
        "message": "its process was killed",
        "exit_status": 1,
    }
    assert rows[1].to_json()["after"]["gradient_deviation"] == 0.1
    for answer in (messages.Answer(found), messages.Answer(error=error)):
        assert messages.decoded(messages.encoded(answer)) == answer
    assert tuple(f.name for f in fields(Figures)) == tuple(FIGURES)


def test_models_take_turns_by_memory() -> None:
    shared = budget.Budget(3 * budget.BASE)
    for key in "abc":
        shared.enter(key)
    assert shared.require("a", budget.BASE, lambda: True)
    asked = iter([True, True, False])
    assert not shared.require("b", 2 * budget.BASE, lambda: next(asked))
    shared.leave("c")
    assert shared.require("b", 2 * budget.BASE, lambda: True)
    shared.leave("a")
    # More than there is: alone.
    assert shared.require("b", 9 * budget.BASE, lambda: True)


def test_failures_of_one_reason_are_a_group() -> None:
    def row(name: str, message: str) -> zoo.Row:
        error = zoo.Failure("ModelFileError", message, exit_status=3)
        return zoo.Row(name, f"/in/{name}.onnx", "failed", error)

    found = summary.failures(
        [
            row("a", "/in/a.onnx: node 'n1' has 3 inputs"),
            row("b", "/in/b.onnx is empty"),
            row("c", "/in/c.onnx: node 'x' has 12 inputs"),
        ]
    )
    assert [g.names for g in found] == [["a", "c"], ["b"]]
