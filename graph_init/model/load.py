"""From a model file (or an in-memory model) to a normalised, analysable working copy."""

from __future__ import annotations

import hashlib
import math
import ntpath
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx_ir.passes import common as passes

from graph_init.errors import GraphInitError, ModelFileError, UnsupportedModelError, printable
from graph_init.model.checks import check, check_tensor
from graph_init.model.constants import fold_constants, subgraphs_of
from graph_init.model.protobuf_limits import check_wire

_MAX_MESSAGE = 2**31 - 1
"""Bytes that protobuf reads at once."""


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
    #: Data files that are still needed when their names have gone: an open file by location.
    _kept: dict[str, IO[bytes]] = field(default_factory=dict, repr=False, compare=False)

    def data_path(self, location: str) -> Path:
        """Where the external data at ``location`` lies."""
        assert self.base_dir is not None  # load refuses external data without a folder
        return self.base_dir / location

    def open_data(self, location: str) -> IO[bytes]:
        """The external data at ``location``, from its start."""
        if location not in self._kept:
            return self.data_path(location).open("rb")
        stream = os.fdopen(os.dup(self._kept[location].fileno()), "rb")
        stream.seek(0)
        return stream

    def keep(self, location: str) -> None:
        """What is at ``location`` now can be read even after it has been removed or replaced."""
        if location not in self._kept:
            self._kept[location] = self.data_path(location).open("rb")

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
    _check_external(proto, base_dir, label)
    _check_valid(proto, label)
    try:
        ir = _normalise(proto, base_dir)
    except GraphInitError:
        raise
    except MemoryError as error:
        raise UnsupportedModelError(f"there is not enough memory to read {label}") from error
    except Exception as error:
        # onnx_ir raises many kinds of error for what the checker lets through.
        reason = printable(f"{type(error).__name__}: {error}")
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
    """Number of bytes of an external ``tensor``, which its shape says."""
    return check_tensor(tensor, f"tensor {tensor.name!r}")


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
        # What has no end, or waits for somebody to write, is never read.
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"cannot read model {label}: it is a folder; name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"cannot read model {label}: it is not a regular file")
        if status.st_size > _MAX_MESSAGE:
            raise ModelFileError(
                f"{label} has {status.st_size / 2**30:.1f} GiB; an ONNX file holds at most 2 GiB, "
                "and larger models keep their weights in external data"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"cannot read model {label}: {reason}") from error
    except MemoryError as error:
        raise UnsupportedModelError(f"there is not enough memory to read {label}") from error
    check_wire(content, label)
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
        entries = [entry.key for entry in tensor.external_data]
        location = external_entry(tensor, "location") or ""
        what = f"{label}: external data of tensor '{printable(tensor.name)}'"
        if len(set(entries)) < len(entries):
            raise ModelFileError(f"{what} has two entries of one key: {printable(str(entries))}")
        if base_dir is None:
            raise ModelFileError(
                f"{what} is in file '{printable(location)}', but the folder is unknown for a model "
                "in memory; give the path of the model file, or load the data into the model"
            )
        if location not in sizes:
            sizes[location] = _data_file_size(location, base_dir, what)
        start = _number(tensor, "offset", 0, what)
        size = external_size(tensor)
        length = _number(tensor, "length", size, what)
        if length != size:
            raise ModelFileError(
                f"{what} has the length {length}, but its shape {list(tensor.dims)} needs {size} "
                "bytes"
            )
        if start + length > sizes[location]:
            raise ModelFileError(
                f"{what}: bytes {start} to {start + length} are outside of data file "
                f"{base_dir / printable(location)}, which has {sizes[location]} bytes (truncated?)"
            )


def _number(tensor: onnx.TensorProto, key: str, default: int, what: str) -> int:
    """An offset or length: decimal digits alone, since readers differ in what else they take."""
    text = external_entry(tensor, key)
    if text is None or (text == "" and key == "offset"):
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelFileError(f"{what} has the malformed {key} '{printable(text)}'")
    return int(text)


def _data_file_size(location: str, base_dir: Path, what: str) -> int:
    normal = posixpath.normpath(location.replace("\\", "/"))
    absolute = posixpath.isabs(normal) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]
    shown = printable(location)
    if not location or absolute or normal == ".." or normal.startswith("../") or "\0" in location:
        raise ModelFileError(
            f"{what} has location '{shown}', which is not inside the model's folder {base_dir}"
        )
    data_path = base_dir / location
    try:
        # A link that leads out of the folder, at whichever part of the path, escapes as "../" does.
        real, folder = data_path.resolve(), base_dir.resolve()
        if not real.is_relative_to(folder):
            raise ModelFileError(
                f"{what}: data file {base_dir / shown} is a link to {printable(str(real))}, "
                "outside "
                "of the model's folder; replace the link by a copy of the file"
            )
        if not data_path.exists():
            raise ModelFileError(f"{what}: data file {base_dir / shown} is missing")
        if not data_path.is_file() or posixpath.basename(location) in ("", "."):
            raise ModelFileError(f"{what}: {base_dir / shown} is not a regular file")
        with data_path.open("rb"):
            return data_path.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"{what}: cannot read {base_dir / shown}: {reason}") from error


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


def _normalise(proto: onnx.ModelProto, base_dir: Path | None) -> onnx_ir.Model:
    proto = _without_sparse(proto)
    model: onnx_ir.Model = onnx_ir.from_proto(proto)
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    if base_dir is not None:
        onnx_ir.external_data.set_base_dir(model.graph, base_dir)
    _name_everything(model.graph)
    fold_constants(model)
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
