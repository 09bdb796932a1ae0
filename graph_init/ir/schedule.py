"""The order in which nodes run, chosen for the memory that it takes.

What a value occupies it occupies from the node that makes it to the last one that reads it. Two
things shorten that: nodes that shrink their operands (sums, inner products) run as soon as they
can; and values that are cheap to make and long unused are made again instead of kept, where what
they are made of is there anyway. Only the largest moment counts, so values are given up around it,
until that helps no more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from onnx import helper

from graph_init.ir.order import sort_nodes
from graph_init.ir.values import Node, Value

#: The engine lets these share their operand's memory.
_VIEWS = frozenset({"Reshape", "Identity"})

#: One pass over memory, and exactly repeatable.
_CHEAP = _VIEWS | frozenset(
    "Add Sub Mul Neg Where Relu Greater Less GreaterOrEqual LessOrEqual Equal Sign Abs Cast Expand "
    "Slice Transpose Gather Pad Reciprocal Sqrt Exp Tanh Sigmoid ReduceSum Concat".split()
)

#: A node shrinks if it makes this many times less than it reads.
_SHRINKS = 4
#: Values below this many bytes are not worth a node, and may live on for one.
_SMALL = 1 << 14
#: Nodes made again for one value, passes that they may take for each of its own, rounds at most.
_CHAIN, _COST, _ROUNDS = 4, 3, 24
#: Rounds without a gain, after which no more is tried.
_PATIENCE = 4

Clone = Callable[[Node, Sequence[Value | None]], Node]


def arrange(
    nodes: Sequence[Node], outputs: Sequence[Value], clone: Clone, enough: int = 0
) -> list[Node]:
    """``nodes`` (in any topological order) in the order to run them, some of them repeated.

    ``clone`` makes the same call on other operands of the same shapes. Nothing is repeated to get
    below ``enough`` bytes.
    """
    order = best = _eager(nodes)
    peak = _Lives(best, outputs).peak
    if peak <= enough:
        return best
    idle = 0
    for _ in range(_ROUNDS):
        found = _give_up(order, outputs, clone)
        if found is None:
            break
        order, lower = found, _Lives(found, outputs).peak
        idle = idle + 1 if lower >= 0.997 * peak else 0
        if lower < peak:
            best, peak = order, lower
        if idle == _PATIENCE:
            break
    return best


def by_readiness(nodes: Sequence[Node]) -> list[Node]:
    """``nodes`` in the order in which their inputs become available.

    ONNX Runtime sorts the nodes that are ready into a list by their place in the file, one by one
    (1.19). In the order of building, thousands are ready long before their turn, and opening a
    session takes time with the square of the number of nodes (46,000 nodes: 10 s, 92,000: 50 s;
    sorted so: 6 s, 13 s). In which order they run does not depend on this.
    """
    maker = {id(o): i for i, n in enumerate(nodes) for o in n.outputs if o is not None}
    readers: list[list[int]] = [[] for _ in nodes]
    waiting = []
    for i, node in enumerate(nodes):
        makers = {maker[id(v)] for v in node.inputs if v is not None and id(v) in maker}
        waiting.append(len(makers))
        for j in makers:
            readers[j].append(i)
    ready = deque(i for i, count in enumerate(waiting) if not count)
    order = []
    while ready:
        i = ready.popleft()
        order.append(nodes[i])
        for j in readers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    return order


def peak_bytes(nodes: Sequence[Node], outputs: Sequence[Value]) -> int:
    """The most that the values made by ``nodes``, run in this order, occupy at one time."""
    return _Lives(nodes, outputs).peak


def _bytes(value: Value) -> int:
    if value.shape is None:
        return 0
    return math.prod(value.shape) * helper.tensor_dtype_to_np_dtype(value.dtype).itemsize


def _eager(nodes: Sequence[Node]) -> list[Node]:
    """``nodes`` in the given order, but those that shrink their operands as early as they can."""

    def rank(i: int) -> tuple[bool, int]:
        node = nodes[i]
        made = sum(_bytes(o) for o in node.outputs if o is not None)
        read = max((_bytes(v) for v in node.inputs if v is not None), default=0)
        return not (node.op in _VIEWS or _SHRINKS * made <= read), i

    return sort_nodes(nodes, rank)


class _Lives:
    """When each value that takes memory is made and read; views count as what they show."""

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> None:
        self.shown: dict[int, Value] = {}
        self.made: dict[int, int] = {}
        self.maker: dict[int, Node] = {}
        self.values: list[Value] = []
        self.uses: dict[int, list[int]] = defaultdict(list)
        given = {id(v) for v in outputs}  # written where the caller wants them
        for place, node in enumerate(nodes):
            for value in node.inputs:
                if value is not None:
                    self.uses[id(self.root(value))].append(place)
            for value in node.outputs:
                if value is None or id(value) in given:
                    continue
                source = node.inputs[0] if node.op in _VIEWS else None
                if source is not None:
                    self.shown[id(value)] = self.root(source)
                else:
                    self.made[id(value)], self.maker[id(value)] = place, node
                    self.values.append(value)
        self.peak, self.peak_at = self._largest(len(nodes))

    def root(self, value: Value) -> Value:
        return self.shown.get(id(value), value)

    def last(self, value: Value) -> int:
        uses = self.uses[id(value)]
        return uses[-1] if uses else self.made[id(value)]

    def _largest(self, count: int) -> tuple[int, int]:
        change = [0] * (count + 2)
        for value in self.values:
            change[self.made[id(value)]] += _bytes(value)
            change[self.last(value) + 1] -= _bytes(value)
        now = peak = at = 0
        for place in range(count):
            now += change[place]
            if now > peak:
                peak, at = now, place
        return peak, at


@dataclass
class _Plan:
    """Around the largest moment: values that are not kept, and where which are made again."""

    lives: _Lives
    again: dict[int, int] = field(default_factory=dict)
    inserts: dict[int, list[list[Value]]] = field(default_factory=lambda: defaultdict(list))
    spare: int = _SMALL

    def consider(self, value: Value, place: int) -> None:
        """Give ``value`` up until ``place``, if that can be done and is worth it."""
        self.spare = max(_SMALL, _bytes(value) // _SHRINKS)
        chain = self._chain(value, place, _CHAIN, first=True)
        if chain is not None and sum(map(_bytes, chain)) <= _COST * _bytes(value):
            self.again[id(value)] = place
            self.inserts[place].append(chain)

    def _chain(self, value: Value, place: int, depth: int, first: bool) -> list[Value] | None:
        """The values to make again, in order, so that ``value`` is there at ``place``."""
        lives = self.lives
        root = lives.root(value)
        if id(root) not in lives.made:  # an input of the graph
            return []
        if not first:
            before = lives.made[id(root)] <= lives.peak_at
            kept = id(root) not in self.again
            if before and kept and lives.last(root) >= place:
                return []
            if not kept and self.again[id(root)] < place <= lives.last(root):
                return []
            if before and kept and _bytes(root) <= self.spare:
                return []  # it will live on
        node = lives.maker[id(root)]
        if not depth or node.op not in _CHEAP or lives.made[id(root)] > lives.peak_at:
            return None
        chain: list[Value] = []
        for operand in node.inputs:
            if operand is None:
                continue
            needed = self._chain(operand, place, depth - 1, first=False)
            if needed is None:
                return None
            chain += [v for v in needed if v not in chain]
        return [*chain, root] if len(chain) < _CHAIN else None


def _give_up(nodes: Sequence[Node], outputs: Sequence[Value], clone: Clone) -> list[Node] | None:
    """``nodes`` with what is not kept over the largest moment; None if nothing can be given up."""
    lives = _Lives(nodes, outputs)
    plan = _Plan(lives)
    idle = []
    for value in lives.values:
        uses = lives.uses[id(value)]
        if lives.made[id(value)] >= lives.peak_at or _bytes(value) < _SMALL:
            continue
        k = bisect_right(uses, lives.peak_at)
        if k < len(uses) and uses[k] < len(nodes) and (not k or uses[k - 1] < lives.peak_at):
            idle.append((-_bytes(value), uses[k], value))
    for _, place, value in sorted(idle, key=lambda found: found[:2]):
        plan.consider(value, place)
    return _rewritten(nodes, plan, clone) if plan.again else None


def _rewritten(nodes: Sequence[Node], plan: _Plan, clone: Clone) -> list[Node]:
    made: list[Node] = []
    instead: dict[int, Value] = {}  # from the place of the repetition on
    lives = plan.lives
    views = {id(o): n for n in nodes if n.op in _VIEWS for o in n.outputs if o is not None}

    def repeat(node: Node, known: dict[int, Value]) -> Value:
        again = clone(node, [None if v is None else find(v, known) for v in node.inputs])
        made.append(again)
        return next(o for o in again.outputs if o is not None)

    def find(value: Value, known: dict[int, Value]) -> Value:
        """What stands for ``value`` here."""
        for table in (known, instead):
            if id(value) in table:
                return table[id(value)]
        root = lives.root(value)
        if root is value or not (id(root) in known or id(root) in instead):
            return value
        shown = repeat(views[id(value)], known)
        (known if id(root) in known else instead)[id(value)] = shown
        return shown

    for place, node in enumerate(nodes):
        for chain in plan.inserts.get(place, ()):
            known: dict[int, Value] = {}
            for value in chain:
                known[id(value)] = repeat(lives.maker[id(value)], known)
            instead[id(chain[-1])] = known[id(chain[-1])]
        inputs = tuple(None if v is None else find(v, {}) for v in node.inputs)
        if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            made.append(node)
        else:
            made.append(replace(node, inputs=inputs))
    return made
