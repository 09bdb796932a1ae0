"""Turns an engine's error into one line: the user's node, the shapes, and what would help.

What the engine raises names our node, and often a source file of its own and a C++ signature. It is
kept as the cause of our error, for a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from graph_init.errors import UnsupportedModelError, printable
from graph_init.ir import Site

#: Where the engine names a node of ours.
_NODE = (
    re.compile(r"Name:'(.*?)' Status Message:", re.DOTALL),
    re.compile(r"Node \((.*?)\) Op \(", re.DOTALL),
    re.compile(r"[Nn]ode with name '(.*?)'", re.DOTALL),
    re.compile(r"[Nn]ode:? ?\((n:.*?)\)", re.DOTALL),
)
#: What stands before the engine's reason.
_BEFORE = re.compile(
    r".*(?:Status Message: |\[(?:Shape|Type)InferenceError\] |\[ONNXRuntimeError\] : \d+ : \w+ : )",
    re.DOTALL,
)
#: A place in its source, a signature and a condition, of which the reason may consist or begin.
_PLACE = re.compile(r"^\S+\.(?:cc|h|cpp|hpp|cu):\d+ ")
_CONDITION = re.compile(r"^.*? was false\.? ?", re.DOTALL)
#: What is no sentence.
_CODE = re.compile(r"::|__|\w&|;\s*$|/onnxruntime")
_LONGEST = 160

_SIZE = re.compile(r"buffer of size (\d+)|tried to allocate (\d+) bytes")
_MEMORY = re.compile(r"allocate memory|bad_alloc|out of memory|[Aa]llocation failed|CUDA_ERROR_OUT")
#: What the engine says, and what helps then; the first that fits.
_REMEDIES = (
    (
        re.compile(r"out of (?:data )?bounds|out of range|[Ii]nvalid ind|must be within", re.I),
        "an index is outside of the table that it is looked up in: give real data with --data, or "
        "the sizes of symbolic dimensions with --dim",
    ),
    (
        re.compile(r"NOT_IMPLEMENTED|not find an implementation|not implemented|[Uu]nsupported"),
        "export the model in float32 and with other operators, or without this one",
    ),
    (
        re.compile(r"", re.DOTALL),
        "if the model has symbolic dimensions, give their sizes with --dim; else export it with "
        "static shapes that fit each other",
    ),
)


def translated(error: Exception, what: str, sites: Mapping[str, Site]) -> UnsupportedModelError:
    """The error to raise from ``error``, which the engine has raised, and which names a node.

    ``what`` the node does or is: "fails". ``sites`` says by the names of our nodes where they come
    from.
    """
    return of_site(error, what, _site(str(error), sites))


def of_site(error: Exception, what: str, site: Site | None) -> UnsupportedModelError:
    """As :func:`translated`, for an error of the node at ``site``; None: it is not known which."""
    text = str(error)
    subject = "the model's graph" if site is None else site.label
    shapes = "" if site is None else _shapes(site)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        size = _SIZE.search(text)
        number = size.group(1) or size.group(2) if size else ""
        room = f" for another {int(number) / 1e9:.3g} GB" if number else ""
        return UnsupportedModelError(
            f"there is not enough memory{room}: {subject}{shapes} {what}; lower --batch-size, or "
            "compute it in slices with --micro-batch"
        )
    reason = _reason(text)
    remedy = next(help for pattern, help in _REMEDIES if pattern.search(text))
    said = f": {reason}" if reason else ""
    return UnsupportedModelError(f"{subject}{shapes} {what}{said}; {remedy}")


def _site(text: str, sites: Mapping[str, Site]) -> Site | None:
    for pattern in _NODE:
        for found in pattern.finditer(text):
            name = found.group(1)
            # Those of the engine's gradient are called after the node whose gradient they compute.
            site = sites.get(name) or sites.get(name.rpartition("_Grad/")[0])
            if site is not None:
                return site
    return None


def _shapes(site: Site) -> str:
    known = ["×".join(map(str, s)) or "a number" for s in site.shapes if s is not None]
    return f" on inputs of {' and '.join(known)}" if known else ""


def _reason(text: str) -> str:
    """The engine's own words, if they are words."""
    said = _BEFORE.sub("", text).strip()
    if _PLACE.match(said):
        said = _after_signature(_PLACE.sub("", said))
        said = _CONDITION.sub("", said)
    said = " ".join(said.partition("\n")[0].replace("\\n", " ").split()).rstrip(".")
    return "" if _CODE.search(said) else printable(said, _LONGEST)


def _after_signature(text: str) -> str:
    """``text`` without the C++ signature that it begins with: up to the end of its brackets."""
    depth, opened = 0, False
    for place, character in enumerate(text):
        if character == "(":
            depth, opened = depth + 1, True
        elif character == ")":
            depth -= 1
        if opened and depth == 0 and not text.startswith(("::", " const", " ["), place + 1):
            return text[place + 1 :].strip()
    return ""
