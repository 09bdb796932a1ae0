"""Whoever calls the public names from a typed program finds types there."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typing_extensions

import graph_init

ROOT = Path(__file__).parent.parent
FRONTENDS = sorted(p.parent for p in (ROOT / "frontends").glob("*/__init__.py"))


def test_every_package_says_that_it_is_typed() -> None:
    for package in (ROOT / "graph_init", *FRONTENDS):
        assert (package / "py.typed").is_file(), package
    assert '"*" = ["py.typed"]' in (ROOT / "pyproject.toml").read_text("utf-8")


def _callables(name: str, member: Any) -> Iterator[tuple[str, Any]]:
    """What can be called of a public name: it itself, or a class's own public methods."""
    if inspect.isfunction(member):
        yield name, member
    elif inspect.isclass(member):
        for key, value in vars(member).items():
            if key.startswith("_") and key != "__init__":
                continue
            function = value.fget if isinstance(value, property) else inspect.unwrap(value)
            if inspect.isfunction(function):
                yield f"{name}.{key}", function


PUBLIC = [
    pair for name in graph_init.__all__ for pair in _callables(name, getattr(graph_init, name))
]


@pytest.mark.parametrize(("name", "function"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_public_signatures_are_annotated(name: str, function: Any) -> None:
    hints = typing.get_type_hints(function, localns={"Unpack": typing_extensions.Unpack})
    parameters = inspect.signature(function).parameters
    missing = [p for p in parameters if p != "self" and p not in hints]
    assert not missing and "return" in hints


@pytest.mark.parametrize("package", FRONTENDS, ids=[p.name for p in FRONTENDS])
def test_public_signatures_of_frontends_are_annotated(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text("utf-8"))
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert functions
    for function in functions:
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        assert all(a.annotation is not None for a in named), function.name
        assert function.returns is not None, function.name
