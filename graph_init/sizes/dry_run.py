"""Walks through a model with sizes alone: which nodes do not fit, and which branches run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from graph_init.ir import FLOATS, Array
from graph_init.sizes.contents import contents
from graph_init.sizes.known import (
    MAX_CONTENT,
    Call,
    Conflict,
    Dim,
    Known,
    Need,
    UnknownShape,
    marks_of,
    of_content,
)
from graph_init.sizes.layer_rules import WORK
from graph_init.sizes.shape_rules import RULES

#: Bodies of loops are gone through so often at most.
_ITERATIONS = 64


@dataclass
class Outcome:
    """How far a run came.

    ``conflict`` is at ``node``, the ``place``-th of the run, or both are None. ``needed`` are
    inputs of nodes whose numbers sizes follow from and which are not known. ``taken`` says for
    each If whose condition is known whether its first branch is, and ``steered`` are the marks of
    these conditions. ``work`` counts the multiplications of layers. ``known`` are the values of the
    graph, by their identities.
    """

    conflict: Conflict | None = None
    node: ir.Node | None = None
    place: int = 0
    needed: list[tuple[ir.Node, int]] = field(default_factory=list)
    taken: dict[str, bool] = field(default_factory=dict)
    steered: int = 0
    work: int = 0
    known: dict[int, Known] = field(default_factory=dict, repr=False)


class DryRun:
    """Goes through one model as often as is wanted; what follows from no unknown is kept."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self._constants = {
            id(v): _constant(v.const_value)
            for v in model.graph.initializers.values()
            if v.const_value is not None
        }
        self._kept: dict[int, list[Known]] = {}
        self._looping = 0
        self.runs: int = 0

    def forget(self) -> None:
        """Keep nothing of earlier runs: an input has another value."""
        self._kept.clear()

    def __call__(self, inputs: Mapping[str, Known], until: int | None = None) -> Outcome:
        """Go through the model; ``until`` ends the run behind the node of that place."""
        self.runs += 1
        outcome = Outcome()
        environment = dict(self._constants)
        for value in self._graph.inputs:
            if value.name in inputs:
                environment[id(value)] = inputs[value.name or ""]
        outcome.known = environment
        with suppress(_End):
            self._walk(self._graph, environment, outcome, until)
        return outcome

    def _walk(
        self,
        graph: ir.Graph,
        environment: dict[int, Known],
        outcome: Outcome,
        until: int | None = None,
    ) -> None:
        for value in graph.initializers.values():
            if id(value) not in environment and value.const_value is not None:
                environment[id(value)] = _constant(value.const_value)
        for node in graph:
            if until is not None and outcome.place > until:
                raise _End
            outcome.place += 1
            try:
                made = self._node(node, environment, outcome)
            except Conflict as conflict:
                outcome.conflict, outcome.node = conflict, node
                raise _End from conflict
            for value, known in zip(node.outputs, made, strict=False):
                environment[id(value)] = known

    def _node(self, node: ir.Node, environment: dict[int, Known], outcome: Outcome) -> list[Known]:
        ins = [None if v is None else environment.get(id(v), _NOTHING) for v in node.inputs]
        kept = self._kept.get(id(node))
        if kept is not None and not self._looping:
            return kept
        call = Call(node, ins, self._opset)
        if node.op_type in _CONTROL and node.domain in ("", "ai.onnx"):
            inside: list[Known] = _CONTROL[node.op_type](self, call, environment, outcome)
            return inside
        try:
            made = _outputs(call)
        except (UnknownShape, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # What a node that is not valid makes is told where it is lowered.
            return []
        except Need as need:
            outcome.needed.append((node, need.slot))
            return []
        count = WORK.get(node.op_type)
        if count is not None and made[0].dims is not None:
            outcome.work += count(call, made[0].dims)
        for known in made:
            # An axis of nothing: what follows has no elements, and no derivative.
            empty = [n for n in known.dims or () if n == 0 and marks_of(n)]
            if empty and known.dtype in FLOATS:
                words = "gives a tensor with an axis of size 0"
                raise Conflict(words, empty[0], Dim(1), True)
        if not self._looping and not any(v and (v is _NOTHING or v.followed) for v in ins):
            self._kept[id(node)] = made
        return made

    # -- control flow ---------------------------------------------------------------------------

    def _if(self, c: Call, environment: dict[int, Known], outcome: Outcome) -> list[Known]:
        condition = c.get(0)
        if condition is None or condition.content is None:
            outcome.needed.append((c.node, 0))
            return []
        first = bool(condition.content.reshape(-1)[0])
        outcome.taken[c.node.name or ""] = first
        outcome.steered |= condition.followed
        body: ir.Graph = c.attr("then_branch" if first else "else_branch")
        self._walk(body, environment, outcome)
        return [environment.get(id(v), _NOTHING) for v in body.outputs]

    def _loop(self, c: Call, environment: dict[int, Known], outcome: Outcome) -> list[Known]:
        count, going, body = c.get(0), c.get(1), c.attr("body")
        states = list(c.ins[2:])
        if count is not None and count.content is None:
            outcome.needed.append((c.node, 0))
            return []
        most = _ITERATIONS if count is None or count.content is None else int(count.content.max())
        kept = len(body.outputs) - 1 - len(states)
        step, parts = 0, [_NOTHING] * kept
        while step < min(most, _ITERATIONS):
            if going is not None and going.content is None:
                outcome.needed.append((c.node, 1))
                return []
            if going is not None and going.content is not None and not going.content.all():
                break
            given = [of_content(np.asarray(step, np.int64)), going, *states]
            for value, known in zip(body.inputs, given, strict=False):
                environment[id(value)] = known or _NOTHING
            self._looping += 1
            self._walk(body, environment, outcome)
            self._looping -= 1
            found = [environment.get(id(v), _NOTHING) for v in body.outputs]
            going, states, parts = found[0], list(found[1 : 1 + len(states)]), found[-kept:]
            step += 1
        total = Dim(most if going is None else step, 0 if count is None else count.followed)
        stacked = [
            Known(p.dtype, None if p.dims is None else (total, *p.dims)) for p in parts[:kept]
        ]
        return [*(s or _NOTHING for s in states), *stacked]

    def _scan(self, c: Call, environment: dict[int, Known], outcome: Outcome) -> list[Known]:
        body, scanned = c.attr("body"), int(c.attr("num_scan_inputs"))
        if self._opset < 9:
            return []
        states, over = list(c.ins[: len(c.ins) - scanned]), c.ins[len(c.ins) - scanned :]
        axes = c.attr("scan_input_axes") or [0] * scanned
        steps: int | None = None
        given = list(states)
        for known, axis in zip(over, axes, strict=True):
            if known is None or known.dims is None:
                given.append(_NOTHING)
                continue
            at = axis % len(known.dims)
            steps = known.dims[at]
            given.append(Known(known.dtype, (*known.dims[:at], *known.dims[at + 1 :])))
        for value, known in zip(body.inputs, given, strict=False):
            environment[id(value)] = known or _NOTHING
        self._walk(body, environment, outcome)
        found = [environment.get(id(v), _NOTHING) for v in body.outputs]
        for k, known in enumerate(found[len(states) :]):
            out = (c.attr("scan_output_axes") or [0] * len(found))[k]
            if known.dims is not None and steps is not None:
                at = out % (len(known.dims) + 1)
                dims = (*known.dims[:at], steps, *known.dims[at:])
                found[len(states) + k] = Known(known.dtype, dims)
        return found


_NOTHING = Known(0, None)
_CONTROL: dict[str, Any] = {"If": DryRun._if, "Loop": DryRun._loop, "Scan": DryRun._scan}


class _End(Exception):
    """The run is at its end."""


def _constant(tensor: Any) -> Known:
    dims = tuple(Dim(n) for n in tensor.shape.numpy())
    if tensor.size > MAX_CONTENT or tensor.dtype is ir.DataType.STRING:
        return Known(int(tensor.dtype), dims)
    return of_content(tensor.numpy(), 0, dims)


def _outputs(c: Call) -> list[Known]:
    node = c.node
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        ((key, attribute),) = node.attributes.items()
        if key == "value":
            return [_constant(attribute.value)]
        kind = np.float32 if "float" in key else np.int64
        return [of_content(np.array(attribute.value, kind))] if "string" not in key else []
    found = contents(c)
    rule = RULES.get(node.op_type)
    if rule is None:
        return found if found is not None else _by_schema(c)
    if found is None:
        return rule(c)
    # The numbers, with what their count follows from.
    try:
        (shape,) = rule(c)[:1]
    except (Need, UnknownShape, ValueError):
        return found
    if shape.dims is not None and shape.dims == tuple(found[0].dims or ()):
        found[0].dims = shape.dims
    return found


def _by_schema(c: Call) -> list[Known]:
    """ONNX's own shape inference for one node; every size follows from all that its inputs do."""
    node = c.node
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain or not onnx.defs.has(node.op_type, ""):
        raise UnknownShape
    marks = 0
    types, values = {}, {}
    for value, known in zip(node.inputs, c.ins, strict=True):
        if value is None or known is None:
            continue
        if known.dims is None or not known.dtype:
            raise UnknownShape
        marks |= known.followed
        types[value.name or ""] = helper.make_tensor_type_proto(
            known.dtype, [int(n) for n in known.dims]
        )
        if known.content is not None:
            values[value.name or ""] = numpy_helper.from_array(np.asarray(known.content))
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, c.opset, ""),
            ir.to_proto(node),
            types,
            values,
            opset_imports=[helper.make_opsetid("", c.opset)],
            ir_version=10,
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        words = str(error).strip().splitlines()[-1]
        raise Conflict(f"does not fit its inputs: {words}", marks=marks) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnknownShape from error
    return [_of_type(found.get(v.name or ""), marks) for v in node.outputs]


def _of_type(kind: onnx.TypeProto | None, marks: int) -> Known:
    if kind is None or not kind.HasField("tensor_type"):
        return _NOTHING
    tensor = kind.tensor_type
    dims: Sequence[Any] = tensor.shape.dim
    static = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return Known(tensor.elem_type, tuple(Dim(d.dim_value, marks) for d in dims) if static else None)


def array_input(array: Array, marks: int = 0) -> Known:
    """A graph input whose numbers are given."""
    if array.size > MAX_CONTENT:
        return Known(int(ir.DataType.from_numpy(array.dtype)), tuple(Dim(n) for n in array.shape))
    return of_content(array, marks)
