"""Every error a user can meet, with its exit status, and text from files made printable in one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


class GraphInitError(Exception):
    """Base class of all errors that graph-init raises on purpose."""

    exit_status = 1


class UsageError(GraphInitError):
    """An option or argument is wrong."""

    exit_status = 2


class ModelFileError(GraphInitError):
    """A file is missing, unreadable or not valid ONNX."""

    exit_status = 3


class UnsupportedModelError(GraphInitError):
    """The model is valid but cannot be done; the message names node, operator and remedy."""

    exit_status = 4


class MemoryLimitError(UnsupportedModelError):
    """It would need more memory than there is, or than may be taken.

    ``needed`` and ``room`` are in bytes; ``measure`` is the message up to the ``remedies``.
    """

    def __init__(
        self,
        message: str,
        needed: int = 0,
        room: int = 0,
        measure: str = "",
        remedies: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.needed: int = needed
        self.room: int = room
        self.measure: str = measure
        self.remedies: Sequence[str] = remedies


class NumericalError(GraphInitError):
    """The numbers failed: a loss, gradient or deviation is not finite."""

    exit_status = 5


class OutputError(GraphInitError):
    """An output cannot be written: the disk is full, the folder is read-only, and the like."""

    exit_status = 1


class EngineError(GraphInitError):
    """No engine is installed, or not the one that is needed."""

    exit_status = 1


class NativeCrashError(GraphInitError):
    """Native code of onnx or of the engine has ended the process that worked on a file."""

    exit_status = 7


class MissingExtraError(GraphInitError):
    """What a frontend needs is not installed; the message names the extra."""

    exit_status = 1


def suggestion(name: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """``; did you mean 'restore'?`` if one of the ``known`` names is near, else nothing.

    ``others``: names that somebody may know from elsewhere, and what they are called here.
    """
    near = [(others or {}).get(name, "")]
    near = near if near[0] else get_close_matches(name, list(known), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


#: Beside control characters: what reorders or hides text, separates lines, or cannot be written.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

#: Longer texts are cut in messages.
_LONGEST = 300


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""``text`` in one line, at most about ``longest`` characters of it.

    Characters that a terminal obeys, that change the order of others or that have no form are
    written as Python writes them: ``\x1b``, ``\n``, ``\u202e``.
    """
    if len(text) > longest:
        text = f"{text[: longest - 40]}… ({len(text)} characters)"
    return escaped(text)


def escaped(text: str, kept: str = "") -> str:
    """``text``, whole, with such characters written out, except those in ``kept``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _is_hidden(c) else _code(c) for c in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
