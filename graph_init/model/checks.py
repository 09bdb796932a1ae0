"""Checks a model file before any library reads it further.

Files come from strangers. The libraries behind this program trust what they are given: they may
fail with errors of many kinds, run for hours, take all memory, or end the process. So everything
that can be counted or compared is looked at here first, in time that grows with the file alone.
"""

from __future__ import annotations

import graphlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import onnx
import onnx.helper
import onnx_ir

from graph_init.errors import ModelFileError, printable

MAX_DEPTH = 32
"""Graphs within graphs (bodies of If, Loop and Scan)."""

MAX_RANK = 32
"""Dimensions of a tensor: NumPy 1.26 has no more."""

MAX_ELEMENTS = 2**48
"""Elements of a tensor, whatever its type: more than any machine holds."""

MAX_INLINED_NODES = 2**18
"""Nodes that a model may have once its functions are inlined."""

MAX_CALL_DEPTH = 64
"""Functions that call each other."""

#: onnx_ir tries the numbers 2, 3, … in turn for every repeated name: about 10 million a second.
_MAX_RENAMINGS = 2**26

#: Numbers that one element takes in the typed field of its tensor.
_COMPLEX = frozenset({onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})

_Place = tuple[str, ...]


def check(proto: onnx.ModelProto, label: str) -> None:
    """Raise `ModelFileError`, which names ``label`` and the place, unless ``proto`` is sound.

    Looked at: text is UTF-8; tensors have sensible shapes, and the data that their shapes say;
    names are unique; nodes come after what they read, so that there is no cycle; bodies, and
    functions' calls of each other, are not too deep, not recursive and not too many.
    """
    try:
        _check_messages(proto)
        functions = _functions(proto)
        _check_graph(proto.graph, ())
        for key, function in functions.items():
            _check_function(function, _shown_function(key))
        _check_calls(proto, functions)
    except _Refused as refused:
        raise ModelFileError(f"{label} is not a valid ONNX model: {refused}") from refused


def check_tensor(tensor: onnx.TensorProto, what: str) -> int:
    """The number of bytes that ``tensor``'s data takes; ModelFileError for impossible shapes."""
    try:
        return _data_size(tensor)
    except _Refused as refused:
        raise ModelFileError(f"{what} {refused}") from refused


class _Refused(Exception):
    """What is wrong, without the file's name."""


# -- every message -----------------------------------------------------------------------------


@cache
def _fields(descriptor: Any) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """(text fields, message fields) of a message type, each with whether it is repeated."""
    text, messages = [], []
    for field in descriptor.fields:
        repeated = getattr(field, "is_repeated", None)
        if repeated is None:  # protobuf before 6.31
            repeated = field.label == field.LABEL_REPEATED
        if field.type == field.TYPE_STRING:
            text.append((field.name, repeated))
        elif field.type == field.TYPE_MESSAGE:
            messages.append((field.name, repeated))
    return text, messages


def _check_messages(proto: onnx.ModelProto) -> None:
    """UTF-8 in every text, and what holds of single tensors, nodes and attributes."""
    pending: list[tuple[Any, _Place, int]] = [(proto, (), 0)]
    while pending:
        message, place, depth = pending.pop()
        kind = message.DESCRIPTOR
        text, messages = _fields(kind)
        for name, repeated in text:
            if not _is_text(message, name, repeated):
                raise _Refused(f"{'.'.join((*place, name))} is not UTF-8 text")
        if kind.name == "GraphProto":
            depth += 1
            if depth > MAX_DEPTH:
                raise _Refused(f"its graphs are nested more than {MAX_DEPTH} deep")
        rule = _RULES.get(kind.name)
        if rule is not None:
            rule(message, ".".join(place))
        for name, repeated in messages:
            if repeated:
                items = getattr(message, name)
                pending += [(m, (*place, f"{name}[{k}]"), depth) for k, m in enumerate(items)]
            elif message.HasField(name):
                pending.append((getattr(message, name), (*place, name), depth))


def _is_text(message: Any, name: str, repeated: bool) -> bool:
    try:
        given = list(getattr(message, name)) if repeated else [getattr(message, name)]
    except UnicodeDecodeError:  # protobuf before 5
        return False
    return all(isinstance(text, str) for text in given)  # others are given as bytes


def _check_tensor_message(tensor: onnx.TensorProto, place: str) -> None:
    what = f"tensor {_shown(tensor.name)} ({place})"
    try:
        size = _data_size(tensor)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            _check_held(tensor, size)
        elif tensor.data_type == onnx.TensorProto.STRING:
            raise _Refused("holds text in external data, which ONNX does not allow")
    except _Refused as refused:
        raise _Refused(f"{what} {refused}") from refused


def _data_size(tensor: onnx.TensorProto) -> int:
    """Bytes of the data; for text, the number of texts."""
    dims = list(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise _Refused(f"has the negative dimension {min(dims)}")
    if len(dims) > MAX_RANK:
        raise _Refused(f"has {len(dims)} dimensions, more than {MAX_RANK}")
    # A tensor of no elements may still have dimensions that overflow together.
    if math.prod(max(dim, 1) for dim in dims) > MAX_ELEMENTS:
        raise _Refused(f"has an impossibly large shape {dims}")
    elements: int = math.prod(dims)
    try:
        kind = onnx_ir.DataType(tensor.data_type)
    except ValueError as error:
        raise _Refused(f"has the unknown element type {tensor.data_type}") from error
    if kind == onnx_ir.DataType.UNDEFINED:
        raise _Refused("has no element type")
    if kind == onnx_ir.DataType.STRING:
        return elements
    return math.ceil(elements * int(kind.bitwidth) / 8)


def _check_held(tensor: onnx.TensorProto, size: int) -> None:
    """Whether a tensor that holds its data holds as much as its shape says."""
    kind = tensor.data_type
    if kind == onnx.TensorProto.STRING:
        held, wanted, unit = len(tensor.string_data), size, "texts"
    elif tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), size, "bytes"
    else:
        elements = math.prod(tensor.dims)
        bits = int(onnx_ir.DataType(kind).bitwidth)
        wanted = 2 * elements if kind in _COMPLEX else elements
        if bits < 8:
            wanted = size  # packed, a byte in each number
        try:
            held = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(kind)))
        except (KeyError, ValueError) as error:
            raise _Refused(f"has an element type ({kind}) that onnx does not know") from error
        unit = "numbers"
    if held != wanted:
        raise _Refused(f"holds {held} {unit}, but its shape {list(tensor.dims)} needs {wanted}")


def _check_sparse(sparse: onnx.SparseTensorProto, place: str) -> None:
    what = f"sparse tensor {_shown(sparse.values.name)} ({place})"
    dims, values, indices = list(sparse.dims), sparse.values, sparse.indices
    for part in (values, indices):
        if part.data_location == onnx.TensorProto.EXTERNAL:
            # Others would look for it in the working folder.
            raise _Refused(f"{what} has external data, which cannot be read; store it in the model")
    if not dims or any(dim < 0 for dim in dims) or len(dims) > MAX_RANK:
        raise _Refused(f"{what} has the shape {dims}")
    if math.prod(max(dim, 1) for dim in dims) > MAX_DENSE_ELEMENTS:
        raise _Refused(
            f"{what} has {math.prod(dims)} elements, more than the {MAX_DENSE_ELEMENTS} that are "
            "made dense; store it dense"
        )
    count = math.prod(values.dims)
    if list(indices.dims) not in ([count], [count, len(dims)]):
        raise _Refused(f"{what} has {count} values and indices of shape {list(indices.dims)}")
    if indices.data_type != onnx.TensorProto.INT64:
        raise _Refused(f"{what} has indices that are not int64")


MAX_DENSE_ELEMENTS = 2**28
"""Elements of a sparse tensor, which is made dense."""


def _check_node(node: onnx.NodeProto, place: str) -> None:
    if not node.op_type:
        raise _Refused(f"node {_shown(node.name)} ({place}) names no operator")
    repeated = _repeated(a.name for a in node.attribute)
    if repeated is not None:
        raise _Refused(f"node {_shown(node.name)} ({place}) has attribute {_shown(repeated)} twice")


_RULES: dict[str, Callable[[Any, str], None]] = {
    "TensorProto": _check_tensor_message,
    "SparseTensorProto": _check_sparse,
    "NodeProto": _check_node,
}


# -- names and order ---------------------------------------------------------------------------


def _check_graph(graph: onnx.GraphProto, outer: tuple[set[str], ...]) -> None:
    """Names are given once in a scope, and read after they are given."""
    where = f"graph {_shown(graph.name)}"
    inputs = [v.name for v in graph.input]
    stored = [t.name for t in graph.initializer]
    stored += [s.values.name for s in graph.sparse_initializer]
    for names, kind in ((inputs, "input"), (stored, "initializer")):
        repeated = _repeated(names)
        if repeated is not None:
            raise _Refused(f"{where} has two {kind}s named {_shown(repeated)}")
        if "" in names:
            raise _Refused(f"{where} has an {kind} without a name")
    known = {*inputs, *stored}
    _check_nodes(graph.node, known, outer, where)
    for output in graph.output:
        if output.name not in known and not any(output.name in names for names in outer):
            raise _Refused(f"nothing produces output {_shown(output.name)} of {where}")


def _check_function(function: onnx.FunctionProto, shown: str) -> None:
    repeated = _repeated(function.input)
    if repeated is not None:
        raise _Refused(f"function {shown} has two inputs named {_shown(repeated)}")
    known = set(function.input)
    _check_nodes(function.node, known, (), f"function {shown}")
    for output in function.output:
        if output not in known:
            raise _Refused(f"nothing produces output {_shown(output)} of function {shown}")


def _check_nodes(
    nodes: Iterable[onnx.NodeProto], known: set[str], outer: tuple[set[str], ...], where: str
) -> None:
    """Adds what the nodes produce to ``known``."""
    nodes = list(nodes)
    for node in nodes:
        for name in node.input:
            if name and name not in known and not any(name in names for names in outer):
                later = any(name in other.output for other in nodes)
                raise _Refused(
                    f"node {_label(node)} reads {_shown(name)}, which "
                    + (
                        "is produced only later: the graph has a cycle or is not sorted"
                        if later
                        else "nothing produces"
                    )
                )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_graph(attribute.g, (*outer, known))
            for graph in attribute.graphs:
                _check_graph(graph, (*outer, known))
        for name in node.output:
            if name in known:
                raise _Refused(f"{where} has two values named {_shown(name)}: node {_label(node)}")
            if name:
                known.add(name)


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


# -- functions ---------------------------------------------------------------------------------

_Key = tuple[str, str, str]


def _key(message: Any, name: str) -> _Key:
    domain = "" if message.domain == "ai.onnx" else message.domain
    return domain, name, getattr(message, "overload", "")  # onnx 1.16 brought overloads


def _functions(proto: onnx.ModelProto) -> dict[_Key, onnx.FunctionProto]:
    keys = [_key(function, function.name) for function in proto.functions]
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise _Refused(f"function {_shown_function(twice)} is defined twice")
    return dict(zip(keys, proto.functions, strict=True))


def _check_calls(proto: onnx.ModelProto, functions: dict[_Key, onnx.FunctionProto]) -> None:
    """No function calls itself, and what they are inlined to is not too much."""
    if not functions:
        return
    bodies = {key: list(_all_nodes(f.node)) for key, f in functions.items()}
    calls = {
        key: Counter(k for node in nodes if (k := _key(node, node.op_type)) in functions)
        for key, nodes in bodies.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        chain = " → ".join(_shown_function(key) for key in error.args[1])
        raise _Refused(f"its functions call themselves: {chain}") from error
    nodes_of: dict[_Key, int] = {}
    depth: dict[_Key, int] = {}
    for key in order:  # those that are called come first
        inner = calls[key]
        depth[key] = 1 + max((depth[k] for k in inner), default=0)
        nodes_of[key] = len(bodies[key]) + sum(nodes_of[k] * n for k, n in inner.items())
        if depth[key] > MAX_CALL_DEPTH:
            raise _Refused(f"its functions call each other more than {MAX_CALL_DEPTH} deep")
    main = Counter(
        k for node in _all_nodes(proto.graph.node) if (k := _key(node, node.op_type)) in functions
    )
    total = sum(nodes_of[k] * n for k, n in main.items())
    largest = max(total, *nodes_of.values())
    if largest > MAX_INLINED_NODES:
        raise _Refused(
            f"its functions expand to {largest:.3g} nodes, more than {MAX_INLINED_NODES}"
        )
    times = Counter(main)
    for key in reversed(order):
        for callee, n in calls[key].items():
            times[callee] += n * times[key]
    copies: Counter[tuple[bool, str]] = Counter()
    for key, nodes in bodies.items():
        for node in nodes:
            # The names that onnx_ir gives to what has none.
            copies[True, node.name or "node"] += max(times[key], 1)
            for output in node.output:
                copies[False, output or "val"] += max(times[key], 1)
    if sum(n * n // 2 for n in copies.values()) > _MAX_RENAMINGS:
        (_, name), n = copies.most_common(1)[0]
        raise _Refused(
            f"its functions repeat the name {_shown(name)} {n} times, which takes too long to "
            "inline; inline the functions before (onnx.inliner.inline_local_functions)"
        )


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    pending = [nodes]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending += [graph.node for graph in attribute.graphs]


# -- words -------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    return f"'{printable(name)}'"


def _label(node: onnx.NodeProto) -> str:
    name = node.name or (node.output[0] if node.output else "")
    return f"{_shown(name)} ({printable(node.op_type)})"


def _shown_function(key: _Key) -> str:
    domain, name, overload = key
    return printable(":".join(filter(None, (f"{domain}.{name}" if domain else name, overload))))
