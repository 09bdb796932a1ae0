"""Goes through the fields of a protobuf file without parsing it: to count them, or to find some."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from typing import Any

import onnx

from graph_init.errors import ModelFileError

MAX_MESSAGE = 2**31 - 1
"""Bytes that protobuf reads at once."""

MAX_FIELDS = 2**22
"""Fields of a large file: an empty message takes 2 bytes there, and some 150 once it is parsed."""

#: Files of fewer bytes cannot take much memory, whatever is in them, and are not counted.
_SMALL = 2**24

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def check_field_count(content: bytes, label: str) -> None:
    """Raise ModelFileError if parsing ``content`` would take many times its size in memory.

    Bytes and texts are passed over, so that this takes no time for a model of large tensors. What
    is malformed is left to the parser.
    """
    if len(content) > _SMALL and _walk(content):
        raise ModelFileError(
            f"{label} consists of more than {MAX_FIELDS:,} fields, which would take many times its "
            "size in memory; store tensors as raw data"
        )


def external_locations(content: bytes | mmap.mmap) -> set[str]:
    """The files that the tensors of a serialized model name; as far as it can be read.

    Of a large model little is touched: what it holds of weights is passed over.
    """
    found = set()

    def visit(kind: Any, number: int, start: int, end: int) -> None:
        if kind is onnx.TensorProto.DESCRIPTOR and number == _EXTERNAL_DATA:
            entry = onnx.StringStringEntryProto.FromString(bytes(content[start:end]))
            if entry.key == "location":
                found.add(entry.value)

    _walk(content, visit)
    return found


_EXTERNAL_DATA = onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER


def _walk(
    content: bytes | mmap.mmap, visit: Callable[[Any, int, int, int], None] | None = None
) -> bool:
    """Whether there are more than `MAX_FIELDS` fields; no more are gone through.

    ``visit`` is called for each message within a message: with the type of the outer one, the
    number of its field, and where the inner one begins and ends.
    """
    pending: list[tuple[int, int, Any]] = [(0, len(content), onnx.ModelProto.DESCRIPTOR)]
    fields = 0
    while pending:
        at, end, kind = pending.pop()
        messages = _messages(kind)
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                return True
            tag, at = _varint(content, at, end)
            wire = tag & 7
            if not tag >> 3:
                break  # no field has the number 0: it is malformed
            if wire == _VARINT:
                _, at = _varint(content, at, end)
            elif wire == _FIXED64:
                at += 8
            elif wire == _FIXED32:
                at += 4
            elif wire == _DELIMITED:
                length, at = _varint(content, at, end)
                inner = messages.get(tag >> 3)
                if inner is not None and at + length <= end:
                    pending.append((at, at + length, inner))
                    if visit is not None:
                        visit(kind, tag >> 3, at, at + length)
                at += length
            else:
                break  # a group, which no field of ONNX is, or malformed
    return False


@cache
def _messages(kind: Any) -> dict[int, Any]:
    """Message types of those fields of ``kind`` that hold messages, by number."""
    return {f.number: f.message_type for f in kind.fields if f.type == f.TYPE_MESSAGE}


def _varint(content: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of variable length at ``at``, and where it ends; beyond ``end`` if malformed."""
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, end
