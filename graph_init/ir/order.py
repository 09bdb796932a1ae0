"""The topological order of nodes, by readiness or by a rank."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from graph_init.ir.values import Node


def topological(
    reads: Sequence[Iterable[Hashable]],
    makes: Sequence[Iterable[Hashable]],
    rank: Callable[[int], Any] | None = None,
) -> list[int]:
    """The numbers of nodes in an order in which each stands behind those that make what it reads.

    ``reads[i]`` and ``makes[i]`` are what node ``i`` reads and makes; what nobody makes is there
    from the start. Of the nodes that are ready the one of the lowest ``rank`` comes first, by
    default the one that has been ready for longest.
    """
    maker = {made: i for i, names in enumerate(makes) for made in names}
    readers: list[list[int]] = [[] for _ in reads]
    waiting = []
    for i, names in enumerate(reads):
        makers = {maker[name] for name in names if name in maker}
        waiting.append(len(makers))
        for j in makers:
            readers[j].append(i)
    arrival = itertools.count()

    def entry(i: int) -> tuple[Any, int]:
        return (next(arrival) if rank is None else rank(i), i)

    ready = [entry(i) for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for j in readers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, entry(j))
    return order


def sort_nodes(nodes: Sequence[Node], rank: Callable[[int], Any] | None = None) -> list[Node]:
    """``nodes`` in topological order; see :func:`topological`."""
    order = topological(
        [[id(v) for v in n.inputs if v is not None] for n in nodes],
        [[id(o) for o in n.outputs if o is not None] for n in nodes],
        rank,
    )
    return [nodes[i] for i in order]
