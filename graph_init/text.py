"""Text from files as people may see it."""

from __future__ import annotations

import unicodedata

#: Beside control characters: what reorders or hides text, separates lines, or cannot be written.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

#: Longer texts are cut in messages.
_LONGEST = 300


def visible(text: str, longest: int = _LONGEST) -> str:
    """``text`` in one line, at most about ``longest`` characters of it.

    Characters that a terminal obeys, that change the order of others or that have no form are
    written as Python writes them: ``\\x1b``, ``\\n``, ``\\u202e``.
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
