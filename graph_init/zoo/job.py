"""Runs ``initialize`` on one model in a process, and puts the results in their place."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import graph_init
from graph_init.engine import memory
from graph_init.errors import GraphInitError, UsageError
from graph_init.output import debug_log
from graph_init.zoo import catalog, inputs, lock, messages, overview
from graph_init.zoo.messages import Answer, Inputs, Message, Need, News, Started, Superseded, Task
from graph_init.zoo.records import Failure, Figures, Finding
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
    options = dict(task.options)
    say(News("reading"))
    path, files = inputs.bring(task.source, folder)
    if "data" in options:
        files += inputs.of_data(options["data"])
    say(Inputs(files))
    last = 0.0

    def show(entry: graph_init.HistoryEntry) -> None:
        nonlocal last
        if time.monotonic() - last > _NEWS:
            last = time.monotonic()
            deviation = entry.gradient_deviation
            shown = "not finite" if deviation is None else f"{deviation:.4g}"
            say(News(f"step {entry.step}, GD {shown}"))

    say(News("building"))
    try:
        result = graph_init.initialize(
            path, **options, memory_limit=task.memory_limit, on_step=show
        )
    except GraphInitError as error:
        # A copy's place says nothing to anybody.
        base = task.source.rpartition("/")[0]
        raise type(error)(str(error).replace(str(folder), base)) from error
    if result.interrupted:
        raise KeyboardInterrupt
    say(News("writing"))
    names = _write(result, task.name, folder / "out")
    shared = catalog.shared(names, task.neighbours)
    if shared:
        raise UsageError(
            f"its data would be written to '{shared[0]}', a name that belongs to the model "
            f"'{shared[1]}'; give one of the two another name in a manifest"
        )
    store = open_store(task.output)
    if not lock.is_current(store, task.run):
        raise OutputTaken("another run has taken over the output")
    store.place(folder / "out", names)
    shutil.rmtree(folder, ignore_errors=True)
    return Finding(
        before=Figures.of(result.before),
        after=Figures.of(result.after),
        elements=result.after.elements,
        loss_kind=result.after.loss_kind,
        loss_reason=result.after.loss_reason,
        steps=result.steps,
        scales=len(result.scales),
        warnings=result.after.warnings,
        notes=result.notes,
        outputs=names,
    )


def _write(result: graph_init.Initialized, name: str, folder: Path) -> list[str]:
    """Files of ``result`` under ``folder``, the one that says that all are there last."""
    model = folder / (name + catalog.MODEL)
    model.parent.mkdir(parents=True)
    scales, content = name + catalog.SCALES, name + catalog.RESULT
    result.save(model, scales=folder / scales, own_data=True)
    data = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    with (folder / content).open("x", encoding="utf-8") as stream:
        json.dump(_told(result, model.name), stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    last = [name + catalog.MODEL, scales, content]
    return [*sorted(data - set(last)), *last]


def _told(result: graph_init.Initialized, file: str) -> dict[str, Any]:
    """What a report shows of ``result``, which has what ``initialize --json`` tells at the top.

    It is the same each time: where the model came from, and how long it took, is in the overview.
    """
    content = result.report_content()
    told = {k: v for k, v in content["result"].items() if k not in ("seconds", "interrupted")}
    return {**told, "output": file, **{k: content[k] for k in overview.OF_REPORT}}
