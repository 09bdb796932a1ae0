"""Turning what a model computes from constants alone into initializers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx.reference import ReferenceEvaluator

from graph_init.engine import memory
from graph_init.errors import UnsupportedModelError, printable
from graph_init.model.fold_cost import MAX_FOLDED_ELEMENTS, is_bounded
from graph_init.model.opened_data import renamed
from graph_init.model.places import PLACE

MAX_FOLDED_BYTES = 2**32
"""Bytes that all values computed from constants may take together."""

_NOT_FOLDED = frozenset(
    ["Bernoulli", "Dropout", "Multinomial", "OptionalHasElement"]
    + ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


def subgraphs_of(attribute: onnx_ir.Attr) -> list[onnx_ir.Graph]:
    """The graphs that an attribute holds: the bodies of If, Loop and Scan."""
    if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
        return [attribute.as_graph()]
    if attribute.type == onnx_ir.AttributeType.GRAPHS and not attribute.is_ref():
        return list(attribute.as_graphs())
    return []


def _attribute_reader(dtype: Any) -> Callable[[onnx_ir.Attr], np.ndarray]:
    return lambda attribute: np.array(attribute.value, dtype=dtype)


_CONSTANT_ATTRIBUTES: dict[str, Callable[[onnx_ir.Attr], np.ndarray]] = {
    "value_float": _attribute_reader(np.float32),
    "value_floats": _attribute_reader(np.float32),
    "value_int": _attribute_reader(np.int64),
    "value_ints": _attribute_reader(np.int64),
}


#: Key of a value's ``meta`` under which the operators are listed that computed it from constants.
COMPUTED_BY = "graph_init.computed_by"

#: The same for operators that put a constant's numbers in another order, or take some of them.
ARRANGED_BY = "graph_init.arranged_by"

#: Operators that only hold or view numbers; a weight may well come out of them.
_HOLDERS = frozenset(
    "Constant ConstantOfShape Identity Cast Reshape Transpose Unsqueeze Squeeze Flatten".split()
)
#: So it may out of these: an exporter brings the gates of a recurrent layer into ONNX's order.
_ARRANGERS = frozenset("Slice Concat Split Gather".split())


@dataclass
class _Folded:
    """What a folded value is: ``tensor`` holds its data, ``array`` is the same as numpy.

    ``computed_by`` names the operators, other than holders, that made it of constants, and
    ``arranged_by`` those of these that only arranged them.
    """

    array: np.ndarray
    tensor: Any
    computed_by: tuple[str, ...] = ()
    arranged_by: tuple[str, ...] = ()


def fold_constants(model: onnx_ir.Model) -> None:
    """Turn values that depend on constants only into initializers of the same name.

    A node is folded if all its inputs are folded values or integer, boolean or string
    initializers: a float initializer is a parameter, and what is computed from it is not constant.
    """
    known: dict[int, _Folded] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and not tensor.dtype.is_floating_point():
            known[id(value)] = _Folded(tensor.numpy(), tensor)
    _remove(model.graph, _fold_nodes(model, known), known)


def _fold_nodes(model: onnx_ir.Model, known: dict[int, _Folded]) -> list[onnx_ir.Node]:
    """Add what nodes compute from ``known`` values to these; returns the nodes."""
    outputs = {id(value) for value in model.graph.outputs}
    folded: list[onnx_ir.Node] = []
    taken, room = 0, min(MAX_FOLDED_BYTES, (memory.available() or MAX_FOLDED_BYTES) // 2)
    for node in list(model.graph):
        if any(id(value) in outputs for value in node.outputs):
            continue
        results = _evaluate(node, known, model.opset_imports)
        if results is not None:
            if node.op_type != "Constant":
                taken += sum(result.array.nbytes for result in results)
            if taken > room:
                raise UnsupportedModelError(
                    f"node '{printable(node.name or '')}' ({node.op_type}): what the model "
                    f"computes from constants takes more than {room / 1e9:.2g} GB; store its "
                    "weights as initializers"
                )
            fed = [known[id(v)] for v in node.inputs if v is not None]
            arranges, holds = node.op_type in _ARRANGERS, node.op_type in _HOLDERS
            computed = _with((f.computed_by for f in fed), node, not (arranges or holds))
            arranged = _with((f.arranged_by for f in fed), node, arranges)
            for value, result in zip(node.outputs, results, strict=True):
                known[id(value)] = replace(result, computed_by=computed, arranged_by=arranged)
            folded.append(node)
    return folded


def _with(histories: Iterable[tuple[str, ...]], node: onnx_ir.Node, own: bool) -> tuple[str, ...]:
    """The operators of all ``histories``, and with ``own`` the node's, each once."""
    return tuple(dict.fromkeys((*itertools.chain(*histories), *([node.op_type] if own else []))))


def _remove(
    graph: onnx_ir.Graph, folded: Sequence[onnx_ir.Node], known: Mapping[int, _Folded]
) -> None:
    """Put initializers in the place of ``folded`` nodes, as far as other nodes read them."""
    gone = set(map(id, folded))
    fed = {id(v): v for node in folded for v in node.inputs if v is not None}
    for node in reversed(folded):
        for value in node.outputs:
            if any(id(user) not in gone for user, _ in value.uses()):
                _replace_by_initializer(graph, value, known[id(value)])
        graph.remove(node, safe=True)
    for value in fed.values():
        # A shape that only fed folded nodes has no further use.
        if value.is_initializer() and not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name or ""]


def _replace_by_initializer(graph: onnx_ir.Graph, value: onnx_ir.Value, folded: _Folded) -> None:
    name, tensor = value.name, folded.tensor
    shape = onnx_ir.Shape(tensor.shape)
    kind = onnx_ir.TensorType(tensor.dtype)
    tensor = renamed(tensor, name)
    initializer = onnx_ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    initializer.meta[COMPUTED_BY] = folded.computed_by
    initializer.meta[ARRANGED_BY] = folded.arranged_by
    if PLACE in value.meta:
        initializer.meta[PLACE] = value.meta[PLACE]
    value.replace_all_uses_with(initializer)
    graph.register_initializer(initializer)


def _evaluate(
    node: onnx_ir.Node, known: dict[int, _Folded], opsets: dict[str, int]
) -> list[_Folded] | None:
    """The outputs of ``node`` if they are constant and can be computed, else None."""
    if node.domain or node.op_type in _NOT_FOLDED:
        return None
    if any(subgraphs_of(attribute) for attribute in node.attributes.values()):
        return None
    if not node.inputs and node.op_type != "Constant":
        return None
    if any(value is not None and id(value) not in known for value in node.inputs):
        return None
    feeds = [None if value is None else known[id(value)].array for value in node.inputs]
    try:
        return _EVALUATORS.get(node.op_type, _evaluate_reference)(node, feeds, opsets)
    except Exception:
        return None


def _evaluate_constant(
    node: onnx_ir.Node, feeds: list[np.ndarray | None], opsets: dict[str, int]
) -> list[_Folded] | None:
    ((key, attribute),) = node.attributes.items()
    if key == "value":
        # Kept as it is, so that external data stays memory-mapped.
        tensor = attribute.as_tensor()
        return (
            None if tensor.dtype == onnx_ir.DataType.STRING else [_Folded(tensor.numpy(), tensor)]
        )
    return [_as_folded(_CONSTANT_ATTRIBUTES[key](attribute))]


def _evaluate_constant_of_shape(
    node: onnx_ir.Node, feeds: list[np.ndarray | None], opsets: dict[str, int]
) -> list[_Folded] | None:
    (shape,) = feeds
    assert shape is not None
    dims = [int(dim) for dim in shape]
    if math.prod(max(dim, 1) for dim in dims) > MAX_FOLDED_ELEMENTS:
        return None
    fill = node.attributes.get("value")
    value = np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy().reshape(1)
    return [_as_folded(np.full(dims, value[0], dtype=value.dtype))]


def _evaluate_reference(
    node: onnx_ir.Node, feeds: list[np.ndarray | None], opsets: dict[str, int]
) -> list[_Folded] | None:
    proto = onnx_ir.to_proto(node)
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    if not is_bounded(proto, feeds, opset):
        return None
    given = {
        name: array for name, array in zip(proto.input, feeds, strict=True) if array is not None
    }
    untyped = onnx.TypeProto()
    graph = onnx.helper.make_graph(
        [proto],
        "folded",
        [onnx.helper.make_value_info(name, untyped) for name in given],
        [onnx.helper.make_value_info(name, untyped) for name in proto.output],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    results = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run(
        None, given
    )
    if any(np.asarray(array).size > MAX_FOLDED_ELEMENTS for array in results):
        return None
    return [_as_folded(np.asarray(array)) for array in results]


def _as_folded(array: np.ndarray) -> _Folded:
    return _Folded(array, onnx_ir.tensor(array))


_EVALUATORS: dict[
    str,
    Callable[
        [onnx_ir.Node, list[np.ndarray | None], dict[str, int]],
        list[_Folded] | None,
    ],
] = {"Constant": _evaluate_constant, "ConstantOfShape": _evaluate_constant_of_shape}
