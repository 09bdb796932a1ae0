"""Modules of the extra ``zoo``, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from graph_init.errors import MissingExtraError


def module(name: str) -> Any:
    """The module ``name``; MissingExtraError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"the zoo needs {name.partition('.')[0]}, which cannot be imported ({error}); run "
            "`pip install 'graph-init[zoo]'`"
        ) from error
