"""What tests and tools of the zoo share: small models, runs, and processes to kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import psutil

from tests import jitter
from tests.small_models import one_layer, plain_cnn

ROOT = Path(__file__).parent.parent
#: What a run writes that differs from run to run: times, and how often something was tried.
_OWN = ("journal", "zoo.json", "zoo.csv", ".lock", ".scratch")


def small_zoo(folder: Path, models: int = 6) -> Path:
    """``models`` networks in two folders, one of them with external data."""
    (folder / "deep").mkdir(parents=True)
    for k in range(models - 1):
        onnx.save(plain_cnn(2 + k % 3, 4, 4, seed=k), folder / "deep" / f"cnn{k}.onnx")
    onnx.save(
        plain_cnn(3, 4, 4),
        folder / "split.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return folder


def tiny(folder: Path) -> Path:
    """One model of one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(one_layer(), folder / "tiny.onnx")
    return folder


def contents(output: Path) -> dict[str, str]:
    """Digest by name of all files that are the same in every run."""
    return {
        p.relative_to(output).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(output.rglob("*"))
        if p.is_file() and not p.relative_to(output).as_posix().startswith(_OWN)
    }


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "graph_init", "zoo", *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    """``graph-init zoo``, in a session of its own."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": jitter.python_path()},
    )


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``graph-init zoo``."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def journal(output: Path) -> list[dict[str, object]]:
    """Records in a run's journal so far."""
    path = output / "journal.jsonl"
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # cut short
            found.append(json.loads(line))
    return found


@contextlib.contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler of dask.distributed and ``workers`` of one thread each, in processes."""
    told = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": jitter.python_path()}

    def begin(kind: str, *options: str) -> subprocess.Popen[bytes]:
        call = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(told)]
        return subprocess.Popen(
            [*call, "--host", "127.0.0.1", "--no-dashboard", *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    processes = [begin("scheduler", "--port", "0")]
    try:
        options = ("--nthreads", "1", "--no-nanny")
        processes += [begin("worker", *options) for _ in range(workers)]
        while not told.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        yield json.loads(told.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def object_store() -> Iterator[tuple[Any, dict[str, str]]]:
    """An S3-compatible server with an empty bucket: its file system, and how others find it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        fs = s3fs.S3FileSystem(
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            key="testing",
            secret="testing",
            client_kwargs={"region_name": "eu-west-1"},
            use_listings_cache=False,
        )
        fs.mkdir("bucket")
        yield fs, environment
    finally:
        server.stop()


def model_processes(runner: int) -> list[psutil.Process]:
    """The processes that work on models for ``runner``, a process id."""
    try:
        forkservers = psutil.Process(runner).children()
        return [child for forkserver in forkservers for child in forkserver.children()]
    except psutil.NoSuchProcess:
        return []
