"""Runs ``initialize`` or ``check`` on one model in a process, and puts the results in place."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import graph_init
from graph_init.engine import memory
from graph_init.errors import GraphInitError, UsageError
from graph_init.output import debug_log
from graph_init.zoo import catalog, inputs, lock, messages, overview
from graph_init.zoo.messages import Answer, Inputs, Message, Need, News, Started, Superseded, Task
from graph_init.zoo.records import CHECK, INITIALIZE, Failure, Figures, Finding
from graph_init.zoo.store import open_store

#: Seconds between two messages about how far a model is.
_NEWS = 0.5


class OutputTaken(GraphInitError):
    """Another run has taken over the output while this model was at work."""


class Stream(Protocol):
    """Lines to and from whoever has started this process."""

    def readline(self) -> bytes: ...

    def write(self, content: bytes, /) -> int: ...

    def flush(self) -> None: ...


def converse(task: Task, stream: Stream) -> None:
    """Do ``task``, and say over ``stream`` what becomes of it.

    Before memory is taken that the evaluation needs, that is said, and an answer is waited for.
    """

    def say(message: Message) -> None:
        stream.write(messages.encoded(message))
        stream.flush()

    def admit(needed: int) -> None:
        say(Need(memory.resident() + needed))
        if not stream.readline():
            os._exit(1)

    say(Started(os.getpid()))
    os.environ["OMP_NUM_THREADS"] = str(task.threads)
    folder = Path(task.scratch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What native code prints as it dies is the best that can be said of a crash.
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.enable(file=2)
        debug_log.go_on(task.debug, task.name)
        memory.admissions.append(admit)
        say(Answer(finding=_work(task, folder, say)))
    except OutputTaken as error:
        say(Superseded(str(error)))
    except GraphInitError as error:
        debug_log.write(error)
        say(_failure(type(error).__name__, str(error), error.exit_status))
    except MemoryError as error:
        debug_log.write(error)
        words = f"the memory did not suffice ({error or 'MemoryError'}); see --memory-limit"
        say(_failure("MemoryError", words, 4))
    except BaseException as error:
        debug_log.write(error)
        words = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
        say(_failure(type(error).__name__, words, 1))


def _failure(kind: str, message: str, status: int) -> Answer:
    return Answer(error=Failure(kind, message, status))


def _work(task: Task, folder: Path, say: Callable[[Message], None]) -> Finding:
    say(News("reading"))
    path, files = inputs.bring(task.source, folder)
    if "data" in task.options:
        files += inputs.of_data(task.options["data"])
    say(Inputs(files))
    say(News("building"))
    try:
        found = _DONE_BY[task.work](task, path, folder / "out", say)
    except GraphInitError as error:
        # A copy's place says nothing to anybody.
        base = task.source.rpartition("/")[0]
        raise type(error)(str(error).replace(str(folder), base)) from error
    shared = catalog.shared(found.outputs, task.neighbours)
    if shared:
        raise UsageError(
            f"its data would be written to '{shared[0]}', a name that belongs to the model "
            f"'{shared[1]}'; give one of the two another name in a manifest"
        )
    store = open_store(task.output)
    if not lock.is_current(store, task.run):
        raise OutputTaken("another run has taken over the output")
    store.place(folder / "out", found.outputs)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _initialize(task: Task, path: Path, out: Path, say: Callable[[Message], None]) -> Finding:
    last = 0.0

    def show(entry: graph_init.HistoryEntry) -> None:
        nonlocal last
        if time.monotonic() - last > _NEWS:
            last = time.monotonic()
            deviation = entry.gradient_deviation
            shown = "not finite" if deviation is None else f"{deviation:.4g}"
            say(News(f"step {entry.step}, GD {shown}"))

    result = graph_init.initialize(
        path, **task.options, memory_limit=task.memory_limit, on_step=show
    )
    if result.interrupted:
        raise KeyboardInterrupt
    say(News("writing"))
    return Finding(
        outputs=_write(result, task.name, out),
        notes=result.notes,
        before=Figures.of(result.before),
        after=Figures.of(result.after),
        elements=result.after.elements,
        loss_kind=result.after.loss_kind,
        loss_reason=result.after.loss_reason,
        steps=result.steps,
        scales=len(result.scales),
        warnings=result.after.warnings,
    )


def _check(task: Task, path: Path, out: Path, say: Callable[[Message], None]) -> Finding:
    result = graph_init.check(path, **task.options, memory_limit=task.memory_limit)
    say(News("writing"))
    name = task.name + catalog.RESULT
    (out / name).parent.mkdir(parents=True)
    _put(out / name, _told(result.report_content()))
    reached = result.gradient.tensors.values() if result.gradient else ()
    return Finding(
        outputs=[name],
        notes=result.notes,
        elements=sum(t.elements for t in reached) or None,
        findings=[f.to_json() for f in result.findings],
    )


#: What is done with a model, by the run's work: it writes files below a folder.
_DONE_BY: Mapping[str, Callable[[Task, Path, Path, Callable[[Message], None]], Finding]] = {
    INITIALIZE: _initialize,
    CHECK: _check,
}


def _write(result: graph_init.Initialized, name: str, folder: Path) -> list[str]:
    """Files of ``result`` under ``folder``, the one that says that all are there last."""
    model = folder / (name + catalog.MODEL)
    model.parent.mkdir(parents=True)
    scales, content = name + catalog.SCALES, name + catalog.RESULT
    result.save(model, scales=folder / scales, own_data=True)
    data = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    _put(folder / content, {**_told(result.report_content()), "output": model.name})
    last = [name + catalog.MODEL, scales, content]
    return [*sorted(data - set(last)), *last]


def _put(path: Path, told: dict[str, Any]) -> None:
    """On the disk when this returns."""
    with path.open("x", encoding="utf-8") as stream:
        json.dump(told, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _told(content: dict[str, Any]) -> dict[str, Any]:
    """What a report shows, with what the command's ``--json`` tells at the top.

    It is the same each time: where the model came from, and how long it took, is in the overview.
    """
    told = {k: v for k, v in content["result"].items() if k not in ("seconds", "interrupted")}
    return {**told, **{k: content[k] for k in overview.OF_REPORT if k in content}}
