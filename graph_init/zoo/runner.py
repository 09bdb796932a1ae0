"""The run over all models: hands them out, keeps the journal, writes the overview."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graph_init.check import SEVERITIES
from graph_init.engine import memory
from graph_init.errors import GraphInitError, UsageError
from graph_init.output import debug_log, signals
from graph_init.version import __version__
from graph_init.zoo import catalog, cluster, journal, lock, manifest, node, overview, store
from graph_init.zoo.catalog import Entry
from graph_init.zoo.journal import Journal
from graph_init.zoo.messages import Task
from graph_init.zoo.node import Performed
from graph_init.zoo.overview import Zoo
from graph_init.zoo.plan import Blind, Plan, View
from graph_init.zoo.records import (
    CHECK,
    DONE,
    FAILED,
    INITIALIZE,
    UNFINISHED,
    Failure,
    Record,
    Row,
)
from graph_init.zoo.store import Folder, Store

DEFAULT_TIME_LIMIT = 3600.0
#: Models handed out for each that can be at work, so that no worker waits for the next one.
_AHEAD = 2
#: Seconds in which models that are to stop have to.
_STOPPING = 15.0
#: Seconds between two looks at whether the run is to stop.
_WAIT = 0.2


@dataclass
class _Run:
    """What a run has, and has counted."""

    plan: Plan
    store: Store
    journal: Journal
    client: Any
    run: str
    counts: Counter[str] = field(default_factory=Counter)
    #: Times that a model at work has been started.
    starts: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)
    interrupted: threading.Event = field(default_factory=threading.Event)
    #: Models whose line in the journal is what this run would have made, or has.
    settled: set[str] = field(default_factory=set)

    def rows(self, entries: Sequence[Entry]) -> Iterator[Row]:
        """A row a model, in the order of ``entries``."""
        for entry in entries:
            if entry.name in self.settled:
                yield self.journal[entry.name].row
            else:
                yield Row(entry.name, entry.source, UNFINISHED)

    def counted(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """How many models there are of each status, and of a check how many findings."""
        found: Counter[str] = Counter()
        for row in self.rows(entries):
            found[row.status] += 1
            found.update({severity: row.count(severity) for severity in SEVERITIES})
        statuses = {status: found[status] for status in (DONE, FAILED, UNFINISHED)}
        if self.plan.work != CHECK:
            return statuses
        return {**statuses, "findings": {severity: found[severity] for severity in SEVERITIES}}


def run(
    sources: Sequence[str],
    output: str,
    *,
    resume: bool = False,
    retry: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    view: View | None = None,
    **options: Any,
) -> Zoo:
    """``initialize`` every model of ``sources``, each in a process of its own, into ``output``.

    ``options`` are those of ``initialize`` for every model, ``memory_limit`` (a model's; by default
    what there is) and ``time_limit`` (``"15m"``; an hour). ``workers`` models are at work at a
    time, with ``threads`` threads each. ``resume`` goes on where a run has ended, however it has;
    ``retry="failed"`` does those again that failed. The result says what became of each.

    Raises UsageError and ModelFileError for what is wrong before the first model; after that only
    for what stops the whole run. On SIGINT, SIGTERM and SIGHUP the models at work are
    stopped, what is done is kept, and the overview says what is not.
    """
    return _run(
        Plan(
            work=INITIALIZE,
            sources=sources,
            output=output,
            options=options,
            resume=resume,
            retry=retry,
            workers=workers,
            threads=threads,
            scheduler=scheduler,
            view=view or Blind(),
        )
    )


def check(
    sources: Sequence[str],
    output: str,
    *,
    resume: bool = False,
    retry: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    view: View | None = None,
    **options: Any,
) -> Zoo:
    """``check`` every model of ``sources``: rows have findings, and no model is written.

    ``options`` are those of ``check`` for every model, such as ``ignore``; what manifests have for
    an initialisation alone is passed over. All else is as :func:`run` has it.
    """
    return _run(
        Plan(
            work=CHECK,
            sources=sources,
            output=output,
            options=options,
            resume=resume,
            retry=retry,
            workers=workers,
            threads=threads,
            scheduler=scheduler,
            view=view or Blind(),
        )
    )


def _run(plan: Plan) -> Zoo:
    start = time.monotonic()
    entries = plan.entries()
    target = store.open_store(plan.output)
    if not plan.resume and not target.is_empty():
        raise UsageError(
            f"'{plan.output}' is not empty; --resume continues the run that is there, and repeats "
            "models that have changed"
        )
    if isinstance(target, Folder):
        target.create()
    number = secrets.token_hex(8)
    count = plan.workers or cluster.cores()
    with lock.held(target, number), journal.opened(target) as book:
        target.begin(number)
        with cluster.connected(plan.scheduler, count) as client:
            current = _Run(plan=plan, store=target, journal=book, client=client, run=number)
            interrupted = _work(current, entries)
        scratch = target.scratch(number)
        head = {
            "output": target.url,
            "program": __version__,
            "work": plan.work,
            "models": len(entries),
            **current.counted(entries),
            "kept": current.counts["kept"],
            "seconds": round(time.monotonic() - start, 3),
            "runner_memory": memory.resident(),
            "interrupted": interrupted,
        }
        names = overview.write(scratch, current.rows(entries), head)
        target.place(scratch, names)
        target.end()
    return overview.read(target.url)


def _work(current: _Run, entries: Sequence[Entry]) -> bool:
    """Have all models done; whether that was interrupted."""
    current.plan.view.begins(len(entries))
    _read_events(current)
    # The largest first, so that none is left to work alone at the end.
    names = [e.name for e in entries]
    tasks = (_task(current, e, names) for e in sorted(entries, key=lambda e: -e.size))
    with _orderly(current.interrupted):
        _hand_out(current, tasks)
    return current.interrupted.is_set()


@contextlib.contextmanager
def _orderly(interrupted: threading.Event) -> Iterator[None]:
    """The first signal that ends a program sets ``interrupted``, the second one raises.

    An ignored SIGHUP stays ignored: whoever has said ``nohup`` wants the run to go on.
    """

    def handle(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {s for s in signals.ENDING[2:] if signal.getsignal(s) == signal.SIG_IGN}
    earlier = {s: signal.signal(s, handle) for s in signals.ENDING if s not in kept}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _task(current: _Run, entry: Entry, names: Sequence[str]) -> Task:
    options = current.plan.own(entry.options)
    limits = {k: options.pop(k, None) for k in manifest.LIMITS}
    about = {"version": __version__, "work": current.plan.work, "options": options}
    told = json.dumps(about, sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()
    previous = current.journal.get(entry.name)
    if previous is not None:
        again = previous.row.status == FAILED and (current.plan.retry or previous.transient)
        if previous.key != key or previous.row.source != entry.source or again:
            previous = None
    return Task(
        name=entry.name,
        source=entry.source,
        problem=entry.problem,
        work=current.plan.work,
        options=options,
        key=key,
        neighbours=catalog.neighbours(entry.name, names),
        previous=previous,
        output=current.store.url,
        run=current.run,
        threads=current.plan.threads,
        debug=debug_log.path(),
        memory_limit=limits["memory_limit"],
        time_limit=limits["time_limit"] or DEFAULT_TIME_LIMIT,
    )


def _hand_out(current: _Run, tasks: Iterator[Task]) -> None:
    """A few at a time: neither the runner nor the scheduler ever has all of them."""
    waiting: dict[str, Task] = {}  # by the future's key
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    numbers = iter(range(2**62))
    looked, room = 0.0, 0
    finished = False
    while not current.interrupted.is_set():
        if time.monotonic() - looked > 5:  # workers come and go
            looked, room = time.monotonic(), _AHEAD * max(1, cluster.slots(current.client))
        while not finished and len(waiting) < room:
            task = next(tasks, None)
            if task is None:
                finished = True
            elif task.problem:
                error = Failure("ModelFileError", task.problem, 3)
                _enter(current, [Performed(node.failed(task, error))])
            else:
                key = f"{current.run}-{next(numbers)}"
                future = current.client.submit(node.perform, task, key=key, pure=False)
                waiting[key] = task
                future.add_done_callback(done.put)
        if not waiting:
            return
        _collect(current, done, waiting)
    # Those that end by themselves until they are stopped are kept.
    end = time.monotonic() + _STOPPING
    current.client.run(node.stop, current.run)
    while waiting and time.monotonic() < end:
        _collect(current, done, waiting)


def _collect(current: _Run, done: queue.SimpleQueue[Any], waiting: dict[str, Task]) -> None:
    """Enter what is done by now; wait a little for the first."""
    batch = []
    with contextlib.suppress(queue.Empty):
        batch.append(done.get(timeout=_WAIT))
        while True:
            batch.append(done.get_nowait())
    found: list[Performed] = []
    for future in batch:
        task = waiting.pop(future.key)
        if future.status == "finished":
            if (performed := future.result()) is not None:
                found.append(performed)
        elif future.status == "error":
            found.append(Performed(_given_up(task, future.exception())))
        else:
            raise GraphInitError(
                "the scheduler no longer answers; finished models are kept: run again with --resume"
            )
        future.release()
    _enter(current, found)


def _given_up(task: Task, error: BaseException) -> Record:
    """A model whose workers have all been lost, or that no worker could be given."""
    words = " ".join(str(error).split())
    kind = type(error).__name__
    if kind == "KilledWorker":
        words = "every worker that had this model was lost; see their logs"
    return node.failed(task, Failure(kind, words, 1), transient=True)


def _enter(current: _Run, performed: Sequence[Performed]) -> None:
    counted = [replace(p, record=_with_starts(current, p)) for p in performed]
    current.counts["kept"] += sum(p.kept for p in counted)
    current.journal.append([p.record for p in counted if not p.kept])
    current.settled.update(p.record.row.name for p in counted)
    for p in counted:
        current.plan.view.finished(p.record.row, p.kept)


def _with_starts(current: _Run, performed: Performed) -> Record:
    """The record; of a model that lost workers have begun, with these attempts."""
    record = performed.record
    with current.guard:
        again = max(0, current.starts.pop(record.row.name, 1) - 1)
    if performed.kept or not again:
        return record
    return replace(record, row=replace(record.row, attempts=(record.row.attempts or 1) + again))


def _read_events(current: _Run) -> None:
    def handle(event: Any) -> None:
        _, content = event
        name, news = content["name"], content["news"]
        with current.guard:
            if news == "started":
                current.starts[name] += 1
            elif news == "ended":
                current.starts.pop(name, None)
        current.plan.view.news(name, news)

    current.client.subscribe_topic(node.TOPIC, handle)
