"""The options of the commands, made of :mod:`graph_init.options`; and those that only print."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import click

from graph_init.options import (
    DEFAULT_TUNER,
    TUNERS,
    ComputationOptions,
    InitialWeights,
    ParameterOptions,
    ProblemOptions,
    WritingOptions,
    checks,
)
from graph_init.options.checks import Number, OneOf
from graph_init.options.fields import Option, of

#: A file or folder: the shell completes it, and the library says what is wrong with it.
FILE = click.Path()


def completing(names: Iterable[str]) -> Callable[..., list[str]]:
    """For ``shell_complete`` of an option whose values the library checks."""

    def matching(context: click.Context, option: click.Parameter, begun: str) -> list[str]:
        return [n for n in names if n.startswith(begun)]

    return matching


def _sizes(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, int]:
    sizes = {}
    for item in given:
        name, _, size = item.partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"'{item}' is not NAME=SIZE with a positive size")
        sizes[name] = int(size)
    return sizes


def _values(
    context: click.Context, option: click.Parameter, given: tuple[str, ...]
) -> dict[str, float | bool]:
    values: dict[str, float | bool] = {}
    for item in given:
        name, _, text = item.rpartition("=")
        flag = {"true": True, "false": False}.get(text.lower())
        try:
            number = float(text) if flag is None else flag
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise click.BadParameter(f"'{item}' is not NAME=VALUE with a number, true or false")
        values[name] = number
    return values


def _choice(check: OneOf) -> dict[str, Any]:
    # Names that are called otherwise elsewhere are answered by the library with the name here.
    if check.others:
        return {"shell_complete": completing(check.names)}
    return {"type": click.Choice(check.names)}


#: The check of an option → what click is told of its values.
_DECLARED: Mapping[type[Any], Callable[[Any], dict[str, Any]]] = {
    Number: lambda check: {"type": check.kind},
    OneOf: _choice,
    checks.Flag: lambda check: {"is_flag": True},
    checks.Texts: lambda check: {"multiple": True},
    checks.Patterns: lambda check: {"multiple": True},
    checks.Rules: lambda check: {"multiple": True},
    checks.Dimensions: lambda check: {"multiple": True, "callback": _sizes},
    checks.Values: lambda check: {"multiple": True, "callback": _values},
    checks.Data: lambda check: {"type": FILE},
}


def _declared(field: str, option: Option, default: Any) -> Callable[..., Any]:
    shown = default is not None and default != () and default is not False
    words = f"{option.help.rstrip('.')} [{option.absent}]." if option.absent else option.help
    return click.option(
        f"--{option.flag}",
        field,
        metavar=option.metavar,
        help=words,
        **({"default": default, "show_default": True} if shown else {}),
        **_DECLARED.get(type(option.check), lambda check: {})(option.check),
    )


def declared(
    kind: type[Any],
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The options of a dataclass as those of a command."""
    return _stack(
        *(
            _declared(field, option, (defaults or {}).get(field, default))
            for field, (option, default) in of(kind).items()
            if field not in without and (only is None or field in only)
        )
    )


def tuning(
    flags: Mapping[str, str] | None = None, defaults: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """``--tuner`` and the settings of each, None where they are not given.

    ``flags`` are other names of settings, ``defaults`` what the help says of them.
    """
    choose = click.option(
        "--tuner",
        default=DEFAULT_TUNER,
        show_default=True,
        shell_complete=completing(TUNERS),
        help="restore: restore the signal, and take what learns best; metainit: the published one.",
    )
    settings = (
        click.option(
            (flags or {}).get(field, f"--{option.flag}"),
            field if not flags or field not in flags else f"tuner_{field}",
            metavar=option.metavar,
            type=option.check.kind if isinstance(option.check, Number) else None,
            help=f"{name}: {option.help.rstrip('.')} [{(defaults or {}).get(field, default)}].",
        )
        for name, kind in TUNERS.items()
        for field, (option, default) in of(kind).items()
    )
    return _stack(choose, *settings)


def _renamed(context: click.Context, option: click.Parameter, given: str | None) -> None:
    if given is not None:
        new = {"signal": "restore", "sign": "metainit"}.get(given, given)
        raise click.UsageError(f"there is no --optimizer here; write --tuner {new}")


def _stack(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    def apply_all(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply_all


#: What makes a command that has the options, from one that has not.
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)
report_option: Decorator = click.option(
    "--report",
    "report_file",
    type=FILE,
    metavar="FILE.html",
    help="Also write a page that shows the result (needs the extra 'report').",
)
#: Severities from which on a check fails.
LEVELS = ("error", "warning", "note", "never")
fail_on_option: Decorator = click.option(
    "--fail-on",
    type=click.Choice(LEVELS),
    help="Exit with status 6 from a finding of this severity on [error].",
)
choose_parameters: Decorator = declared(ParameterOptions)
scheme_option: Decorator = declared(InitialWeights, only=("scheme",))
computing: Decorator = declared(ComputationOptions, only=("method", "device", "engine"))


def posing(batch_norm: str = "eval") -> Callable[..., Any]:
    """All that says what is computed, but for the data."""
    own = declared(ProblemOptions, without=("data",), defaults={"batch_norm": batch_norm})
    return _stack(own, choose_parameters)


measuring: Decorator = _stack(
    declared(ProblemOptions),
    choose_parameters,
    declared(ComputationOptions),
    json_option,
)
starting: Decorator = _stack(
    declared(InitialWeights),
    tuning(),
    declared(WritingOptions),
    click.option(
        "--optimizer",
        hidden=True,
        expose_value=False,
        callback=_renamed,
        help="The earlier name of --tuner.",
    ),
)
