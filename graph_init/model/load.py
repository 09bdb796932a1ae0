"""From a model file (or an in-memory model) to a normalised, analysable working copy."""

from __future__ import annotations

import hashlib
import itertools
import math
import ntpath
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common as passes

from graph_init.errors import ModelFileError

MAX_FOLDED_ELEMENTS = 2**28
"""Largest number of elements that a computed weight may have to be folded."""

_NOT_FOLDED = frozenset(
    ["Bernoulli", "Dropout", "Multinomial", "OptionalHasElement"]
    + ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


@dataclass(frozen=True)
class LoadedModel:
    """A model as its owner wrote it, together with a normalised copy to work on.

    ``proto`` keeps external data outside and is never changed. In ``ir`` functions are inlined,
    computed weights are initializers, initializers are not graph inputs, and every node and
    value has a unique non-empty name. ``base_dir`` is the folder of the external data.
    """

    proto: onnx.ModelProto
    path: Path | None
    ir: onnx_ir.Model
    base_dir: Path | None = None

    def digest(self) -> str:
        """Hexadecimal SHA-256 of the serialized ``proto`` (external data files not included)."""
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()


def load(
    source: str | os.PathLike[str] | onnx.ModelProto | onnx_ir.Model | LoadedModel,
) -> LoadedModel:
    """Read ``source`` and normalise a copy of it.

    A `LoadedModel` is returned as it is. Raises `ModelFileError` with the path and the reason if
    the file (or a data file it refers to) is missing, unreadable or not valid ONNX.
    """
    if isinstance(source, LoadedModel):
        return source
    path: Path | None = None
    base_dir: Path | None = None
    if isinstance(source, onnx.ModelProto):
        # A copy, because the caller may go on editing the model.
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
    elif isinstance(source, onnx_ir.Model):
        base_dir = _ir_base_dir(source)
        proto = onnx_ir.to_proto(source)
    else:
        path = Path(source)
        base_dir = path.parent
        proto = _read(path)
    label = "the model in memory" if path is None else str(path)
    if not proto.graph.node:
        raise ModelFileError(f"{label} is not a valid ONNX model: its graph has no nodes")
    _check_external(proto, base_dir, label)
    _check_valid(proto, label)
    try:
        ir = _normalise(proto, base_dir)
    except ModelFileError:
        raise
    except Exception as error:
        # onnx_ir raises many kinds of error for what the checker lets through.
        reason = f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{label} cannot be read as an ONNX model: {reason}") from error
    return LoadedModel(proto, path, ir, base_dir)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of ``proto``: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def external_entry(tensor: onnx.TensorProto, key: str) -> str | None:
    """The value that ``tensor``'s external-data description has for ``key``, None if absent."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), None)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the bytes of ``tensor`` are in a file beside the model."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_size(tensor: onnx.TensorProto) -> int:
    """Number of bytes of an external ``tensor`` (its `length`, else computed from its shape)."""
    length = external_entry(tensor, "length")
    if length is not None:
        return int(length)
    bits = int(onnx_ir.DataType(tensor.data_type).bitwidth)
    return math.ceil(math.prod(int(dim) for dim in tensor.dims) * bits / 8)


def densify(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The dense tensor of the same name, dtype and shape as ``sparse``."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dims = tuple(sparse.dims)
    dense = np.zeros(dims, dtype=values.dtype)
    # Indices are either linear, shape [n], or coordinates, shape [n, rank].
    place = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dims)
    dense[place] = values
    tensor = onnx.numpy_helper.from_array(dense, sparse.values.name)
    tensor.data_type = sparse.values.data_type
    return tensor


def _read(path: Path) -> onnx.ModelProto:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"cannot read model {path}: {reason}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a valid ONNX model (truncated, or another kind of file): {error}"
        ) from error
    return proto


def _ir_base_dir(model: onnx_ir.Model) -> Path | None:
    folders = {
        Path(value.const_value.base_dir)
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, onnx_ir.ExternalTensor)
    }
    if len(folders) > 1:
        names = ", ".join(sorted(map(str, folders)))
        raise ModelFileError(
            f"the model in memory has external data in several folders ({names}); "
            "save it to one file first and give the path"
        )
    return next(iter(folders), None)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR or attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def _check_external(proto: onnx.ModelProto, base_dir: Path | None, label: str) -> None:
    sizes: dict[str, int] = {}
    for tensor in filter(is_external, tensors(proto)):
        location = external_entry(tensor, "location") or ""
        what = f"{label}: external data of tensor {tensor.name!r}"
        if base_dir is None:
            raise ModelFileError(
                f"{what} is in file {location!r}, but the folder is unknown for a model in "
                "memory; give the path of the model file, or load the data into the model"
            )
        if location not in sizes:
            sizes[location] = _data_file_size(location, base_dir, what)
        try:
            start = int(external_entry(tensor, "offset") or 0)
            end = start + external_size(tensor)
        except ValueError as error:
            raise ModelFileError(f"{what} has a malformed offset or length: {error}") from error
        if start < 0 or end < start or end > sizes[location]:
            raise ModelFileError(
                f"{what}: bytes {start} to {end} are outside of data file "
                f"{base_dir / location}, which has {sizes[location]} bytes (truncated?)"
            )


def _data_file_size(location: str, base_dir: Path, what: str) -> int:
    normal = posixpath.normpath(location.replace("\\", "/"))
    absolute = posixpath.isabs(normal) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]
    if not location or absolute or normal == ".." or normal.startswith("../"):
        raise ModelFileError(
            f"{what} has location {location!r}, which is not inside the model's folder {base_dir}"
        )
    data_path = base_dir / location
    if not data_path.is_file():
        raise ModelFileError(f"{what}: data file {data_path} is missing")
    # A link that leads out of the folder escapes just as "../" does.
    if not data_path.resolve().is_relative_to(base_dir.resolve()):
        raise ModelFileError(
            f"{what}: data file {data_path} is a link to {data_path.resolve()}, outside of the "
            "model's folder; replace the link by a copy of the file"
        )
    try:
        with data_path.open("rb"):
            return data_path.stat().st_size
    except OSError as error:
        raise ModelFileError(f"{what}: cannot read {data_path}: {error.strerror}") from error


def _check_valid(proto: onnx.ModelProto, label: str) -> None:
    """Run the ONNX checker, on a copy in which external initializers are graph inputs.

    The checker itself would look for the data files (already checked) in the working folder, and
    refuses hard and symbolic links.
    """
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    external = [tensor for tensor in checked.graph.initializer if is_external(tensor)]
    inputs = {value.name for value in checked.graph.input}
    for tensor in external:
        if tensor.name not in inputs:
            checked.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        checked.graph.initializer.remove(tensor)
    for value in [*checked.graph.input, *checked.graph.output]:
        # Runtimes accept an unknown rank; the checker insists on the field.
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    imported = {entry.domain for entry in checked.opset_import}
    # Nodes of unknown domains are legal; runtimes do not insist on the import either.
    used = {node.domain for node in checked.graph.node}
    for domain in sorted(used - imported - {"", "ai.onnx"}):
        checked.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    if any(map(is_external, tensors(checked))):
        return
    try:
        serialized = checked.SerializeToString()
    except (EncodeError, ValueError):
        return  # over 2 GiB in memory: the checker takes no more than protobuf does
    try:
        onnx.checker.check_model(serialized)
    except onnx.checker.ValidationError as error:
        raise ModelFileError(f"{label} is not valid ONNX: {error}") from error


def _normalise(proto: onnx.ModelProto, base_dir: Path | None) -> onnx_ir.Model:
    proto = _without_sparse(proto)
    model: onnx_ir.Model = onnx_ir.from_proto(proto)
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    if base_dir is not None:
        onnx_ir.external_data.set_base_dir(model.graph, base_dir)
    _name_everything(model.graph)
    _fold_constants(model)
    return model


def _without_sparse(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` itself, or a copy with dense tensors: onnx_ir does not read sparse ones."""
    bodies = [proto.graph.node, *(function.node for function in proto.functions)]
    if not proto.graph.sparse_initializer and not any(map(_sparse_attributes, bodies)):
        return proto
    dense = onnx.ModelProto()
    dense.CopyFrom(proto)
    dense.graph.initializer.extend(map(densify, dense.graph.sparse_initializer))
    del dense.graph.sparse_initializer[:]
    for body in [dense.graph.node, *(function.node for function in dense.functions)]:
        for attribute in _sparse_attributes(body):
            tensor = densify(attribute.sparse_tensor)
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
    return dense


def _sparse_attributes(nodes: Any) -> list[onnx.AttributeProto]:
    return [
        attribute
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "sparse_value"
    ]


def _name_everything(graph: onnx_ir.Graph) -> None:
    """Give each node and value of ``graph`` and its subgraphs a unique non-empty name.

    Values of the outermost graph are visited first, so that they keep their names.
    """
    node_names: set[str] = set()
    value_names: set[str] = set()
    nodes = list(graph.all_nodes())
    # Names met later must not be taken by a generated one.
    reserved = {node.name for node in nodes} | {v.name for node in nodes for v in node.outputs}
    counter = iter(range(2**62))

    def unique(name: str | None, prefix: str, used: set[str]) -> str:
        while not name or name in used:
            name = f"{prefix}_{next(counter)}"
            name = None if name in reserved else name
        used.add(name)
        return name

    def name_value(value: onnx_ir.Value, prefix: str) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        name = unique(value.name, prefix, value_names)
        if name != value.name:
            value.name = name

    seen: set[int] = set()
    subgraphs = [
        sub
        for node in nodes
        for attribute in node.attributes.values()
        for sub in _subgraphs_of(attribute)
    ]
    for scope in [graph, *subgraphs]:
        for value in [*scope.inputs, *scope.initializers.values()]:
            name_value(value, "value")
        for node in scope:
            node.name = unique(node.name, node.op_type, node_names)
            # A trailing omitted output, once named, would become a computed one.
            used_outputs = len(node.outputs)
            while used_outputs > 1 and not node.outputs[used_outputs - 1].name:
                used_outputs -= 1
            if used_outputs < len(node.outputs):
                node.resize_outputs(used_outputs)
            for value in node.outputs:
                name_value(value, f"{node.name}_output")


def _subgraphs_of(attribute: onnx_ir.Attr) -> list[onnx_ir.Graph]:
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

#: Operators that only hold or arrange numbers; a weight may well come out of them.
_HOLDERS = frozenset(
    "Constant ConstantOfShape Identity Cast Reshape Transpose Unsqueeze Squeeze Flatten".split()
)


@dataclass
class _Folded:
    """What a folded value is: ``tensor`` holds its data, ``array`` is the same as numpy.

    ``computed_by`` names the operators, other than holders, that made it of constants.
    """

    array: np.ndarray
    tensor: Any
    computed_by: tuple[str, ...] = ()


def _fold_constants(model: onnx_ir.Model) -> None:
    """Turn values that depend on constants only into initializers of the same name.

    A node is folded if all its inputs are folded values or integer, boolean or string
    initializers: a float initializer is a parameter, and what is computed from it is not constant.
    """
    graph = model.graph
    outputs = {id(value) for value in graph.outputs}
    known: dict[int, _Folded] = {}
    folded: list[onnx_ir.Node] = []
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and not tensor.dtype.is_floating_point():
            known[id(value)] = _Folded(tensor.numpy(), tensor)
    for node in list(graph):
        if any(id(value) in outputs for value in node.outputs):
            continue
        results = _evaluate(node, known, model.opset_imports)
        if results is not None:
            history = [known[id(v)].computed_by for v in node.inputs if v is not None]
            made = () if node.op_type in _HOLDERS else (node.op_type,)
            names = tuple(dict.fromkeys((*itertools.chain(*history), *made)))
            for value, result in zip(node.outputs, results, strict=True):
                known[id(value)] = replace(result, computed_by=names)
            folded.append(node)
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
    tensor = _renamed(tensor, name)
    initializer = onnx_ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    initializer.meta[COMPUTED_BY] = folded.computed_by
    value.replace_all_uses_with(initializer)
    graph.register_initializer(initializer)


def _renamed(tensor: Any, name: str | None) -> Any:
    """A tensor of the same data called ``name``.

    Always a new object: several copies of a function body share one, and a tensor that wraps a
    message of the user's model would write the name into that model.
    """
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return onnx_ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=name or "",
            base_dir=tensor.base_dir,
        )
    return onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=name)


def _evaluate(
    node: onnx_ir.Node, known: dict[int, _Folded], opsets: dict[str, int]
) -> list[_Folded] | None:
    """The outputs of ``node`` if they are constant and can be computed, else None."""
    if node.domain or node.op_type in _NOT_FOLDED:
        return None
    if any(_subgraphs_of(attribute) for attribute in node.attributes.values()):
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
    if math.prod(dims) > MAX_FOLDED_ELEMENTS:
        return None
    fill = node.attributes.get("value")
    value = np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy().reshape(1)
    return [_as_folded(np.full(dims, value[0], dtype=value.dtype))]


def _evaluate_reference(
    node: onnx_ir.Node, feeds: list[np.ndarray | None], opsets: dict[str, int]
) -> list[_Folded] | None:
    if _result_size(node.op_type, feeds) > MAX_FOLDED_ELEMENTS:
        return None
    proto = onnx_ir.to_proto(node)
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
    imports = [onnx.helper.make_opsetid("", opsets.get("", opsets.get("ai.onnx", 1)))]
    results = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run(
        None, given
    )
    if any(np.asarray(array).size > MAX_FOLDED_ELEMENTS for array in results):
        return None
    return [_as_folded(np.asarray(array)) for array in results]


def _result_size(op_type: str, feeds: list[np.ndarray | None]) -> int:
    """Elements that the result will have at least, for operators that enlarge their input."""
    sizes: dict[str, Callable[[np.ndarray, np.ndarray], int]] = {
        "Expand": lambda data, shape: math.prod(int(dim) for dim in shape),
        "Tile": lambda data, repeats: data.size * math.prod(int(count) for count in repeats),
    }
    if op_type not in sizes or len(feeds) < 2 or feeds[0] is None or feeds[1] is None:
        return 0
    return sizes[op_type](feeds[0], feeds[1])


def _as_folded(array: np.ndarray) -> _Folded:
    return _Folded(array, onnx_ir.tensor(array))


_EVALUATORS: dict[
    str,
    Callable[
        [onnx_ir.Node, list[np.ndarray | None], dict[str, int]],
        list[_Folded] | None,
    ],
] = {"Constant": _evaluate_constant, "ConstantOfShape": _evaluate_constant_of_shape}
