"""Memory of one machine, shared by the models at work on it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from graph_init.engine import memory
from graph_init.errors import MissingExtraError

#: What a model's process takes before its evaluation is known.
BASE = 256 << 20
#: Of what is there, for the models.
_SHARE = 0.9


def of_machine() -> int:
    """Bytes that models may take here: most of what is available, or what a container allows."""
    found = memory.available() or (8 << 30)
    try:
        from distributed.system import MEMORY_LIMIT
    except ImportError as error:
        raise MissingExtraError(f"{error}; run `pip install 'graph-init[zoo]'`") from error
    return int(_SHARE * min(found, MEMORY_LIMIT))


class Budget:
    """Models take turns: one whose evaluation does not fit beside the others waits for them.

    They are let in in the order in which they ask, so that a large one is not passed by for ever;
    one that needs everything runs alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held: dict[object, int] = {}
        self._queue: list[object] = []
        self._changed = threading.Condition()

    def enter(self, key: object) -> None:
        """``key`` is at work, with little memory so far."""
        with self._changed:
            self._held[key] = BASE

    def require(self, key: object, needed: int, wanted: Callable[[], bool]) -> bool:
        """Wait until ``key`` may take ``needed`` bytes; False if it is no longer ``wanted``."""
        with self._changed:
            if needed <= self._held[key]:
                return True
            self._queue.append(key)
            try:
                while not self._fits(key, needed):
                    if not wanted():
                        return False
                    self._changed.wait(0.2)
                self._held[key] = needed
                return True
            finally:
                self._queue.remove(key)
                self._changed.notify_all()

    def leave(self, key: object) -> None:
        with self._changed:
            self._held.pop(key, None)
            self._changed.notify_all()

    def _fits(self, key: object, needed: int) -> bool:
        if self._queue[0] != key:
            return False
        others = [k for k in self._held if k != key]
        if sum(self._held[k] for k in others) + needed <= self.total:
            return True
        # All others wait behind this one: if it waited too, nothing would ever go on.
        return all(k in self._queue for k in others)
