"""Writing the user's own model back with only chosen tensors' values changed, atomically."""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from graph_init.errors import GraphInitError, NumericalError, OutputError, UsageError
from graph_init.model.load import (
    LoadedModel,
    densify,
    external_entry,
    external_size,
    is_external,
    tensors,
)
from graph_init.model.locations import safe_location
from graph_init.output import targets
from graph_init.output.transaction import Staged, Transaction

NewValue = np.ndarray | Callable[[], np.ndarray]

# Changes left to do in external tensors, by `_key`; holding the message keeps its key valid.
_Pending = dict[int, tuple[onnx.TensorProto, NewValue]]

_MAX_FILE = 1 << 31  # bytes of a serialized model: protobuf's limit
_MIN_IR_VERSION = 4  # before it, every initializer has to be a graph input as well
_ALIGNMENT = 4096  # of data appended to an external file, so that it can be memory-mapped


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
    old = [path for path in _data_files(target) or () if _is_own(path, target)]
    at = target
    try:
        with Transaction() as transaction:
            staged = _stage_external(loaded, proto, pending, target, transaction)
            for at, content in others.items():
                with transaction.file(at) as stream:
                    stream.write(content)
            at = target
            if staged:
                transaction.lock(target.parent)
                _place_external(loaded, proto, pending, target, transaction, staged, own_data)
            with transaction.file(target) as stream:
                stream.write(_serialized(proto, target))
    except OSError as error:
        what = "model" if at == target else "file"
        raise OutputError(f"cannot write {what} {at}: {error.strerror or error}") from error
    left = {path.resolve() for path in old} - {p.resolve() for p in _data_files(target) or ()}
    return [path for path in old if path.resolve() in left and path.exists()]


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
        change = pending.get(_key(tensor))
        if change is None:
            raw = _read_external(loaded, tensor)
        else:
            raw = _raw_bytes(_cast(tensor, change[1]))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw
    return proto


def _edited(
    loaded: LoadedModel, new_values: Mapping[str, NewValue], metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, _Pending]:
    """A changed copy of the model, and the changes left to do in external tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(loaded.proto)
    sites = _Sites(proto.graph)
    if not all(name in sites for name in new_values):
        # The name exists only in a function body: the inlined model has to be written.
        proto = onnx_ir.to_proto(loaded.ir)
        sites = _Sites(proto.graph)
    pending: _Pending = {}
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
            _set_attribute(name, tensor, value)
        elif is_external(tensor):
            pending[_key(tensor)] = (tensor, value)
        else:
            _set_tensor(tensor, value, name)
    sites.drop_replaced_nodes()
    _merge_metadata(proto, metadata)
    return proto, pending


class _Sites:
    """Where in ``graph`` each named constant is: initializer, Constant attribute or other node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._initializers: dict[str, onnx.TensorProto] = {
            tensor.name: tensor for tensor in graph.initializer
        }
        self._sparse = {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._replaced: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._initializers or name in self._sparse or name in self._producers

    def tensor(self, name: str) -> onnx.TensorProto | onnx.AttributeProto | None:
        """What holds the value of ``name``; None if it is computed by a node."""
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
        return attribute if attribute.name in _SCALAR_ATTRIBUTES else None

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


# Attribute of Constant -> its field, whether the field is a list, numpy dtype.
_SCALAR_ATTRIBUTES: dict[str, tuple[str, bool, Any]] = {
    "value_float": ("f", False, np.float32),
    "value_floats": ("floats", True, np.float32),
    "value_int": ("i", False, np.int64),
    "value_ints": ("ints", True, np.int64),
}


def _set_attribute(name: str, attribute: onnx.AttributeProto, value: NewValue) -> None:
    field, is_list, dtype = _SCALAR_ATTRIBUTES[attribute.name]
    shape = (len(getattr(attribute, field)),) if is_list else ()
    array = _checked(value, shape, np.dtype(dtype), name)
    if is_list:
        getattr(attribute, field)[:] = array.tolist()
    else:
        setattr(attribute, field, array.item())


def _key(tensor: onnx.TensorProto) -> int:
    """Identity of a tensor of one proto, for as long as its message is referred to.

    Names may be missing or repeated in attributes, so the message itself is the key; protobuf
    gives the same Python object for the same message while that object lives.
    """
    return id(tensor)


def _checked(value: NewValue, shape: tuple[int, ...], dtype: Any, name: str) -> np.ndarray:
    array = np.asarray(value() if callable(value) else value)
    if array.shape != shape:
        raise UsageError(
            f"new value of tensor {name!r} has shape {list(array.shape)}, not {list(shape)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array.astype(dtype)).reshape(shape)
    # Only a narrower dtype can overflow.
    narrower = result.dtype.itemsize < array.dtype.itemsize and result.dtype.kind not in "iub"
    lost = np.isfinite(array) & ~np.isfinite(result) if narrower else np.zeros(0, bool)
    if lost.any():
        raise NumericalError(
            f"new value of tensor {name!r} does not fit in {np.dtype(dtype).name}: "
            f"{int(lost.sum())} of {lost.size} elements would become infinite"
        )
    return result


def _cast(tensor: onnx.TensorProto, value: NewValue, name: str = "") -> np.ndarray:
    dtype = onnx_ir.DataType(tensor.data_type).numpy()
    return _checked(value, tuple(tensor.dims), dtype, name or tensor.name)


def _raw_bytes(array: np.ndarray) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.isbuiltin == 1 else array
    return little.tobytes()


def _set_tensor(tensor: onnx.TensorProto, value: NewValue, name: str) -> None:
    """Store ``value`` in the field of ``tensor`` that holds its data now."""
    array = _cast(tensor, value, name)
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    if tensor.HasField("raw_data") or not len(getattr(tensor, field)):
        tensor.raw_data = _raw_bytes(array)
        return
    if field == "int32_data" and array.dtype.kind not in "iub":
        # float16, bfloat16 and float8 are stored as their bit patterns.
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    getattr(tensor, field)[:] = array.ravel().tolist()


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


def _read_external(loaded: LoadedModel, tensor: onnx.TensorProto) -> bytes:
    with loaded.open_data(external_entry(tensor, "location") or "") as stream:
        stream.seek(int(external_entry(tensor, "offset") or 0))
        return stream.read(external_size(tensor))


def _by_file(loaded: LoadedModel, proto: onnx.ModelProto) -> dict[str, list[onnx.TensorProto]]:
    """The tensors in each data file, by its first location.

    A model may spell the location of one file in many ways, and each would become a copy.
    """
    spelled: dict[Path, str] = {}
    groups: dict[str, list[onnx.TensorProto]] = {}
    for tensor in filter(is_external, tensors(proto)):
        location = external_entry(tensor, "location") or ""
        first = spelled.setdefault(loaded.data_path(location).resolve(), location)
        groups.setdefault(first, []).append(tensor)
    return groups


def _stage_external(
    loaded: LoadedModel,
    proto: onnx.ModelProto,
    pending: _Pending,
    target: Path,
    transaction: Transaction,
) -> dict[str, Staged]:
    """Copy each data file to its folder beside ``target`` with the pending changes made."""
    result = {}
    for location, members in _by_file(loaded, proto).items():
        folder = (target.parent / safe_location(location, target.parent)).parent
        transaction.make_folder(folder)
        with transaction.stage(folder) as (stream, staged):
            with loaded.open_data(location) as original:
                shutil.copyfileobj(original, stream, 1 << 22)
            aliased = _overlapping(members)
            for tensor in members:
                if _key(tensor) in pending:
                    raw = _raw_bytes(_cast(tensor, pending[_key(tensor)][1]))
                    offset = int(external_entry(tensor, "offset") or 0)
                    if _key(tensor) in aliased:
                        # Another tensor shares these bytes and has to keep its value.
                        end = stream.seek(0, os.SEEK_END)
                        offset = math.ceil(end / _ALIGNMENT) * _ALIGNMENT
                        stream.write(bytes(offset - end))
                        _set_entry(tensor, "offset", str(offset))
                    stream.seek(offset)
                    stream.write(raw)
        result[location] = staged
    return result


def _place_external(
    loaded: LoadedModel,
    proto: onnx.ModelProto,
    pending: _Pending,
    target: Path,
    transaction: Transaction,
    staged: Mapping[str, Staged],
    own_data: bool,
) -> None:
    """Give the data files names that nobody has, and let the tensors refer to these."""
    taken = {target.name}
    for location, members in _by_file(loaded, proto).items():
        chosen = _choose_location(safe_location(location, target.parent), target, taken, own_data)
        taken.add(chosen)
        staged[location].is_data = True
        transaction.name(staged[location], target.parent / chosen)
        changed = any(_key(tensor) in pending for tensor in members)
        for tensor in members:
            if chosen != external_entry(tensor, "location"):
                _set_entry(tensor, "location", chosen)
            if changed:
                _drop_entry(tensor, "checksum")
    in_use = {loaded.data_path(location).resolve(): location for location in staged}
    for path in transaction.data_of(target):
        if path.resolve() in in_use:  # its name goes, and the input may be read once more
            loaded.keep(in_use[path.resolve()])


def _overlapping(members: list[onnx.TensorProto]) -> set[int]:
    """Keys of the tensors whose bytes in the data file another tensor uses too."""
    spans = sorted(
        (start, start + external_size(tensor), _key(tensor))
        for tensor in members
        for start in [int(external_entry(tensor, "offset") or 0)]
    )
    result: set[int] = set()
    furthest, holder = -1, -1
    for start, end, key in spans:
        if start < furthest and start < end:
            result |= {key, holder}
        if end > furthest:
            furthest, holder = end, key
    return result


def _set_entry(tensor: onnx.TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def _drop_entry(tensor: onnx.TensorProto, key: str) -> None:
    for entry in [entry for entry in tensor.external_data if entry.key == key]:
        tensor.external_data.remove(entry)


def _data_files(model: Path) -> list[Path] | None:
    """The files inside its folder that a model refers to; None if it is not a model."""
    proto = onnx.ModelProto()
    try:
        status = model.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size >= _MAX_FILE:
            return None
        proto.ParseFromString(model.read_bytes())
        folder = model.parent.resolve()
        found = {
            folder / (external_entry(t, "location") or "") for t in tensors(proto) if is_external(t)
        }
        return [p for p in sorted(found) if p.is_file() and p.resolve().is_relative_to(folder)]
    except (OSError, DecodeError, TypeError, ValueError):
        return None  # not a model, or one that nobody could have read: text that is no text, say


def _stem(target: Path) -> str:
    """What its data files are called after: a location is text, which a file's name need not be."""
    return re.sub("[\ud800-\udfff]", "_", target.stem)


def _own_name(name: str, target: Path) -> re.Match[str] | None:
    """``stem.name.bin`` and ``stem.name.2.bin`` are of ``stem.onnx``."""
    pattern = rf"{re.escape(_stem(target))}\.(?P<name>.+?)(\.\d+)?(?P<suffix>\.[^.]*)?$"
    return re.match(pattern, name, re.DOTALL)


def _is_own(path: Path, target: Path) -> bool:
    """Whether a data file that the model ``target`` refers to belongs to it alone, by its name."""
    return path != target and _own_name(path.name, target) is not None


def _choose_location(location: str, target: Path, taken: set[str], own_data: bool) -> str:
    """A location in ``target``'s folder that no file has: what is there is never replaced."""
    original = PurePosixPath(location)
    stem = _stem(target)
    # Saving in place again and again must not make the name longer each time.
    own = _own_name(original.name, target)
    base = PurePosixPath(own["name"] + (own["suffix"] or "") if own else original.name)
    free = location not in taken and not os.path.lexists(target.parent / location)
    if not own and not own_data and free:
        return location
    suffix = 0
    while True:
        number = f".{suffix}" if suffix else ""
        candidate = str(original.with_name(f"{stem}.{base.stem}{number}{base.suffix}"))
        if candidate not in taken and not os.path.lexists(target.parent / candidate):
            return candidate
        suffix += 1
