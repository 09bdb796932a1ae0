"""Tensors whose bytes lie in files beside the model: where, and whether they are there."""

from __future__ import annotations

import ntpath
import posixpath
from collections.abc import Iterator
from typing import Any

import onnx

from graph_init.errors import ModelFileError, printable
from graph_init.files import opening
from graph_init.model.checks import check_tensor
from graph_init.model.opened_data import DataFolder


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of ``proto``: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the bytes of ``tensor`` are in a file beside the model."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_entry(tensor: onnx.TensorProto, key: str) -> str | None:
    """The value that ``tensor``'s external-data description has for ``key``, None if absent."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), None)


def set_entry(tensor: onnx.TensorProto, key: str, value: str) -> None:
    """Let the external-data description of ``tensor`` have this value for this key."""
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def drop_entry(tensor: onnx.TensorProto, key: str) -> None:
    """Take the entries of this key out of the external-data description of ``tensor``."""
    for entry in [entry for entry in tensor.external_data if entry.key == key]:
        tensor.external_data.remove(entry)


def external_size(tensor: onnx.TensorProto) -> int:
    """Number of bytes of an external ``tensor``, which its shape says."""
    return check_tensor(tensor, f"tensor {tensor.name!r}")


def check_external(proto: onnx.ModelProto, data: DataFolder | None, label: str) -> None:
    """Raise ModelFileError unless every data file is inside ``data`` and has what it should.

    The files are open from then on, so that those that are checked here are those that are read.
    """
    sizes: dict[str, int] = {}
    for tensor in filter(is_external, tensors(proto)):
        entries = [entry.key for entry in tensor.external_data]
        location = external_entry(tensor, "location") or ""
        what = f"{label}: external data of tensor '{printable(tensor.name)}'"
        if len(set(entries)) < len(entries):
            raise ModelFileError(f"{what} has two entries of one key: {printable(str(entries))}")
        if data is None:
            raise ModelFileError(
                f"{what} is in file '{printable(location)}', but the folder is unknown for a model "
                "in memory; give the path of the model file, or load the data into the model"
            )
        if location not in sizes:
            sizes[location] = _data_file_size(location, data, what)
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
                f"{data.path / printable(location)}, which has {sizes[location]} bytes (truncated?)"
            )


def _number(tensor: onnx.TensorProto, key: str, default: int, what: str) -> int:
    """An offset or length: decimal digits alone, since readers differ in what else they take."""
    text = external_entry(tensor, key)
    if text is None or (text == "" and key == "offset"):
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelFileError(f"{what} has the malformed {key} '{printable(text)}'")
    return int(text)


def _data_file_size(location: str, data: DataFolder, what: str) -> int:
    normal = posixpath.normpath(location.replace("\\", "/"))
    absolute = posixpath.isabs(normal) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]
    shown = printable(location)
    if not location or absolute or normal == ".." or normal.startswith("../") or "\0" in location:
        raise ModelFileError(
            f"{what} has location '{shown}', which is not inside the model's folder {data.path}"
        )
    if posixpath.basename(location) in ("", "."):
        raise ModelFileError(f"{what}: {data.path / shown} is not a regular file")
    try:
        size, names = data.size(location), data.names(location)
    except FileNotFoundError as error:
        raise ModelFileError(f"{what}: data file {data.path / shown} is missing") from error
    except opening.OutsideError as error:
        # A link, at whichever part of the path, escapes as "../" does.
        raise ModelFileError(
            f"{what}: data file {data.path / shown} is a link to {printable(error.filename)}, "
            "outside of the model's folder; replace the link by a copy of the file"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(
            f"{what}: cannot read {data.path / shown}: {printable(reason)}"
        ) from error
    if names > 1:
        # The other name may be that of a file outside, which is not the model's to read.
        raise ModelFileError(
            f"{what}: data file {data.path / shown} has {names} names (hard links), and the others "
            "may be outside of the model's folder; replace it by a copy of the file"
        )
    return size


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
