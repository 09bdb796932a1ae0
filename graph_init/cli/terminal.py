"""What people and programs see: tables, JSON, progress, and errors as one line."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
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

from graph_init.cli import process
from graph_init.errors import GraphInitError, OutputError, escaped
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


out = _StandardOutput()
err = _Terminal(stderr=True)


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {c}" for c in commands)


def progress(*columns: ProgressColumn) -> Progress:
    """A bar with a count and the time that remains; nothing where there is no terminal."""
    return Progress(
        *columns[:1], BarColumn(), MofNCompleteColumn(), *columns[1:], TimeRemainingColumn(),
        console=err, disable=not err.is_terminal, transient=True,
    )  # fmt: skip


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line and the exit status of its class."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            process.require_working_folder()
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
        except MemoryError:
            err.print("error: there is not enough memory for this")
            sys.exit(1)
        except Exception as error:
            if os.environ.get("GRAPH_INIT_DEBUG"):
                traceback.print_exc()
            known = isinstance(error, GraphInitError)
            words = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            err.print(Text(f"error: {escaped(words)}"), soft_wrap=True)
            sys.exit(error.exit_status if isinstance(error, GraphInitError) else 1)

    return run


def print_json(content: dict[str, Any]) -> None:
    with _to_standard_output():
        click.echo(json.dumps(content, indent=2))


def warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        err.print(Text(f"warning: {escaped(sentence)}"), soft_wrap=True)


def shown(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)
