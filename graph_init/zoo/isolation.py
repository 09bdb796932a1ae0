"""One model in a process of its own, within its limits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph_init.errors import EngineError
from graph_init.files import opening
from graph_init.zoo import extra
from graph_init.zoo.budget import Budget
from graph_init.zoo.messages import (
    Answer,
    Exited,
    Inputs,
    Message,
    Need,
    News,
    Started,
    Superseded,
    Task,
    decoded,
    encoded_task,
)
from graph_init.zoo.records import Input

#: Seconds between two looks at a model's memory and time.
_LOOK = 0.1
#: Seconds that what starts the processes may take to start itself, on a machine with much to do.
_STARTING = 300.0
#: Bytes of the end of what a process has printed, in which its last words are.
_TAIL = 1 << 16
_START = (
    "import json, sys; sys.path[:], *protocols = json.loads(sys.argv[1]); "
    "from graph_init.zoo.forkserver import main; main(protocols)"
)


@dataclass
class Outcome:
    """What became of a model's process.

    ``answer`` is what it said at its end. ``stopped`` is ``time``, ``memory`` or ``unwanted`` if it
    was killed for that. ``exit`` is a status, the negative number of a signal, or None if even the
    process that would know has died. ``peak`` is in bytes.
    """

    answer: Answer | None = None
    inputs: list[Input] = field(default_factory=list)
    superseded: str | None = None
    stopped: str | None = None
    exit: int | None = None
    peak: int = 0
    seconds: float = 0.0
    last_words: str = ""

    @property
    def lost(self) -> bool:
        """Whether somebody else has ended the process: the model may be tried again."""
        outside = (None, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)
        return self.answer is None and self.stopped is None and self.exit in outside

    def describe_exit(self) -> str:
        if self.exit is None or self.exit >= 0:
            how = f"ended with status {self.exit}"
        else:
            try:
                name = signal.Signals(-self.exit).name
            except ValueError:
                name = str(-self.exit)
            how = f"was killed by {name}" if self.lost else f"crashed with {name}"
        # What native code prints as it dies is for the log.
        words = (
            self.last_words.splitlines()[-1:] if self.exit is not None and self.exit >= 0 else []
        )
        return ": ".join([f"its process {how}", *(w[:300] for w in words)])


class Forkserver:
    """Starts processes; itself started when it is first needed, and again if it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def connect(self, protocols: Sequence[str] = ()) -> socket.socket:
        """A socket to a new process, which waits for its task.

        What fsspec needs for ``protocols`` is imported where the process is forked, if that is yet
        to be started.
        """
        mine, its = socket.socketpair()
        with its, self._lock:
            for _ in range(2):
                if self._process is None or self._process.poll() is not None:
                    self._start(protocols)
                assert self._control is not None
                try:
                    socket.send_fds(self._control, [b"+"], [its.fileno()])
                    return mine
                except OSError:
                    self._end()
        mine.close()
        raise EngineError("no process can be started for the models; see `graph-init doctor`")

    def close(self) -> None:
        with self._lock:
            self._end()

    def _start(self, protocols: Sequence[str]) -> None:
        mine, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                # With the path of this process, without the folder that it happens to be in.
                [sys.executable, "-c", _START, json.dumps([sys.path, *protocols])],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                # Libraries that start threads when they are imported must not: a fork loses them.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                # Out of reach of a terminal's Ctrl-C, which means the runner.
                start_new_session=True,
            )
        self._control = mine

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._control = None


def run(
    task: Task,
    forkserver: Forkserver,
    budget: Budget,
    wanted: Callable[[], bool],
    on_news: Callable[[str], None],
) -> Outcome:
    """Do ``task`` in a process of its own; ``wanted`` is asked again and again whether to go on."""
    addresses = (task.source, task.output)
    protocols = {a.partition("://")[0] for a in addresses if "://" in a}
    with forkserver.connect(sorted(protocols)) as connection:
        watch = _Watch(
            task=task, connection=connection, budget=budget, wanted=wanted, on_news=on_news
        )
        budget.enter(connection)
        try:
            connection.sendall(encoded_task(task))
            for message in _messages(connection):
                if message is None:
                    watch.look()
                else:
                    watch.hears(message)
        except OSError:
            pass  # the other side is gone; what it could say it has said
        finally:
            budget.leave(connection)
    found = watch.outcome
    found.seconds = time.monotonic() - watch.start - watch.waited
    found.last_words = _last_words(Path(task.scratch) / "log")
    return found


class _Watch:
    """Over one process: what it says goes into ``outcome``, and beyond its limits it is stopped."""

    def __init__(
        self,
        task: Task,
        connection: socket.socket,
        budget: Budget,
        wanted: Callable[[], bool],
        on_news: Callable[[str], None],
    ) -> None:
        self.outcome = Outcome()
        self.start, self.waited = time.monotonic(), 0.0
        self._task, self._connection, self._budget = task, connection, budget
        self._wanted, self._on_news = wanted, on_news
        self._psutil = extra.module("psutil")
        self._process: Any = None
        self._hears: dict[type[Any], Callable[[Any], None]] = {
            Started: self._started,
            Need: self._needs,
            News: lambda message: on_news(message.text),
            Inputs: lambda message: self._sets(inputs=message.files),
            Superseded: lambda message: self._sets(superseded=message.reason),
            Answer: lambda message: self._sets(answer=message),
            Exited: lambda message: self._sets(
                exit=message.status, peak=max(self.outcome.peak, message.peak)
            ),
        }

    def hears(self, message: Message) -> None:
        self._hears[type(message)](message)

    def look(self) -> None:
        """Stop the process if it is not wanted any more, or takes more than it may."""
        reason = self._excess() if self._wanted() else "unwanted"
        if reason and not self.outcome.stopped:
            self.outcome.stopped = reason
            self._connection.shutdown(socket.SHUT_WR)

    def _excess(self) -> str | None:
        """Which of its limits the process has passed."""
        allowed = self._task.time_limit
        if self._process is None:
            allowed = max(_STARTING, allowed)
        if time.monotonic() - self.start - self.waited > allowed:
            return "time"
        if self._process is not None and self._task.memory_limit is not None:
            with contextlib.suppress(self._psutil.Error):
                resident = self._process.memory_info().rss
                self.outcome.peak = max(self.outcome.peak, resident)
                return "memory" if resident > self._task.memory_limit else None
        return None

    def _started(self, message: Started) -> None:
        # What starts processes may have had to be started itself.
        self.start = time.monotonic()
        with contextlib.suppress(self._psutil.Error):
            self._process = self._psutil.Process(message.pid)

    def _needs(self, message: Need) -> None:
        asked = time.monotonic()
        self._on_news("waiting for memory")
        admitted = self._budget.require(self._connection, message.size, self._wanted)
        self.waited += time.monotonic() - asked
        if admitted:
            self._on_news("working")
            self._connection.sendall(b"go\n")

    def _sets(self, **found: Any) -> None:
        for name, value in found.items():
            setattr(self.outcome, name, value)


def _messages(connection: socket.socket) -> Iterator[Message | None]:
    """What comes over ``connection``, and None whenever it is time for a look."""
    connection.settimeout(_LOOK)
    rest = b""
    looked = time.monotonic()
    while True:
        try:
            block = connection.recv(1 << 16)
        except TimeoutError:
            block = None
        if block == b"":
            return
        *lines, rest = (rest + (block or b"")).split(b"\n")
        for line in lines:
            yield decoded(line)
        if block is None or time.monotonic() - looked > _LOOK:
            looked = time.monotonic()
            yield None


def _last_words(log: Path) -> str:
    try:
        with opening.stream(log) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            return stream.read(_TAIL).decode("utf-8", "replace").strip()
    except OSError:
        return ""
