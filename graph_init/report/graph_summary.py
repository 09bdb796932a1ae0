"""Summarises a model's graph so that it can be read: rows in an order of computation.

Nodes that no input's numbers flow through (shapes, weights that are rearranged) are left out, and
chains are folded: a node that reads no scalable tensor joins the node before it where neither has
another neighbour. A graph that is still large is folded further, over neighbouring rows of the
order, whose quotient has no cycles either.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx
import onnx_ir as ir

from graph_init.analysis import Parameter, to_networkx

#: A graph is folded further until it has at most this many rows.
LIMIT = 250

#: What stands in a row for a graph input, beside the types of operators.
INPUT = "input"

_Key = tuple[str, int]


@dataclass
class _Row:
    """Nodes that are drawn as one. ``inputs`` are the rows whose results it reads."""

    nodes: list[str]
    operators: list[str]
    tensors: list[str]
    inputs: set[int] = field(default_factory=set)

    def join(self, other: _Row) -> None:
        self.nodes += other.nodes
        self.operators += other.operators
        self.tensors += [t for t in other.tensors if t not in self.tensors]
        self.inputs |= other.inputs


def summarize(
    model: ir.Model, parameters: Sequence[Parameter], limit: int = LIMIT
) -> dict[str, Any]:
    """The graph as JSON: figures about it, its ``rows``, and the trainable tensors' ``order``.

    A row has the name of its first node, the number of its ``nodes``, its ``operators`` with their
    counts, the trainable ``tensors`` that it reads, and its ``inputs``, which are earlier rows.
    ``folded`` says how: ``chains``, ``tensors`` (a row for each that reads a scalable tensor), or
    ``runs`` of such rows.
    """
    graph = to_networkx(model)
    edges: list[tuple[Any, Any, Any, Any]] = list(graph.edges(keys=True, data="shape_only"))
    graph.remove_edges_from([(a, b, key) for a, b, key, only in edges if only])
    kept = _computing(graph)
    read_by = {
        p.name: _readers(graph, ("value", id(model.graph.initializers[p.name])), kept)
        for p in parameters
        if p.trainable and p.name in model.graph.initializers
    }
    scalable = {p.name for p in parameters if p.scalable}
    steps = networkx.condensation(_between(graph, kept))
    position = {key: k for k, key in enumerate(graph)}
    rows = _chains(graph, steps, position, read_by=read_by, scalable=scalable)
    folded = "chains"
    count, joins = len(rows), sum(len(r.inputs) > 1 for r in rows)
    if len(rows) > limit:
        folded = "tensors"
        rows = _folded(rows, _spine(rows, scalable))
    if len(rows) > limit:
        folded = "runs"
        size = -(-len(rows) // limit)
        rows = _folded(rows, [k // size for k in range(len(rows))])
    return {
        "nodes": sum(key[0] == "node" for key in graph),
        "computing": sum(key[0] == "node" for key in kept),
        "depth": sum(
            any(key[0] == "node" for key in steps.nodes[s]["members"])
            for s in networkx.dag_longest_path(steps, default_weight=1)
        ),
        "chains": count,
        "joins": joins,
        "folded": folded,
        "operators": dict(
            Counter(graph.nodes[k]["op_type"] for k in kept if k[0] == "node").most_common()
        ),
        "rows": [
            {
                "name": row.nodes[0],
                "nodes": len(row.nodes),
                "operators": _counted(row.operators, folded),
                "tensors": row.tensors,
                "inputs": sorted(row.inputs),
            }
            for row in rows
        ],
        "order": list(dict.fromkeys(itertools.chain.from_iterable(r.tensors for r in rows))),
    }


def _computing(graph: Any) -> list[_Key]:
    """Inputs, and nodes on the way from them to an output; all nodes if there is no such way."""
    source, sink = ("source", 0), ("sink", 0)
    around: networkx.DiGraph[Any] = networkx.DiGraph(graph.edges())
    roles = graph.nodes(data="role")
    around.add_edges_from((source, k) for k, role in roles if role == "input")
    around.add_edges_from((k, sink) for k, role in roles if role == "output")
    # A model that gives its input out has a value that is both.
    after = networkx.descendants(around, source) if source in around else set()
    before = networkx.ancestors(around, sink) if sink in around else set()
    inputs = [k for k, role in roles if role == "input" and k in before]
    for key in inputs:
        graph.nodes[key]["op_type"] = INPUT
    nodes = [k for k in graph if k[0] == "node"]
    found = [k for k in nodes if k in after and k in before]
    return [*inputs, *found] if found else nodes


def _between(graph: Any, kept: Sequence[_Key]) -> Any:
    """The graph of what is ``kept``, without the values between the nodes."""
    found: networkx.DiGraph[Any] = networkx.DiGraph()
    found.add_nodes_from(kept)
    inside = set(kept)
    for node in kept:
        for value in [node] if node[0] == "value" else graph.successors(node):
            found.add_edges_from((node, n) for n in graph.successors(value) if n in inside)
    return found


def _readers(graph: Any, value: _Key, kept: Iterable[_Key]) -> set[_Key]:
    """The ``kept`` nodes that read a tensor, as it is or rearranged by nodes that are not."""
    inside = set(kept)
    found: set[_Key] = set()
    waiting, seen = [value], {value}
    while waiting:
        for key in graph.successors(waiting.pop()):
            if key in inside:
                found.add(key)
            elif key not in seen:
                seen.add(key)
                waiting.append(key)
    return found


def _chains(
    graph: Any,
    steps: Any,
    position: Mapping[_Key, int],
    read_by: Mapping[str, set[_Key]],
    scalable: set[str],
) -> list[_Row]:
    """A row for each chain. ``steps`` has no cycles: a loop and its body are one step."""
    step_of = steps.graph["mapping"]
    first = {s: min(position[k] for k in steps.nodes[s]["members"]) for s in steps}
    reads: dict[int, list[str]] = {}
    for name, readers in read_by.items():
        for s in {step_of[k] for k in readers}:
            reads.setdefault(s, []).append(name)
    chain: dict[int, int] = {}
    for s in _in_order(steps, first):
        before = list(steps.predecessors(s))
        alone = len(before) == 1 and steps.out_degree(before[0]) == 1
        weighs = any(n in scalable for n in reads.get(s, ()))
        chain[s] = chain[before[0]] if alone and not weighs else s
    quotient: networkx.DiGraph[Any] = networkx.DiGraph()
    quotient.add_nodes_from(chain.values())
    quotient.add_edges_from((chain[a], chain[b]) for a, b in steps.edges() if chain[a] != chain[b])
    place = {c: k for k, c in enumerate(_in_order(quotient, first))}
    rows = [_Row([], [], [], {place[b] for b in quotient.predecessors(c)}) for c in place]
    for s in _in_order(steps, first):
        row = rows[place[chain[s]]]
        for key in sorted(steps.nodes[s]["members"], key=position.__getitem__):
            row.nodes.append(graph.nodes[key]["name"])
            row.operators.append(graph.nodes[key]["op_type"])
        row.tensors += [n for n in reads.get(s, ()) if n not in row.tensors]
    return rows


def _in_order(graph: Any, first: Mapping[int, int]) -> Iterator[int]:
    """Topological, and otherwise in the order in which the model lists its nodes."""
    found: Iterator[int] = networkx.lexicographical_topological_sort(graph, key=first.__getitem__)
    return found


def _spine(rows: Sequence[_Row], scalable: set[str]) -> list[int]:
    """For each row the number of the row it becomes part of: a new one where weights are read."""
    numbers: list[int] = []
    for row in rows:
        begins = not numbers or any(t in scalable for t in row.tensors)
        numbers.append((numbers[-1] if numbers else -1) + begins)
    return numbers


def _folded(rows: Sequence[_Row], numbers: Sequence[int]) -> list[_Row]:
    """Rows of the same number joined; numbers never fall."""
    found: list[_Row] = []
    for row, number in zip(rows, numbers, strict=True):
        own = _Row(
            list(row.nodes),
            list(row.operators),
            list(row.tensors),
            {numbers[k] for k in row.inputs} - {number},
        )
        if number == len(found):
            found.append(own)
        else:
            found[-1].join(own)
    return found


def _counted(operators: Sequence[str], folded: str) -> list[tuple[str, int]]:
    """In a chain one after the other, elsewhere each once."""
    if folded == "chains":
        return [(op, len(list(same))) for op, same in itertools.groupby(operators)]
    return Counter(operators).most_common()
