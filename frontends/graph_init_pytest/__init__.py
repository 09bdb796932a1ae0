"""A plugin of pytest: tests fail whose fixtures yield a model that is not well initialised.

It does nothing, and imports nothing of graph-init, unless the ini file names fixtures.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import pytest

__all__ = ["pytest_addoption", "pytest_runtest_call"]

_FIXTURES, _FAIL_ON, _IGNORE = (
    "graph_init_fixtures",
    "graph_init_fail_on",
    "graph_init_ignore",
)
#: What was found of a value, by the value's id; the value itself is kept, so that the id stays its.
_CHECKED = pytest.StashKey[dict[int, tuple[Any, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the ini file."""
    parser.addini(
        _FIXTURES,
        "fixtures whose values are models that graph-init checks: a model, or a tuple of a model "
        "and the arguments (a sequence) or keywords (a mapping) that it is called with",
        type="args",
        default=[],
    )
    parser.addini(
        _FAIL_ON, "the least severity that fails: error, warning or note", default="error"
    )
    parser.addini(_IGNORE, "identifiers of rules that are not asked", type="args", default=[])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check the models that the test is given, before it runs; each of them once in a session."""
    values = getattr(item, "funcargs", {})
    for name in item.config.getini(_FIXTURES):
        if name in values:
            message = _found(item.config, values[name])
            if message:
                pytest.fail(f"fixture '{name}': {message}", pytrace=False)
    return (yield)


def _found(config: pytest.Config, value: Any) -> str:
    """What is wrong with a fixture's value; empty if nothing is."""
    checked = config.stash.setdefault(_CHECKED, {})
    if id(value) not in checked:
        checked[id(value)] = value, _failure(config, value)
    return checked[id(value)][1]


def _failure(config: pytest.Config, value: Any) -> str:
    from graph_init.errors import GraphInitError
    from graph_init.testing import assert_well_initialized

    model, args, kwargs = _parts(value)
    options = {"fail_on": config.getini(_FAIL_ON), "ignore": config.getini(_IGNORE)}
    try:
        assert_well_initialized(model, args, kwargs, **options)
    except (AssertionError, GraphInitError) as error:
        return str(error)
    return ""


def _parts(value: Any) -> tuple[Any, Any, Any]:
    """The model, and what it is called with by place and by name."""
    if not isinstance(value, tuple) or len(value) != 2:
        return value, (), None
    model, example = value
    return (model, (), example) if isinstance(example, Mapping) else (model, example, None)
