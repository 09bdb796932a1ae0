"""Runs on each worker of the cluster: starts a process for a model, and makes its record."""

from __future__ import annotations

import hashlib
import platform
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from graph_init.engine import memory
from graph_init.errors import GraphInitError
from graph_init.output import debug_log
from graph_init.version import __version__
from graph_init.zoo import catalog, extra, inputs, isolation
from graph_init.zoo.budget import Budget, of_machine
from graph_init.zoo.messages import Task
from graph_init.zoo.records import DONE, FAILED, Failure, Record, Row
from graph_init.zoo.store import open_store

#: Topic of the cluster's events under which progress is told.
TOPIC = "graph-init-zoo"
#: Times that a model is tried whose process somebody else ends.
ATTEMPTS = 3


class _Node:
    """What the threads of one worker share."""

    def __init__(self) -> None:
        cores, total, models = _share()
        self.forkserver = isolation.Forkserver()
        self.budget = Budget(total)
        self.threads = max(1, cores // models)
        self.stopped: set[str] = set()


def _share() -> tuple[int, int, int]:
    """Cores and bytes of memory for the models of this worker, and how many are at work at a time.

    Workers that share a machine have been given limits of memory that say so.
    """
    cores, total = int(extra.module("dask.system").CPU_COUNT), of_machine()
    worker = _worker()
    if worker is None:
        return cores, total, 1
    limit = worker.memory_manager.memory_limit
    return cores, min(total, limit or total), int(worker.state.nthreads)


def _worker() -> Any:
    """The worker of the cluster that this thread belongs to, None if it belongs to none."""
    try:
        return extra.module("distributed").get_worker()
    except ValueError:
        return None


_lock = threading.Lock()
_node: _Node | None = None


def _shared() -> _Node:
    global _node
    with _lock:
        if _node is None:
            _node = _Node()
        return _node


def version() -> str:
    """The program's, here: all workers of a cluster must have the same."""
    return __version__


def stop(run: str) -> None:
    """End all processes of ``run`` here, and start no more."""
    _shared().stopped.add(run)


def close() -> None:
    """End the process that forks."""
    global _node
    with _lock:
        if _node is not None:
            _node.forkserver.close()
            _node = None


@dataclass(frozen=True)
class Performed:
    """What a worker hands back: a model's record, and whether it is the earlier one."""

    record: Record
    kept: bool = False


def perform(task: Task) -> Performed | None:
    """The record of the model of ``task``: its earlier one if nothing has changed since.

    None if the run was stopped. Nothing is raised for what goes wrong.
    """
    tell = _teller(task.name)
    try:
        tell("started")
        if task.previous is not None and _stands(task.previous, task):
            return Performed(task.previous, kept=True)
        return _done(task, tell)
    except Exception as error:
        known = isinstance(error, GraphInitError)
        words = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        status = error.exit_status if isinstance(error, GraphInitError) else 1
        return Performed(failed(task, Failure(type(error).__name__, words, status)))
    finally:
        tell("ended")


def failed(task: Task, error: Failure, *, transient: bool = False) -> Record:
    """The record of a model that no process was started for, or none that came back."""
    return Record(_row(task, FAILED, error=error), task.key, transient=transient)


def _teller(name: str) -> Callable[[str], None]:
    worker = _worker()
    if worker is None:
        return lambda news: None
    return lambda news: worker.log_event(TOPIC, {"name": name, "news": news})


def _stands(previous: Record, task: Task) -> bool:
    """Whether a record still says what would come out."""
    if not previous.inputs or not inputs.unchanged(previous.inputs):
        return False
    store = open_store(task.output)
    outputs = previous.row.outputs
    return all(map(store.exists, outputs)) and not catalog.shared(outputs, task.neighbours)


def _done(task: Task, tell: Callable[[str], None]) -> Performed | None:
    node = _shared()
    limit = task.memory_limit or node.budget.total
    threads = task.threads or node.threads
    base = open_store(task.output).scratch(task.run)
    outcome = isolation.Outcome()
    attempt = 0
    while attempt < ATTEMPTS:
        attempt += 1
        mark = hashlib.sha256(f"{task.name} {platform.node()}".encode()).hexdigest()[:16]
        # One that no other has: a lost worker's process may still write into its own.
        folder = base / f"{mark}-{attempt}-{secrets.token_hex(4)}"
        told = replace(
            task, scratch=str(folder), memory_limit=limit, threads=threads, previous=None
        )
        try:
            outcome = isolation.run(
                told,
                node.forkserver,
                node.budget,
                wanted=lambda: task.run not in node.stopped,
                on_news=tell,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not outcome.lost or task.run in node.stopped:
            break
    if task.run in node.stopped or outcome.superseded:
        return None
    figures = {
        "seconds": round(outcome.seconds, 3),
        "peak_memory": outcome.peak,
        "attempts": attempt,
    }
    if outcome.answer is not None and outcome.answer.finding is not None:
        row = _row(task, DONE, **figures, **vars(outcome.answer.finding))
    else:
        error = _failure(outcome, task, limit, attempt)
        row = _row(task, FAILED, error=error, **figures)
    lost = outcome.answer is None and outcome.lost
    return Performed(Record(row, task.key, inputs=outcome.inputs, transient=lost))


def _failure(outcome: isolation.Outcome, task: Task, limit: int, attempts: int) -> Failure:
    """Why there is no finding; ``limit`` is that of the memory, in bytes."""
    if outcome.stopped == "time":
        words = (
            f"its process was stopped, as it took more than {task.time_limit:g} s; raise "
            "--time-limit, or lower --updates, --steps or --batch-size"
        )
        return Failure("TimeLimit", words, 4)
    if outcome.stopped == "memory":
        words = (
            f"its process was stopped, as it took {outcome.peak / 1e9:.2f} GB of memory, more than "
            f"its limit of {limit / 1e9:.2f} GB; raise --memory-limit, or lower --batch-size"
        )
        return Failure("MemoryLimit", words, 4)
    if outcome.answer is not None and outcome.answer.error is not None:
        return outcome.answer.error
    words = outcome.describe_exit()
    if task.debug is not None and outcome.last_words:
        debug_log.add(task.debug, task.name, f"{words}; it wrote:\n{outcome.last_words}\n")
    if not outcome.lost:
        return Failure("Crash", f"{words}; --debug FILE tells where it was", 7)
    free = memory.available()
    room = "" if free is None else f" ({free / 1e9:.1f} GB of memory are free now)"
    words += f", {attempts} times{room}; perhaps the system ran out of memory"
    return Failure("Killed", words, 1)


def _row(task: Task, status: str, **more: Any) -> Row:
    return Row(name=task.name, source=task.source, status=status, host=platform.node(), **more)
