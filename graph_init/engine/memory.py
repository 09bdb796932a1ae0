"""Estimates the memory that an evaluation needs, and refuses it where there is less."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from graph_init.errors import MemoryLimitError
from graph_init.ir import Array

#: What the engine takes for each byte that the schedule says is alive: measured 1.2 to 1.4 over the
#: models of docs/performance.md, since freed blocks do not always fit what comes next.
_OVERHEAD = 1.4
#: The session itself.
_SESSION = 64 << 20

#: Called, where there are any, with the bytes that an evaluation will take, before it does. Where
#: several processes share a machine, this is where they wait for each other.
admissions: list[Callable[[int], None]] = []


def available() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def resident() -> int:
    """Bytes of physical memory that this process has; 0 where the system does not say."""
    try:
        with Path("/proc/self/statm").open(encoding="ascii") as line:
            return int(line.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError):
        return 0


def release(array: Array) -> None:
    """Give back the pages of a memory-mapped array; they are read again when they are needed."""
    owner: object = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    if owner is None or not hasattr(owner, "madvise"):  # not on Windows
        return
    start = _address(array) - _address(np.frombuffer(owner, np.uint8))
    first = start - start % mmap.PAGESIZE
    # Other arrays may lie in the same map, and are needed.
    owner.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside: building large graphs makes none, and is a quarter faster."""
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()


def trim() -> None:
    """Give the system back what is no longer used, as far as the C library (glibc) can."""
    gc.collect()
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def estimate(alive: int, buffers: int) -> int:
    """Bytes for graphs with ``alive`` bytes at their largest moment, and ``buffers`` beside."""
    return int(_OVERHEAD * alive) + buffers + _SESSION


def require(needed: int, limit: int | None, remedies: Sequence[str]) -> None:
    """MemoryLimitError if ``needed`` bytes are more than ``limit``, or than there are."""
    room = available() if limit is None else limit
    if room is not None and needed > room:
        what = "is available" if limit is None else "is allowed by --memory-limit"
        raise _refusal(
            f"this needs about {_shown(needed)} of memory, and {_shown(room)} {what}",
            needed,
            room,
            remedies,
        )
    for admit in admissions:
        admit(needed)


#: Remedies that are of no use where one row at a time does not fit.
SLICES, SMALLER_SLICES, FEWER_ROWS = (
    "--micro-batch",
    "a smaller --micro-batch",
    "a smaller --batch-size",
)


def refusal_of_whole_batch(
    refusal: MemoryLimitError, closed: Sequence[str], others: Sequence[str]
) -> MemoryLimitError:
    """``refusal`` without the remedies that are ``closed`` to this model, and with ``others``."""
    remedies = [r for r in refusal.remedies if r not in closed]
    return _refusal(refusal.measure, refusal.needed, refusal.room, [*remedies, *others])


def refusal_of_one_row(refusals: Sequence[MemoryLimitError]) -> MemoryLimitError:
    """The one that says that nothing fits, after ``refusals`` of batches down to one row."""
    least = min(refusals, key=lambda error: error.needed)
    others = [r for r in least.remedies if r not in (SLICES, SMALLER_SLICES, FEWER_ROWS)]
    words = least.measure.replace("this needs", "even one row at a time needs", 1)
    return _refusal(words, least.needed, least.room, others)


def _shown(size: int) -> str:
    """In the units in which :func:`parse` reads it."""
    return f"{size / 2**30:.1f} GB" if size >= 1 << 30 else f"{size / 2**20:.0f} MB"


def _refusal(measure: str, needed: int, room: int, remedies: Sequence[str]) -> MemoryLimitError:
    *others, last = remedies
    advice = f"{', '.join(others)} or {last}" if others else last
    return MemoryLimitError(
        message=f"{measure}; take {advice}",
        needed=needed,
        room=room,
        measure=measure,
        remedies=remedies,
    )
