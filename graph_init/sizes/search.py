"""Finds sizes for all open axes under which every node of the model is valid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graph_init.errors import UnsupportedModelError, printable
from graph_init.sizes.dry_run import DryRun, Outcome
from graph_init.sizes.known import Conflict
from graph_init.sizes.unknowns import Unknown

#: Runs through the model that one search may take.
_RUNS = 300
#: The largest size that is tried.
_LARGEST = 1 << 20
#: So many sizes after and before the one at hand are tried one by one.
_NEAR = 40


@dataclass
class Search:
    """Changes open sizes until nothing conflicts. ``attempt`` goes through the model with them."""

    unknowns: Sequence[Unknown]
    attempt: Callable[[int | None], Outcome]
    _run: DryRun

    def solve(self) -> Outcome:
        """The outcome of the last run: without conflict, or with one that no open size decides.

        Raises:
            UnsupportedModelError: Two nodes, or a node and an option, contradict each other.
        """
        self._run.runs = 0
        while True:
            outcome = self.attempt(None)
            if outcome.conflict is None or self._run.runs > _RUNS:
                return outcome
            if not outcome.conflict.marks:
                # Of another rank, for instance: what the branches on the way were taken by.
                outcome.conflict.marks = outcome.steered
            followed = self._followed(outcome.conflict.marks)
            if not followed:
                return outcome
            by_branch = [u for u in self._followed(outcome.steered) if u not in followed]
            free = [u for u in followed if not u.fixed]
            if not self._mend(outcome, free, [u for u in by_branch if not u.fixed]):
                raise self._contradiction(outcome, followed)

    def _followed(self, marks: int) -> list[Unknown]:
        return [u for k, u in enumerate(self.unknowns) if marks >> k & 1]

    def _mend(
        self, outcome: Outcome, free: Sequence[Unknown], by_branch: Sequence[Unknown]
    ) -> bool:
        """Change sizes so that the run comes past the node; False if none do.

        ``free`` are those that the conflict follows from; another one of ``by_branch`` might take
        another branch.
        """
        assert outcome.conflict is not None and outcome.node is not None
        for group in _groups(free, by_branch):
            before = [u.size for u in group]
            for size in self._candidates(outcome, group):
                for u in group:
                    u.size = size
                if self._passed(outcome, group):
                    words = f"node '{_name(outcome.node)}' {outcome.conflict.words}"
                    for u, old in zip(group, before, strict=True):
                        u.reason, u.solved = f"with {old}, {words}", True
                    return True
                if self._run.runs > _RUNS:
                    break
            for u, size in zip(group, before, strict=True):
                u.size = size
        return False

    def _passed(self, outcome: Outcome, group: Sequence[Unknown]) -> bool:
        """Whether the run comes past the conflict now, or to another one at the same node."""
        now = self.attempt(outcome.place - 1)
        if now.conflict is None or now.place > outcome.place:
            return True
        changed = sum(1 << k for k, u in enumerate(self.unknowns) if any(u is g for g in group))
        assert outcome.conflict is not None
        other = now.node is outcome.node and now.conflict.words != outcome.conflict.words
        return other and now.conflict.marks != 0 and not now.conflict.marks & changed

    def _candidates(self, outcome: Outcome, group: Sequence[Unknown]) -> Iterator[int]:
        """Sizes to try: by the residual where it can be followed, then near and far ones."""
        assert outcome.conflict is not None
        start = max(u.size for u in group)
        tried = {start}
        followed = self._followed_up(outcome, group, start)
        for size in itertools.chain(_multiples(outcome.conflict, start), followed, _around(start)):
            if size not in tried and 1 <= size <= _LARGEST:
                tried.add(size)
                yield size

    def _followed_up(self, outcome: Outcome, group: Sequence[Unknown], start: int) -> Iterator[int]:
        """Sizes that the difference between what was found and what is wanted leads to."""
        assert outcome.conflict is not None
        found, wanted = int(outcome.conflict.found), int(outcome.conflict.wanted)
        if found and wanted:
            yield from (start + wanted - found, start * wanted // found, wanted)
            yield from self._bisected(outcome, group, start)

    def _bisected(self, outcome: Outcome, group: Sequence[Unknown], start: int) -> Iterator[int]:
        """The size at which the residual at this node changes its sign, if it does."""

        def residual(size: int) -> int | None:
            for u in group:
                u.size = size
            now = self.attempt(outcome.place - 1)
            if now.conflict is None or now.place > outcome.place:
                return 0
            return now.conflict.residual if now.node is outcome.node else None

        assert outcome.conflict is not None
        here, sign = start, outcome.conflict.residual > 0
        there = start
        for _ in range(14):
            there = there // 2 if sign else there * 2
            if not 1 <= there <= _LARGEST:
                return
            value = residual(there)
            if value is None:
                continue
            if value == 0:
                break
            if (value > 0) != sign:
                break
            here = there
        else:
            return
        low, high = min(here, there), max(here, there)
        # The smallest at which the residual is not below zero.
        while high - low > 1:
            middle = (low + high) // 2
            value = residual(middle)
            if value is None or value < 0:
                low = middle
            else:
                high = middle
        yield high
        yield low

    def _contradiction(
        self, outcome: Outcome, followed: Sequence[Unknown]
    ) -> UnsupportedModelError:
        assert outcome.conflict is not None and outcome.node is not None
        node = outcome.node
        given = "; ".join(f"{u.name} is {u.size} ({u.reason})" for u in followed)
        names = ", ".join(f"--dim {u.name}=SIZE" for u in followed)
        return UnsupportedModelError(
            printable(
                f"node '{_name(node)}' ({node.op_type}) {outcome.conflict.words}, and no size was "
                f"found that fits it: {given}. Give {names}"
            )
        )


def _multiples(conflict: Conflict, start: int) -> Iterator[int]:
    """The nearest sizes at which a count that grows with the size is a multiple of the part.

    The count is ``start`` times something else, of which the part may have factors; what grows
    otherwise is left to the other candidates.
    """
    found, part = int(conflict.found), conflict.part
    if part <= 1 or not found or found % start:
        return
    step = part // math.gcd(part, found // start)
    above = -(-start // step) * step
    yield from (above, above - step, above + step)


def _around(start: int) -> Iterator[int]:
    """Multiples of powers of two, then one by one, then far away, then the smallest."""
    for k in range(1, 8):
        yield from ((-(-start >> k) + 1) << k, ((start >> k) + 1) << k)
    yield from range(start + 1, start + _NEAR)
    for k in range(1, 12):
        yield from (start << k, start >> k)
    yield from range(min(start, _NEAR), 0, -1)


def _name(node: ir.Node) -> str:
    return node.name or (node.outputs[0].name if node.outputs else "") or ""


def _groups(free: Sequence[Unknown], by_branch: Sequence[Unknown]) -> Iterator[Sequence[Unknown]]:
    """Which sizes are changed together: sides of an image, then one alone, the rows last."""
    sides: dict[str, list[Unknown]] = {}
    for u in free:
        if u.kind == "pixels":
            sides.setdefault(u.places[0][0], []).append(u)
    for group in sides.values():
        if len(group) > 1:
            yield group
    others = [u for u in free if u.kind != "rows"]
    yield from ([u] for u in sorted(others, key=lambda u: u.solved))
    yield from ([u] for u in by_branch if u.kind != "rows")
    yield from ([u] for u in free if u.kind == "rows")
