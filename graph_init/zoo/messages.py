"""The task that a model's process is given, and its messages: one JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graph_init.zoo.records import Failure, Finding, Input, Record


@dataclass(frozen=True)
class Task:
    """A model to be done.

    Attributes:
        name: of the model in the output, without a suffix.
        source: path or address of its file.
        problem: why it cannot be done at all; None for most.
        work: what is done with it, ``initialize`` or ``check``.
        options: arguments of that function.
        key: changes with the options and the program.
        neighbours: other models of the run whose files could have the same names.
        previous: the model's earlier record, if it may still stand.
        output: address that the results are written to.
        run: of which the task is one.
        threads: of the model; None: a share of the worker's.
        memory_limit: in bytes; None: the worker's.
        time_limit: in seconds.
        scratch: folder for files on their way.
        debug: the file of the debug log; None: there is none.
    """

    name: str
    source: str
    problem: str | None
    work: str
    options: dict[str, Any]
    key: str
    neighbours: Sequence[str]
    previous: Record | None
    output: str
    run: str
    threads: int | None
    memory_limit: int | None
    time_limit: float
    scratch: str = ""
    debug: str | None = None


@dataclass(frozen=True)
class Started:
    """The process is there."""

    pid: int


@dataclass(frozen=True)
class Need:
    """Bytes that the process will have taken; it waits for a line before it takes them."""

    size: int


@dataclass(frozen=True)
class News:
    """How far the model is."""

    text: str


@dataclass(frozen=True)
class Inputs:
    """The files that the result depends on."""

    files: list[Input] = field(default_factory=list)


@dataclass(frozen=True)
class Superseded:
    """Another run has taken over the output; nothing was written."""

    reason: str


@dataclass(frozen=True)
class Answer:
    """What became of the model: what was found of it, or why it failed."""

    finding: Finding | None = None
    error: Failure | None = None

    @classmethod
    def from_json(cls, finding: dict[str, Any] | None, error: dict[str, Any] | None) -> Answer:
        """The answer of ``dataclasses.asdict``."""
        return cls(
            None if finding is None else Finding.from_json(finding),
            None if error is None else Failure(**error),
        )


@dataclass(frozen=True)
class Exited:
    """Said by what started the process: its status, or minus a signal; and its peak in bytes."""

    status: int
    peak: int


Message = Started | Need | News | Inputs | Superseded | Answer | Exited
#: How a message is made of its fields.
_KINDS: dict[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (Started, Need, News, Inputs, Superseded, Exited)},
    Answer.__name__: Answer.from_json,
}


def encoded(message: Message) -> bytes:
    """The message as a line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decoded(line: bytes) -> Message:
    """The message of a line."""
    content = json.loads(line)
    found: Message = _KINDS[content.pop("kind")](**content)
    return found


def encoded_task(task: Task) -> bytes:
    """The task as a line."""
    return json.dumps(asdict(task)).encode() + b"\n"


def decoded_task(line: bytes) -> Task:
    """The task of a line."""
    return Task(**json.loads(line))
