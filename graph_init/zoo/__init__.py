"""Zoos: ``initialize`` or ``check`` over many models, each in a process of its own.

``run(sources, output)`` or ``check(sources, output)`` does it, and returns what ``read(output)``
reads back: one row for each model. How it is put together: ``plan`` is what was asked for;
``catalog`` and ``manifest`` say which models there are; ``runner`` hands them to a ``cluster``,
whose workers (``node``) have each done in a process (``isolation``, ``forkserver``, ``job``) when
the ``budget`` of memory allows, and enters the outcome, which ``records`` describes, in the
``journal``.
"""

from graph_init.zoo.overview import Zoo, read
from graph_init.zoo.plan import View
from graph_init.zoo.records import Failure, Figures, Row
from graph_init.zoo.runner import check, run

__all__ = ["Failure", "Figures", "Row", "View", "Zoo", "check", "read", "run"]
