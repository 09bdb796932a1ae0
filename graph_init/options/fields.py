"""What an option is: a field of a dataclass, with its help and the check of its value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from graph_init.errors import UsageError, suggestion

T = TypeVar("T")
C = TypeVar("C", bound="Checked")
#: The value in its own type; UsageError, a sentence on the option of that name, if it cannot be.
Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beside its type and its default.

    Attributes:
        help: a sentence.
        check: of its value.
        flag: its name on the command line and in manifests, where that is not the field's.
        metavar: what its value is called there.
        absent: what the help says of a default of None.
        summary: what a result tells of the value; None: nothing, since it changes no result.
    """

    help: str
    check: Check
    flag: str = ""
    metavar: str | None = None
    absent: str = ""
    summary: Callable[[Any], Any] | None = lambda value: (
        list(value) if isinstance(value, tuple) else value
    )


def option(default: T, help: str, check: Check, **more: Any) -> T:
    """A field of a :class:`Checked` dataclass that is an option."""
    found: T = dataclasses.field(default=default, metadata={"option": Option(help, check, **more)})
    return found


def of(kind: type[Any]) -> dict[str, tuple[Option, Any]]:
    """The options of a dataclass by field, each with its default."""
    return {
        f.name: (
            dataclasses.replace(found, flag=found.flag or f.name.replace("_", "-")),
            f.default,
        )
        for f in dataclasses.fields(kind)
        if (found := f.metadata.get("option")) is not None
    }


class Checked:
    """Base of the dataclasses: the values are checked when an object is made.

    Raises UsageError for a value that cannot be. None stands for the default.
    """

    def __post_init__(self) -> None:
        for field, (found, default) in of(type(self)).items():
            value = getattr(self, field)
            good = default if value is None else found.check(f"--{found.flag}", value)
            object.__setattr__(self, field, good)

    @classmethod
    def of(cls: type[C], keywords: Mapping[str, Any]) -> C:
        """From those of the ``keywords`` that are fields of the class."""
        own = (f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        return cls(**{name: keywords[name] for name in own if name in keywords})

    def to_json(self) -> dict[str, Any]:
        """What a result tells of the options, by field."""
        return {
            field: found.summary(getattr(self, field))
            for field, (found, _) in of(type(self)).items()
            if found.summary is not None
        }


def require_known(keywords: Iterable[str], known: Iterable[str]) -> None:
    """UsageError for a keyword argument that there is not."""
    known = list(known)
    for name in keywords:
        if name not in known:
            near = suggestion(name, known, {"optimizer": "tuner"})
            raise UsageError(
                f"there is no argument '{name}'{near or '; known: ' + ', '.join(known)}"
            )
