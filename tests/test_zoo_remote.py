"""Zoos on several workers, one of which is lost, and in an object store; all over loopback."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from graph_init import zoo
from graph_init.errors import ModelFileError
from graph_init.zoo import catalog, inputs
from tests.zoo_runs import (
    cluster,
    contents,
    journal,
    model_processes,
    object_store,
    run,
    small_zoo,
    start,
)

STEPS = ("--updates", "3", "--threads", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    source, output = small_zoo(folder / "in"), folder / "out"
    status, _, errors = run(source, "-o", output, *STEPS, "--workers", "2")
    assert status == 0, errors
    return source, output


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with cluster(tmp_path, 2) as found:
        yield found


def test_a_worker_is_lost_in_the_middle(
    finished: tuple[Path, Path],
    address: tuple[str, list[subprocess.Popen[bytes]]],
    tmp_path: Path,
) -> None:
    source, expected = finished
    scheduler, workers = address
    output = tmp_path / "out"
    runner = start(source, "-o", output, *STEPS, "--scheduler", scheduler)
    end = time.monotonic() + 120
    lost = workers[0]
    while not (journal(output) and model_processes(lost.pid)) and time.monotonic() < end:
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.02)
    below = psutil.Process(lost.pid).children(recursive=True)
    lost.kill()
    told, errors = runner.communicate(timeout=300)
    assert runner.returncode == 0, errors
    assert "6 done, 0 failed" in told
    assert contents(output) == contents(expected)
    # What the lost worker had started has ended with it.
    assert not psutil.wait_procs(below, timeout=10)[1]


def test_models_from_a_web_server(finished: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    handler = partial(SimpleHTTPRequestHandler, directory=str(finished[0]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/split.onnx"
        (entry,) = catalog.collect([address], "out", {})
        assert entry.name == "split" and entry.source == address
        path, files = inputs.bring(address, tmp_path)
        assert path.read_bytes() == (finished[0] / "split.onnx").read_bytes()
        data = (tmp_path / "weights.bin").read_bytes()
        assert data == (finished[0] / "weights.bin").read_bytes()
        assert inputs.unchanged(files)
        with pytest.raises(ModelFileError, match="gone.onnx"):
            catalog.collect([address.replace("split", "gone")], "out", {})
        server.shutdown()


def test_an_object_store(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    source, expected = finished
    with object_store() as (fs, environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        fs.put(f"{source}/", "bucket/models/", recursive=True)
        arguments = ("s3://bucket/models/**/*.onnx", "-o", "s3://bucket/out", *STEPS)
        status, told, errors = run(*arguments, "--json", "--workers", "2")
        assert status == 0, errors
        assert json.loads(told)["done"] == 6
        fs.invalidate_cache()
        copy = tmp_path / "copy"
        fs.get("bucket/out/", str(copy), recursive=True)
        assert contents(copy) == contents(expected)
        status, _, errors = run(*arguments)
        assert status == 2 and "--resume" in errors
        # One is lost and one has changed: the others are not done again.
        fs.rm_file("bucket/out/split.onnx")
        fs.put_file(str(source / "deep" / "cnn1.onnx"), "bucket/models/deep/cnn0.onnx")
        found = zoo.run(
            ["s3://bucket/models"], "s3://bucket/out", resume=True, updates=3, threads=1
        )
        assert found.summary["kept"] == 4 and found.summary["done"] == 6
        fs.invalidate_cache()
        assert fs.exists("bucket/out/split.onnx")
        assert found.result(found.rows[0])["scales"] == found.result(found.rows[1])["scales"]
        # A model whose data is not there is a row.
        fs.rm_file("bucket/models/weights.bin")
        status, told, errors = run(*arguments, "--resume", "--json")
        assert status == 1, errors
        (row,) = (r for r in json.loads(told)["rows"] if r["status"] == "failed")
        assert (
            row["name"] == "split" and "s3://bucket/models/weights.bin" in row["error"]["message"]
        )
