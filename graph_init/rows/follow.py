"""Goes through a model from its inputs on: where the rows of each value are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graph_init.errors import printable
from graph_init.model.constants import subgraphs_of
from graph_init.rows import arrangement, layers  # noqa: F401  (they fill the table)
from graph_init.rows.layout import RULES, SHAPE_SLOTS, Held, Patch, Rows, Step
from graph_init.sizes.known import Call, Known, Need, UnknownShape, marks_of

_NOTHING = Known(0, None)


class Obstacle(Exception):
    """The batch cannot be freed; the message names the node, and says why, in a clause."""


@dataclass
class Followed:
    """Where rows are, by the names of values; what is changed, by the nodes' first outputs."""

    places: dict[str, Rows]
    patches: dict[str, list[Patch]] = field(default_factory=dict)


def follow(
    model: ir.Model, starts: Mapping[str, Rows], known: Mapping[int, Known], count: int
) -> Followed:
    """``starts``: where the rows of the inputs are. ``known``: all values with ``count`` rows.

    Sizes and numbers in ``known`` that follow from the number of rows are marked.

    Raises:
        Obstacle: A node does not keep rows apart.
    """
    found = Followed(dict(starts))
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))

    def walk(graph: ir.Graph, inside: bool) -> None:
        for node in graph:
            ins = [None if v is None else known.get(id(v), _NOTHING) for v in node.inputs]
            rows = [None if v is None else found.places.get(v.name or "") for v in node.inputs]
            made = [known.get(id(v), _NOTHING) for v in node.outputs]
            step = Step(Call(node, ins, opset), rows, made, count)
            branch = _branch(step)
            where: Sequence[Rows | None]
            if branch is not None:
                walk(branch, True)
                where = [found.places.get(v.name or "") for v in branch.outputs]
            else:
                where = _where(step, found.places, inside)
            found.places.update(
                (v.name or "", r)
                for v, r in zip(node.outputs, where, strict=False)
                if r is not None
            )
            if step.patches:
                found.patches[node.outputs[0].name or ""] = step.patches

    walk(model.graph, False)
    return found


def _branch(step: Step) -> ir.Graph | None:
    """The branch of an If that is taken whatever the number of rows."""
    condition = step.call.get(0)
    if step.node.op_type != "If" or condition is None or condition.content is None:
        return None
    if _counts(condition) or step.at(0) is not None:
        return None
    name = "then_branch" if condition.content.reshape(-1)[0] else "else_branch"
    return step.node.attributes[name].as_graph()


def _where(step: Step, places: Mapping[str, Rows], inside: bool) -> Sequence[Rows | None]:
    """Where the rows of a node's outputs are; Obstacle with its name if that is not known."""
    try:
        found = _through(step, places)
        if inside and step.patches:
            raise Held("is inside a branch, and reads a constant that holds the number of rows")
        return found
    except Held as held:
        raise Obstacle(f"{_called(step.node)} {held}") from held
    except (Need, UnknownShape, LookupError, TypeError, ValueError) as error:
        words = "is given sizes that do not follow from the file"
        raise Obstacle(f"{_called(step.node)} {words}") from error


def _called(node: ir.Node) -> str:
    return printable(f"node '{node.name}' ({node.op_type})")


def _through(step: Step, places: Mapping[str, Rows]) -> Sequence[Rows | None]:
    """Where the rows of a node's outputs are."""
    node = step.node
    for attribute in node.attributes.values():
        for body in subgraphs_of(attribute):
            if any(v is not None and v.name in places for n in body.all_nodes() for v in n.inputs):
                raise Held("reads the batch inside its body, which is not followed")
    shapes = SHAPE_SLOTS.get(node.op_type, frozenset())
    counts = [k for k, v in enumerate(step.call.ins) if v and not step.at(k) and _counts(v)]
    if not any(step.rows):
        shaped = any(marks_of(*(v.dims or ())) for v in step.made)
        if not counts and not shaped:
            return []
        if not shaped and all(v.content is not None for v in step.made):
            return []  # numbers that sizes are made of
    if node.op_type in ("Shape", "Size"):
        return []
    if not shapes.issuperset(counts):
        raise Held("computes with the number of rows")
    rule = RULES.get(node.op_type)
    if rule is None or node.domain not in ("", "ai.onnx", "com.microsoft"):
        raise Held("is an operator of which it is not known whether it keeps rows apart")
    found = rule(step)
    return [found] * len(node.outputs) if found is None or isinstance(found, Rows) else found


def _counts(known: Known) -> bool:
    """Whether some of the numbers follow from the number of rows."""
    return known.marks is not None and bool(known.marks.any())
