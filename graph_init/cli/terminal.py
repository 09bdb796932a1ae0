"""Prints what the commands show: tables, JSON, progress, and errors as one line."""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from graph_init.cli import isolation, parent, process
from graph_init.errors import GraphInitError, OutputError, escaped
from graph_init.output import debug_log
from graph_init.output.signals import Terminated


@contextmanager
def _to_standard_output() -> Iterator[None]:
    """What fails there (a full disk behind a redirection) is said; a closed pipe is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


class _Terminal(Console):
    """A console on which text from files stays text.

    Names in a model may hold control characters, which a terminal would obey. All that is printed
    becomes segments here; those that are text are printed with such characters written out.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(escaped(text, kept="\n"), style)


class _StandardOutput(_Terminal):
    def print(self, *objects: Any, **options: Any) -> None:
        with _to_standard_output():
            super().print(*objects, **options)


out: Console = _StandardOutput()
err: Console = _Terminal(stderr=True)


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {c}" for c in commands)


def progress(*columns: ProgressColumn, remaining: ProgressColumn | None = None) -> Progress:
    """A bar with a count and the time that remains; nothing where there is no terminal."""
    return Progress(
        *columns[:1],
        BarColumn(),
        MofNCompleteColumn(),
        *columns[1:],
        remaining or TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )


#: Of every command, which does not see it.
_debug_option = click.option(
    "--debug",
    "debug_file",
    type=click.Path(),
    metavar="FILE",
    help="Write to FILE what an error's one line leaves out, the engine's own words among it.",
)


#: Of every command that reads a model.
_trusted_option = click.option(
    "--trusted",
    is_flag=True,
    help="Without the process that keeps a crash of native code to one line.",
)


class Forecast:
    """How long work of many like parts will still take, from those that are done.

    Said from the first part on, where the whole takes more than a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()

    def __call__(self, done: int, total: int) -> str:
        """``about 3 min left``, or nothing; with nothing ``done`` the time is counted from now."""
        if not done:
            self._begun = self._clock()
            return ""
        whole = (self._clock() - self._begun) / done * total
        minutes = math.ceil(whole / 60 * (total - done) / total)
        if whole <= 60 or not minutes:
            return ""
        return f"about {minutes} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"


def isolated(function: Callable[..., None]) -> Callable[..., None]:
    """As :func:`guarded`, and the work is done in a process of its own; adds --trusted, too.

    The function's file is its argument ``model``, or each of ``models``.
    """

    @_trusted_option
    @functools.wraps(function)
    def run(*args: Any, trusted: bool, **kwargs: Any) -> None:
        if process.own and isolation.POSSIBLE and not trusted:
            first = kwargs.get("model") or kwargs["models"][0]
            isolation.enter(first, kwargs)
        elif process.own:
            parent.end_with_it()
        function(*args, **kwargs)

    return _turning_errors(run)


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line and the exit status of its class; adds the option --debug."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        if process.own:
            parent.end_with_it()
        function(*args, **kwargs)

    return _turning_errors(run)


def _turning_errors(function: Callable[..., None]) -> Callable[..., None]:
    @_debug_option
    @functools.wraps(function)
    def run(*args: Any, debug_file: str | None, **kwargs: Any) -> None:
        try:
            process.require_working_folder()
            debug_log.begin(debug_file)
            function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            process.silence()
            sys.exit(1)
        except Terminated as signal:
            err.print(f"ended by {signal}")
            sys.exit(signal.exit_status)
        except KeyboardInterrupt:
            err.print("interrupted")
            sys.exit(1)
        except MemoryError as error:
            debug_log.write(error)
            err.print("error: there is not enough memory for this")
            sys.exit(1)
        except Exception as error:
            debug_log.write(error)
            known = isinstance(error, GraphInitError)
            words = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            err.print(Text(f"error: {escaped(words)}"), soft_wrap=True)
            sys.exit(error.exit_status if isinstance(error, GraphInitError) else 1)

    return run


def echo(text: str) -> None:
    """To standard output, as it is and alone there."""
    with _to_standard_output():
        click.echo(text)


def print_json(content: dict[str, Any]) -> None:
    """To standard output, alone there."""
    echo(json.dumps(content, indent=2))


def warn(sentences: Iterable[str]) -> None:
    """Each sentence on a line of standard error."""
    for sentence in sentences:
        err.print(Text(f"warning: {escaped(sentence)}"), soft_wrap=True)


def loss_line(kind: str, reason: str) -> Text:
    """What stands under a table: which loss it was, and why."""
    return Text(f"The loss is {kind}: {reason}.")


def shown(number: float | None, form: str) -> str:
    """The number in this format; a dash where there is none."""
    return "–" if number is None else format(number, form)
