"""Numbers and names as they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def finite(value: Any) -> Any:
    """JSON content without infinities and NaN, which become None."""
    return _with_floats(value, lambda x: x if math.isfinite(x) else None)


def rounded(value: Any) -> Any:
    """JSON content with the digits that float32 has."""
    return _with_floats(value, lambda x: float(format(x, ".7g")))


def _with_floats(value: Any, change: Callable[[float], float | None]) -> Any:
    if isinstance(value, float):
        return change(value)
    if isinstance(value, dict):
        return {k: _with_floats(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_with_floats(v, change) for v in value]
    return value


def megabytes(count: float) -> str:
    """A number of bytes in MiB, with its unit."""
    return f"{count / 2**20:,.0f} MiB"


def shown(value: Any, form: str) -> str:
    """``form`` is one of those of :class:`graph_init.report.view.Column`."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if form == "flag":
        return "yes" if value else "no"
    if form == "shape":
        return "×".join(map(str, value)) if value else "scalar"
    if form in _FORMATS:
        return _FORMATS[form].format(value)
    return str(value)


_FORMATS = {
    "number": "{:.4g}",
    "share": "{:.1%}",
    "count": "{:,}",
    "seconds": "{:,.1f}",
    "memory": "{:,.0f}",
}


def exact(value: Any, form: str) -> str | None:
    """What sorting, charts and CSV read, where that is not the text which is shown."""
    if form not in _FORMATS:
        return None
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value) if isinstance(value, int) else format(value, ".7g")
