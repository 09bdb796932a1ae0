"""Writing the user's own model back with only chosen tensors' values changed, atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx.helper
import onnx_ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from graph_init.errors import GraphInitError, OutputError, UsageError
from graph_init.model.data_files import (
    Pending,
    own_data_files,
    place,
    read_external,
    stage,
    tensor_key,
)
from graph_init.model.external_data import external_entry, is_external, tensors
from graph_init.model.load import LoadedModel, densify
from graph_init.model.new_values import (
    SCALAR_ATTRIBUTES,
    NewValue,
    cast,
    raw_bytes,
    set_attribute,
    set_tensor,
)
from graph_init.model.places import Place, graph_at, places
from graph_init.output import targets
from graph_init.output.transaction import Transaction

__all__ = ["NewValue", "save", "with_values"]

_MIN_IR_VERSION = 4  # before it, every initializer has to be a graph input as well


def save(
    loaded: LoadedModel,
    new_values: Mapping[str, NewValue],
    out: str | os.PathLike[str],
    metadata: Mapping[str, str] = {},
    beside: Sequence[tuple[str | os.PathLike[str], bytes]] = (),
    *,
    own_data: bool = False,
) -> list[Path]:
    """Write the model of ``loaded`` to ``out`` with the tensors of ``new_values`` replaced.

    ``beside`` are more files, by path, that take effect together with the model, just before it.

    Keys are names of values in ``loaded.ir``; arrays have the tensor's shape and are cast to its
    dtype; a callable is called when its tensor is written. ``metadata`` is merged into the
    model's metadata. External data is streamed to files beside ``out`` that have new names, so that
    one rename makes the new model of the old one; then the data files go that this program has
    written for the old one. They have their own names where these are free and ``own_data`` does
    not ask for names that begin with the model's.

    Returns the old model's other data files of such names, to which the new one does not refer:
    they stay.

    Raises `UsageError` (no such folder, unknown name, wrong shape), `NumericalError` (a value
    does not fit in the dtype), `OutputError` (not writable) or `GraphInitError` (over 2 GiB in one
    file).
    """
    target = _checked_target(loaded, out)
    targets.require_distinct(name for name, _ in beside)
    others = {targets.file(name): content for name, content in beside}
    for path in others:
        if path == target or (loaded.path is not None and targets.same(path, loaded.path)):
            raise UsageError(f"{path} cannot be written: it is the model itself")
    proto, pending = _edited(loaded, new_values, metadata)
    if any(map(is_external, tensors(proto))) and targets.moves(out):
        raise UsageError(
            f"output {out} is a link to {target}, and the model's external data would be looked "
            f"for beside the link; give {target} instead"
        )
    old = own_data_files(target)
    at = target
    try:
        with Transaction() as transaction:
            staged = stage(loaded, proto, pending, target=target, transaction=transaction)
            for at, content in others.items():
                with transaction.file(at) as stream:
                    stream.write(content)
            at = target
            if staged:
                transaction.lock(target.parent)
                place(
                    loaded,
                    proto,
                    pending,
                    target=target,
                    transaction=transaction,
                    staged=staged,
                    own_data=own_data,
                )
            with transaction.file(target) as stream:
                stream.write(_serialized(proto, target))
    except OSError as error:
        what = "model" if at == target else "file"
        raise OutputError(f"cannot write {what} {at}: {error.strerror or error}") from error
    left = set(old) - set(own_data_files(target))
    return [path for path in old if path in left and path.exists()]


def _checked_target(loaded: LoadedModel, out: str | os.PathLike[str]) -> Path:
    target = targets.file(out)
    for tensor in filter(is_external, tensors(loaded.proto)):
        if targets.same(target, loaded.data_path(external_entry(tensor, "location") or "")):
            raise UsageError(f"output {out} holds the input's external data; give another name")
    return target


def with_values(
    loaded: LoadedModel, new_values: Mapping[str, NewValue], metadata: Mapping[str, str] = {}
) -> onnx.ModelProto:
    """As `save`, but the model is returned, with external data embedded."""
    proto, pending = _edited(loaded, new_values, metadata)
    for tensor in filter(is_external, list(tensors(proto))):
        change = pending.get(tensor_key(tensor))
        if change is None:
            raw = read_external(loaded, tensor)
        else:
            raw = raw_bytes(cast(tensor, change[1]))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw
    return proto


def _edited(
    loaded: LoadedModel, new_values: Mapping[str, NewValue], metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, Pending]:
    """A changed copy of the model, and the changes left to do in external tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(loaded.proto)
    sites = _Sites(proto.graph, places(loaded.ir.graph))
    if not all(name in sites for name in new_values):
        # The name exists only in a function body: the inlined model has to be written.
        proto = onnx_ir.to_proto(loaded.ir)
        sites = _Sites(proto.graph)
    pending: Pending = {}
    for name, value in new_values.items():
        if name not in sites:
            raise UsageError(f"the model has no initializer or constant named {name!r}")
        tensor = sites.tensor(name)
        if tensor is None:
            original = loaded.ir.graph.initializers.get(name)
            if original is None or original.const_value is None:
                raise UsageError(f"value {name!r} is not a constant of the model")
            tensor = sites.add_initializer(
                name, int(original.const_value.dtype), tuple(original.const_value.shape.numpy())
            )
            proto.ir_version = max(proto.ir_version, _MIN_IR_VERSION)
        if isinstance(tensor, onnx.AttributeProto):
            set_attribute(name, tensor, value)
        elif is_external(tensor):
            pending[tensor_key(tensor)] = (tensor, value)
        else:
            set_tensor(tensor, value, name)
    sites.drop_replaced_nodes()
    _merge_metadata(proto, metadata)
    return proto, pending


class _Sites:
    """Where in ``graph`` each named constant is: initializer, Constant attribute or other node."""

    def __init__(self, graph: onnx.GraphProto, inside: Mapping[str, Place] = {}) -> None:
        self._graph = graph
        self._inside = {n: (place, _Sites(graph_at(graph, place))) for n, place in inside.items()}
        self._initializers: dict[str, onnx.TensorProto] = {
            tensor.name: tensor for tensor in graph.initializer
        }
        self._sparse = {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._replaced: set[str] = set()

    def __contains__(self, name: str) -> bool:
        here = (self._initializers, self._sparse, self._producers, self._inside)
        return any(name in found for found in here)

    def tensor(self, name: str) -> onnx.TensorProto | onnx.AttributeProto | None:
        """What holds the value of ``name``; None if it is computed by a node."""
        if name in self._inside:
            place, sites = self._inside[name]
            return sites.tensor(place.name)
        if name in self._initializers:
            return self._initializers[name]
        if name in self._sparse:
            sparse = self._sparse[name]
            dense: onnx.TensorProto = self._graph.initializer.add()
            dense.CopyFrom(densify(sparse))
            self._graph.sparse_initializer.remove(sparse)
            return dense
        node = self._producers[name]
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            return None
        attribute: onnx.AttributeProto = node.attribute[0]
        if attribute.name == "value":
            held: onnx.TensorProto = attribute.t
            return held
        return attribute if attribute.name in SCALAR_ATTRIBUTES else None

    def add_initializer(self, name: str, dtype: int, dims: tuple[int, ...]) -> onnx.TensorProto:
        """A new, empty initializer that takes the place of the node computing ``name``."""
        self._replaced.add(name)
        tensor: onnx.TensorProto = self._graph.initializer.add()
        tensor.name = name
        tensor.data_type = dtype
        tensor.dims.extend(dims)
        tensor.raw_data = b""
        return tensor

    def drop_replaced_nodes(self) -> None:
        """Remove the nodes whose outputs became initializers."""
        for position in reversed(range(len(self._graph.node))):
            node = self._graph.node[position]
            if self._replaced.isdisjoint(node.output):
                continue
            if any(name and name not in self._replaced for name in node.output):
                # Other outputs are still needed; this one gets a name that nobody uses.
                for place, name in enumerate(node.output):
                    if name in self._replaced:
                        node.output[place] = self._unused(f"{name}_replaced")
            else:
                del self._graph.node[position]

    def _unused(self, name: str) -> str:
        while name in self or any(name in node.input for node in self._graph.node):
            name += "_"
        return name


def _merge_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    present = {entry.key: entry for entry in proto.metadata_props}
    for key, value in metadata.items():
        if key in present:
            present[key].value = value
        else:
            proto.metadata_props.add(key=key, value=value)


def _serialized(proto: onnx.ModelProto, target: Path) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise GraphInitError(
            f"cannot write model {target}: it exceeds the 2 GiB that one ONNX file can hold; "
            "convert the input to external data first (onnx.save with save_as_external_data)"
        ) from error
