"""Checks of options' values. Each gives the value in its own type, or raises UsageError.

The error's message is a sentence about the option, which is called as it was given: ``--steps`` on
the command line, ``steps`` in a manifest.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from graph_init.errors import UsageError, printable, suggestion


def shown(value: Any) -> str:
    """``value`` as Python writes it, in one line that is not too long."""
    try:
        return printable(str(value) if isinstance(value, Real) else repr(value))
    except ValueError:  # of a whole number with thousands of digits
        return "a number of thousands of digits"


def _text(value: Any) -> str:
    """``value`` as a text; one that is no text, and no number that can be written, is empty."""
    try:
        return str(value)
    except ValueError:
        return ""


@dataclass(frozen=True)
class Number:
    """A whole number or a number that is finite, within the bounds that are given."""

    kind: type[int] | type[float] = float
    least: float | None = None
    above: float | None = None
    below: float | None = None

    def __call__(self, name: str, value: Any) -> Any:
        try:
            if isinstance(value, bool) or not (self.kind is int or isinstance(value, Real)):
                raise TypeError
            number = operator.index(value) if self.kind is int else float(value)
        except TypeError as error:
            kind = "whole number" if self.kind is int else "number"
            raise UsageError(f"{name}: {shown(value)} is not a {kind}") from error
        except OverflowError as error:  # a whole number that no float holds
            raise UsageError(f"{name} must be finite, not {shown(value)}") from error
        if isinstance(number, int) and number.bit_length() > 64:
            raise UsageError(f"{name} must be of at most 64 bits, not {shown(value)}")
        if self.above is not None and not number > self.above:
            limit = "positive" if self.above == 0 else f"above {self.above:g}"
            raise UsageError(f"{name} must be {limit}, not {shown(value)}")
        if self.least is not None and not number >= self.least:
            raise UsageError(f"{name} must be at least {self.least:g}, not {shown(value)}")
        if self.below is not None and not number < self.below:
            raise UsageError(f"{name} must be below {self.below:g}, not {shown(value)}")
        if self.kind is float and not math.isfinite(number):
            raise UsageError(f"{name} must be finite, not {shown(value)}")
        return number


@dataclass(frozen=True)
class OneOf:
    """One of the names; ``others`` are names from elsewhere, and what they are called here."""

    names: Sequence[str]
    others: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.names:
            plain = _text(value).lower().rstrip("_").replace("_", "-")
            raise UsageError(
                f"{name} is one of {', '.join(self.names)}, not {shown(value)}"
                + suggestion(plain, self.names, self.others)
            )
        return value


class Loss(OneOf):
    """One of the names; or what a framework's model says of its loss, which is no text."""

    def __call__(self, name: str, value: Any) -> Any:
        return super().__call__(name, value) if isinstance(value, str) else value


class Flag:
    """Yes or no."""

    def __call__(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name}: {shown(value)} is neither true nor false")
        return value


class Texts:
    """A text or several; the value is a tuple of them."""

    def __call__(self, name: str, value: Any) -> tuple[str, ...]:
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) for i in items):
            raise UsageError(f"{name}: {shown(value)} is not a text or a list of texts")
        return tuple(items)


class Rules(Texts):
    """Identifiers of rules of a check."""

    def __call__(self, name: str, value: Any) -> tuple[str, ...]:
        items = super().__call__(name, value)
        for item in items:
            if not re.fullmatch(r"GI\d{3}", item):
                raise UsageError(
                    f"{name}: {shown(item)} is no identifier of a rule, such as 'GI304'"
                )
        return items


class Patterns(Texts):
    """Regular expressions."""

    def __call__(self, name: str, value: Any) -> tuple[str, ...]:
        patterns = super().__call__(name, value)
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"{name} {pattern!r} is not a regular expression: {error}; special characters "
                    "need a backslash"
                ) from error
        return patterns


class Dimensions:
    """Sizes of symbolic dimensions by their name."""

    def __call__(self, name: str, value: Any) -> dict[str, int]:
        if not isinstance(value, Mapping):
            raise UsageError(
                f"{name}: {shown(value)} is not a mapping of dimensions to positive sizes"
            )
        size = Number(int, 1)
        return {str(k): size(f"{name} {k}", v) for k, v in value.items()}


class Values:
    """Numbers or flags by the name of an input."""

    def __call__(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise UsageError(f"{name}: {shown(value)} is not a mapping of inputs to values")
        for key, given in value.items():
            if not _is_numbers(given):
                raise UsageError(
                    f"{name} {key}: {shown(given)} is not a number, a flag or an array"
                )
        return {str(k): np.asarray(v).tolist() for k, v in value.items()}


def _is_numbers(given: Any) -> bool:
    try:
        return np.asarray(given).dtype.kind in "biuf"
    except ValueError:  # lists of different lengths, or too deep
        return False


class Data:
    """A file, a folder, arrays by name or batches; what it holds is checked where it is read."""

    def __call__(self, name: str, value: Any) -> Any:
        return value


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size:
    """Bytes, also as ``8G``, ``500MB`` or ``1.5GiB``; the value is a number of bytes."""

    def __call__(self, name: str, value: Any) -> int:
        found = _SIZE.fullmatch(_text(value))
        size = float(found[1]) * _UNITS[found[2].upper()] if found else math.inf
        if not size < 1 << 63:
            raise UsageError(f"{name} {shown(value)} is not a size like 8GB or 500MB")
        return int(size)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration:
    """Seconds from ``90``, ``90s``, ``15m``, ``2h`` or ``1d``."""

    def __call__(self, name: str, value: Any) -> float:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", _text(value))
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not 0 < seconds < math.inf:
            raise UsageError(f"{name} {shown(value)} is not a time like 90s, 15m or 2h")
        return seconds


#: A gain that is that of the activation behind each layer.
BY_ACTIVATION = "activation"


class Gain:
    """A positive factor, or :data:`BY_ACTIVATION`."""

    def __call__(self, name: str, value: Any) -> float | str:
        if value == BY_ACTIVATION:
            return BY_ACTIVATION
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError) as error:
            raise UsageError(
                f"{name} is a number or '{BY_ACTIVATION}', not {shown(value)}"
            ) from error
        return float(Number(above=0)(name, number))
