"""Which part of a module could not be exported."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import fx, nn

_LONGEST = 300


def culprit(error: BaseException, module: nn.Module, program: Any) -> str:
    """The message for ``error``: the submodule and operator that it came from.

    ``module`` is what was exported; ``program`` is its graph, if the failure came after that.
    """
    first = _first_line(_root(error))
    node = _innermost_node(error) if program is not None else None
    if node is not None:
        where = _where(node) or "the module itself"
        return f"{where} cannot be exported to ONNX: operator {node.target}: {first}"
    found = _innermost_module(error, module)
    if found is None:
        return f"the module cannot be exported to ONNX: {first}"
    name, kind, line = found
    where = f"submodule '{name}' ({kind})" if name else f"the module itself ({kind})"
    return f"{where} cannot be exported to ONNX: {line}: {first}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _root(error: BaseException) -> BaseException:
    return [e for e in _chain(error) if str(e).strip()][-1] if str(error).strip() else error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return f"{type(error).__name__}: {text}"


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Frames with the line that was running: the first cause's first, its innermost first."""
    for cause in reversed(list(_chain(error))):
        yield from reversed(list(traceback.walk_tb(cause.__traceback__)))


def _innermost_module(error: BaseException, module: nn.Module) -> tuple[str, str, str] | None:
    """Name and class of the innermost submodule whose code was running, and the line."""
    names = {id(part): name for name, part in module.named_modules()}
    for frame, number in _frames(error):
        code = frame.f_code
        own = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        # nn.Module's own methods say nothing of what was being done.
        if id(own) in names and code.co_filename != nn.modules.module.__file__:
            summary = traceback.FrameSummary(code.co_filename, number, code.co_name)
            return names[id(own)], type(own).__name__, (summary.line or "").strip()
    return None


def _innermost_node(error: BaseException) -> fx.Node | None:
    """The node of the exported program that was being lowered or translated."""
    for frame, _ in _frames(error):
        for name in ("node", "n"):
            found = frame.f_locals.get(name)
            if isinstance(found, fx.Node) and found.op == "call_function":
                return found
    return None


def _where(node: Any) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    named = [(path, kind) for path, kind, *_ in stack if path]
    if not named:
        return ""
    path, kind = named[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"submodule '{path}' ({kind.rpartition('.')[2]})"
