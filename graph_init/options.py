"""Every option once: its default, its help, its choices, and the check of its value.

An option is a field of a frozen dataclass. From these fields come the options of the command line
(:mod:`graph_init.cli.options`), the keys of a manifest (:mod:`graph_init.zoo.manifest`), and what a
result says of how it was made. Values are checked and brought into their own type when an object is
made, so that a size such as ``"8GB"`` is a number of bytes from then on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from graph_init.errors import UsageError, suggestion

T = TypeVar("T")
#: The value in its own type; UsageError, a sentence on the option of that name, if it cannot be.
Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beside its type and its default.

    ``default`` is what the help shows in place of a default of None.
    """

    help: str
    check: Check
    default: str = ""


def option(default: T, help: str, check: Check, **more: Any) -> T:
    """A field of a :class:`Checked` dataclass that is an option."""
    found: T = dataclasses.field(default=default, metadata={"option": Option(help, check, **more)})
    return found


def of(kind: type[Any]) -> dict[str, tuple[Option, Any]]:
    """The options of a dataclass by field, each with its default."""
    return {
        f.name: (f.metadata["option"], f.default)
        for f in dataclasses.fields(kind)
        if "option" in f.metadata
    }


def flag(field: str) -> str:
    """The field's option on the command line: ``--batch-size``."""
    return "--" + field.replace("_", "-")


class Checked:
    """Base of the dataclasses: the values are checked when an object is made."""

    def __post_init__(self) -> None:
        for name, (found, default) in of(type(self)).items():
            value = getattr(self, name)
            # None stands for the default, as it does where an option is not given.
            good = default if value is None else found.check(flag(name), value)
            object.__setattr__(self, name, good)


# Checks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A whole number or a number; at least ``least``, or above ``above``."""

    kind: type[int] | type[float] = float
    least: float | None = None
    above: float | None = None

    def __call__(self, name: str, value: Any) -> Any:
        whole = self.kind is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise UsageError(f"{name}: {value!r} is not a {'whole ' if whole else ''}number")
        if self.least is not None and not value >= self.least:
            raise UsageError(f"{name} must be at least {self.least:g}, not {value}")
        if self.above is not None and not value > self.above:
            limit = "positive" if self.above == 0 else f"above {self.above:g}"
            raise UsageError(f"{name} must be {limit}, not {value}")
        return self.kind(value)


# Tuners ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuner(Checked):
    """Base of the tuners' settings. What tunes with them is in :mod:`graph_init.tuning.registry`.

    ``scale_gradient``: whether the tuner needs the derivative of gradient deviation.
    """

    name: ClassVar[str]
    scale_gradient: ClassVar[bool] = False
    #: What an entry of the history is, in the plural.
    entries: ClassVar[str] = "steps"

    @property
    def total(self) -> int | None:
        """Entries that the history will have; None if that turns out on the way."""
        return None

    @property
    def accepts_nonfinite(self) -> bool:
        """Whether it can start where the numbers are not finite."""
        return False

    def to_json(self) -> dict[str, Any]:
        """The settings by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Restore(Tuner):
    """The forward signal is restored, and the state is taken that learns best in a short trial.

    Attributes:
        updates: of each trial; with 0 there is none, and the scales stay 1.
    """

    name: ClassVar[str] = "restore"
    entries: ClassVar[str] = "states"

    updates: int = option(30, "Updates of a trial; 0: the scheme alone.", Number(int, 0))

    @property
    def accepts_nonfinite(self) -> bool:
        return self.updates > 0


@dataclass(frozen=True)
class MetaInit(Tuner):
    """The published algorithm, which lowers gradient deviation (MetaInit, NeurIPS 2019).

    Attributes:
        steps: of the descent; with 0 the scales stay 1.
        rate: by which a step moves the norms.
        momentum: share of the last step's movement that the next one keeps.
    """

    name: ClassVar[str] = "metainit"
    scale_gradient: ClassVar[bool] = True

    steps: int = option(500, "Steps of the descent; 0: the scheme alone.", Number(int, 0))
    rate: float = 0.1
    momentum: float = 0.9

    @property
    def total(self) -> int | None:
        return self.steps


TUNERS: dict[str, type[Tuner]] = {kind.name: kind for kind in (Restore, MetaInit)}
#: docs/tuning.md has the experiments that this choice follows from.
DEFAULT_TUNER = Restore.name
#: Names of earlier texts, to be suggested.
_OTHER_TUNERS = {"signal": "restore", "sign": "metainit"}


def tuner(
    chosen: str | Tuner,
    settings: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Tuner:
    """The tuner of that name with these settings, of which None stands for the default.

    ``flags`` are the settings' options on the command line, where they have other names there.
    UsageError for an unknown name, and for settings that the tuner does not have.
    """
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    flags = {k: flag(k) for k in given} | dict(flags or {})
    if isinstance(chosen, Tuner):
        if given:
            own = ", ".join(f"{k}={v!r}" for k, v in given.items())
            raise UsageError(
                f"a tuner that is given as an object has its settings: write "
                f"{type(chosen).__name__}({own})"
            )
        return chosen
    if chosen not in TUNERS:
        raise UsageError(
            f"--tuner {chosen}: choose one of {', '.join(TUNERS)}"
            + suggestion(chosen, TUNERS, _OTHER_TUNERS)
        )
    own_options = of(TUNERS[chosen])
    for name in given:
        if name not in own_options:
            owners = [n for n, kind in TUNERS.items() if name in of(kind)]
            raise UsageError(
                f"{flags[name]} belongs to --tuner {', '.join(owners)}; {chosen}, which is chosen, "
                f"has {', '.join(map(flag, own_options))}"
            )
    return TUNERS[chosen](**given)
