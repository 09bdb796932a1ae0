"""For the tests of other projects: a model's weights as an assertion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_init.api import check
from graph_init.check.findings import SEVERITIES, Finding
from graph_init.errors import UsageError
from graph_init.results import CheckResult

__all__ = ["assert_well_initialized"]


def assert_well_initialized(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    fail_on: str = "error",
    **options: Any,
) -> CheckResult:
    """Fail where :func:`graph_init.check` finds something in ``model``; else return what it says.

    Args:
        model: a module of PyTorch, a model of Keras or JAX, the path of an ONNX file, or any other
            that ``graph_init.check`` takes. It is left as it is.
        args: an example of what a framework's model is called with; shapes count, values do not.
        kwargs: the same by keyword.
        fail_on: the least severity that fails: ``error``, ``warning`` or ``note``.
        options: those of ``graph_init.check``, such as ``ignore=["GI105"]`` or ``batch_size=4``.

    Raises:
        AssertionError: There are such findings; the message has a line for each.
        UsageError: An option or the example are wrong.
        ModelFileError: The file is missing, unreadable or not valid ONNX.
    """
    __tracebackhide__ = True
    if fail_on not in SEVERITIES:
        raise UsageError(f"fail_on is '{fail_on}'; known: {', '.join(SEVERITIES)}")
    example: dict[str, Any] = {"args": args} if args else {}
    if kwargs:
        example["kwargs"] = kwargs
    found = check(model, **example, **options)
    limit = SEVERITIES.index(fail_on)
    bad = [f for f in found.findings if SEVERITIES.index(f.severity) <= limit]
    if bad:
        count = f"{len(bad)} finding{'s' * (len(bad) > 1)}"
        lines = "\n".join(_line(f) for f in bad)
        raise AssertionError(f"the model is not well initialised, {count}:\n{lines}")
    return found


def _line(f: Finding) -> str:
    mended = "" if f.factor is None else f" (times {f.factor:.4g} would mend it)"
    where = f"'{f.tensor}': " if f.tensor else ""
    return f"  {f.id} {f.severity}: {where}{f.message}{mended}; {f.help}"
