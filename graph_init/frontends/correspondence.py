"""Which initializer of an exported graph holds which tensor of the framework's model.

Exporters rename tensors, transpose them, cut tables, stack the gates of recurrent layers in
another order and give tied weights twice. :func:`bind` undoes that: afterwards every parameter
that the graph reads is one initializer with the parameter's own name, shape and values, and what
the exporter had made of it is computed from that by nodes. So a parameter has one factor, whatever
reads it, and new values go back by name.

A tensor is looked for by name first, then by content: the same numbers, bit for bit, in another
arrangement, or pieces of tensors put together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from graph_init.errors import UnsupportedModelError
from graph_init.frontends import Tensor
from graph_init.frontends.arrangement import Expression
from graph_init.frontends.content import array_of, dtype_of, equal, same
from graph_init.frontends.edits import Graph
from graph_init.frontends.search import Finder
from graph_init.ir import all_equal


@dataclass(frozen=True)
class Bound:
    """``model`` with every parameter as an initializer of its name.

    ``owners``: the tensors behind each such initializer. They are several where the exporter
    merged tensors of equal values, which then have one factor.
    """

    model: ir.Model
    owners: Mapping[str, tuple[Tensor, ...]]


def bind(exported: onnx.ModelProto | ir.Model, tensors: Sequence[Tensor]) -> Bound:
    """Make every tensor that ``exported`` reads an initializer of its own name; see the module.

    ``exported`` is used up. Raises UnsupportedModelError where a trainable tensor is missing and an
    initializer of its size is not accounted for: the exporter has changed its values.
    """
    model = ir.from_proto(exported) if isinstance(exported, onnx.ModelProto) else exported
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    graph = Graph(model.graph)
    graph.lift_constants()
    held, rest = _by_name(graph.floats(), tensors)
    twins: dict[int, list[Tensor]] = {}
    rest = _by_whole_content(rest, [t for t in tensors if id(t) not in held], held, twins)
    finder = Finder(tensors)
    made: list[tuple[ir.Value, Expression]] = []
    unknown: list[ir.Value] = []
    for value in rest:
        array = array_of(value)
        found = None if all_equal(array) else finder.find(array)
        if found is None:
            unknown.append(value)
        else:
            made.append((value, found))
    read = set(held) | {id(t) for _, expression in made for t in expression.tensors()}
    _add_merged(twins, tensors, read)
    read |= {id(t) for others in twins.values() for t in others}
    _require_known([t for t in tensors if id(t) not in read], unknown)

    owners: dict[str, tuple[Tensor, ...]] = {}
    holders: dict[int, ir.Value] = {}
    for tensor in tensors:
        values = held.get(id(tensor))
        if values:
            holders[id(tensor)] = graph.merge(tensor.name, values)
            owners[tensor.name] = (tensor, *twins.get(id(tensor), ()))
    for value, expression in made:
        for tensor in expression.tensors():
            if id(tensor) not in holders:
                dtype = dtype_of(value)
                holders[id(tensor)] = graph.add(tensor.name, tensor.value.astype(dtype))
                owners[tensor.name] = (tensor, *twins.get(id(tensor), ()))
        graph.replace(value, expression.emit(graph, holders))
    return Bound(model, owners)


def _by_name(
    values: Sequence[ir.Value], tensors: Sequence[Tensor]
) -> tuple[dict[int, list[ir.Value]], list[ir.Value]]:
    """The values that have a tensor's name and numbers, by the tensor's ``id``; and the rest."""
    by_name = {name: t for t in tensors for name in (t.name, *t.aliases)}
    held: dict[int, list[ir.Value]] = {}
    rest: list[ir.Value] = []
    for value in values:
        tensor = by_name.get(value.name or "")
        if tensor is not None and equal(tensor, value):
            held.setdefault(id(tensor), []).append(value)
        else:
            rest.append(value)
    return held, rest


def _add_merged(
    twins: dict[int, list[Tensor]], tensors: Sequence[Tensor], read: Collection[int]
) -> None:
    """Add to the ``twins`` of tensors that are read those that the exporter merged with them."""
    already = {id(t) for others in twins.values() for t in others}
    for tensor in tensors:
        if id(tensor) not in read and id(tensor) not in already:
            twin = next((t for t in tensors if id(t) in read and _mergeable(t, tensor)), None)
            if twin is not None:
                twins.setdefault(id(twin), []).append(tensor)


def _by_whole_content(
    values: Sequence[ir.Value],
    tensors: Sequence[Tensor],
    held: dict[int, list[ir.Value]],
    twins: dict[int, list[Tensor]],
) -> list[ir.Value]:
    """Give ``values`` to ``tensors`` of the same shape and numbers; return those left over.

    Values of the same numbers are taken for copies of one tensor: which of several equal tensors
    is which cannot be told. Only vectors filled with one number (fresh biases, which never scale)
    are given out in turn. Tensors left over become twins of the last.
    """
    rest = []
    groups: list[tuple[list[ir.Value], list[Tensor]]] = []
    for value in values:
        known = next((g for g in groups if _equal_values(g[0][0], value)), None)
        if known is not None:
            known[0].append(value)
        elif equals := [t for t in tensors if equal(t, value)]:
            groups.append(([value], equals))
        else:
            rest.append(value)
    for members, equals in groups:
        in_turn = len(array_of(members[0]).shape) < 2 and all_equal(array_of(members[0]))
        pairs = min(len(members), len(equals)) if in_turn else 1
        for k in range(pairs):
            held[id(equals[k])] = [members[k]]
        if pairs < len(equals):
            twins[id(equals[pairs - 1])] = equals[pairs:]
        if in_turn:
            rest += members[pairs:]
        else:
            held[id(equals[0])] = members
    return rest


def _mergeable(kept: Tensor, lost: Tensor) -> bool:
    """Whether an exporter may have left out ``lost``, its numbers being those of ``kept``.

    Of numbers that are all alike only tensors that are trained alike: the lost one may as well be
    unused, and nothing of ``kept`` should depend on it then.
    """
    alike = kept.trainable == lost.trainable or not all_equal(lost.value)
    return alike and kept.value.dtype == lost.value.dtype and same(kept.value, lost.value)


def _equal_values(a: ir.Value, b: ir.Value) -> bool:
    return dtype_of(a) == dtype_of(b) and same(array_of(a), array_of(b))


def _require_known(missing: Sequence[Tensor], unknown: Sequence[ir.Value]) -> None:
    """Every trainable tensor is found, or plausibly reaches no output."""
    for tensor in missing:
        if not tensor.trainable or tensor.value.size < 2 or all_equal(tensor.value):
            continue
        for value in unknown:
            array = array_of(value)
            if array.size == tensor.value.size and not all_equal(array):
                raise UnsupportedModelError(
                    f"the exporter has changed the values of '{tensor.name}': they are nowhere in "
                    f"the exported graph, and '{value.name}', of the same size, comes from no "
                    "parameter. Export without constant folding, which leaves weights as they are"
                )
