"""Reads a model from a file or from memory into a normalised working copy for the analysis."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx_ir.passes import common as passes

from graph_init.errors import GraphInitError, ModelFileError, UnsupportedModelError, printable
from graph_init.files import opening
from graph_init.model.bodies import lift_weights
from graph_init.model.checks import check
from graph_init.model.constants import fold_constants, subgraphs_of
from graph_init.model.external_data import check_external, is_external, tensors
from graph_init.model.opened_data import DataFolder, bind, renamed
from graph_init.model.places import note_places
from graph_init.model.protobuf_limits import MAX_MESSAGE, check_field_count


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
    #: Signatures that were found, by what was asked for.
    solved: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    #: What is fed where branches stand in the place of their Ifs: it decides which.
    fed: Any = field(default=None, repr=False, compare=False)
    #: The data files in ``base_dir``, open since they were checked; None without a folder.
    data: DataFolder | None = field(default=None, repr=False, compare=False)

    def data_path(self, location: str) -> Path:
        """Where the external data at ``location`` lies."""
        return self.data_files.path / location

    @property
    def data_files(self) -> DataFolder:
        """``data``, of a model that has external data."""
        assert self.data is not None  # load refuses external data without a folder
        return self.data

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
    label = "the model in memory" if path is None else printable(str(path))
    if not proto.graph.node:
        raise ModelFileError(f"{label} is not a valid ONNX model: its graph has no nodes")
    check(proto, label)
    data = None if base_dir is None else DataFolder(base_dir)
    check_external(proto, data, label)
    _check_valid(proto, label)
    try:
        ir = normalise(proto, data)
    except GraphInitError:
        raise
    except MemoryError as error:
        raise UnsupportedModelError(f"there is not enough memory to read {label}") from error
    except Exception as error:
        # onnx_ir raises many kinds of error for what the checker lets through.
        reason = printable(f"{type(error).__name__}: {error}")
        raise ModelFileError(f"{label} cannot be read as an ONNX model: {reason}") from error
    return LoadedModel(proto, path, ir, base_dir, data=data)


def densify(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The dense tensor of the same name, dtype and shape as ``sparse``."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dims = tuple(sparse.dims)
    dense = np.zeros(dims, dtype=values.dtype)
    # Indices are either linear, shape [n], or coordinates, shape [n, rank].
    limit = dims if indices.ndim == 2 else (math.prod(dims),)
    if ((indices < 0) | (indices >= limit)).any():
        raise ModelFileError(
            f"sparse tensor {sparse.values.name!r} has indices outside of its shape {list(dims)}"
        )
    place = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dims)
    dense[place] = values
    tensor = onnx.numpy_helper.from_array(dense, sparse.values.name)
    tensor.data_type = sparse.values.data_type
    return tensor


def _read(path: Path) -> onnx.ModelProto:
    label = printable(str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"cannot read model {label}: it is a folder; name the file in it")
        if status.st_size > MAX_MESSAGE:
            raise ModelFileError(
                f"{label} has {status.st_size / 2**30:.1f} GiB; an ONNX file holds at most 2 GiB, "
                "and larger models keep their weights in external data"
            )
        content = opening.read(path, MAX_MESSAGE)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"cannot read model {label}: {reason}") from error
    except MemoryError as error:
        raise UnsupportedModelError(f"there is not enough memory to read {label}") from error
    check_field_count(content, label)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(
            f"{label} is not a valid ONNX model (truncated, or another kind of file): "
            f"{printable(str(error))}"
        ) from error
    except MemoryError as error:
        raise UnsupportedModelError(f"there is not enough memory to read {label}") from error
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
    if checked.ir_version == 3:
        # There every initializer has to be an input as well; runtimes do not insist on it.
        checked.ir_version = 4
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
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        # ValueError: UnicodeDecodeError, where its message quotes what is no text.
        # Its message quotes the model; the first line says what is wrong.
        words = printable(str(error).strip().partition("\n")[0])
        raise ModelFileError(f"{label} is not valid ONNX: {words}{_if_newer(proto)}") from error


def _if_newer(proto: onnx.ModelProto) -> str:
    """What helps where a model is of a later standard than the installed onnx knows."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if proto.ir_version <= onnx.IR_VERSION and opset <= onnx.defs.onnx_opset_version():
        return ""
    return (
        f". It is of a later version of ONNX (IR {proto.ir_version}, opset {opset}) than onnx "
        f"{onnx.__version__} knows: pip install --upgrade onnx"
    )


def normalise(proto: onnx.ModelProto, data: DataFolder | None) -> onnx_ir.Model:
    """A copy of ``proto`` to work on; see :class:`LoadedModel`."""
    proto = _without_maps(_without_sparse(proto))
    model: onnx_ir.Model = onnx_ir.from_proto(proto)
    if model.functions:
        passes.InlinePass()(model)
    else:
        note_places(model.graph)
    passes.RemoveInitializersFromInputsPass()(model)
    if data is not None:
        bind(model.graph, data)
    _name_everything(model.graph)
    lift_weights(model.graph)
    fold_constants(model)
    return model


def _without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` itself, or a copy in which no value is declared a map: onnx_ir does not read them.

    Maps are what ZipMap gives; without a type they are values like others that are no tensors.
    """
    if not any(map(_is_map, [*proto.graph.output, *proto.graph.value_info])):
        return proto
    untyped = onnx.ModelProto()
    untyped.CopyFrom(proto)
    for value in filter(_is_map, [*untyped.graph.output, *untyped.graph.value_info]):
        value.ClearField("type")
    return untyped


def _is_map(value: onnx.ValueInfoProto) -> bool:
    kind = value.type
    while kind.HasField("sequence_type"):
        kind = kind.sequence_type.elem_type
    return bool(kind.HasField("map_type"))


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
            tensor, value.const_value = value.const_value, None
            value.name = name
            # The tensor is a message of the user's model, which keeps its name.
            value.const_value = None if tensor is None else renamed(tensor, name)

    seen: set[int] = set()
    subgraphs = [
        sub
        for node in nodes
        for attribute in node.attributes.values()
        for sub in subgraphs_of(attribute)
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
