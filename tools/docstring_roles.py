"""Docstrings for the site: ``:func:`name``` becomes a link where the site documents that name."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, NameResolutionError, Object

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")


class DocstringRoles(Extension):
    """Rewrites the roles of Sphinx, in which the sources refer to each other."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for every object that has been loaded."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda m: _link(m[1], obj), obj.docstring.value)


def _link(name: str, obj: Object) -> str:
    """A link that is plain code where no page has the name (mkdocs-autorefs: ``optional``)."""
    try:
        target = obj.resolve(name)
    except NameResolutionError:
        target = name
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
