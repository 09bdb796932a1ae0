"""Estimates the size of a model quickly; the largest ones are begun first."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graph_init.errors import ModelFileError
from graph_init.files import opening
from graph_init.model.protobuf_limits import check_field_count

#: A larger file holds its weights itself, and is not read for this.
_READ = 64 << 20
#: Dimensions of a constant that is computed from a shape.
_RANK = 16


def of_file(path: Path) -> int:
    """Bytes of the weights, in the file, beside it, or made by ConstantOfShape; 0 if unreadable."""
    try:
        size = path.stat().st_size
        if size > _READ:
            return size
        content = opening.read(path, _READ)
        check_field_count(content, str(path))
        proto = onnx.ModelProto()
        proto.ParseFromString(content)
        made = {n.input[0] for n in proto.graph.node if n.op_type == "ConstantOfShape" and n.input}
        elements = 0
        for tensor in proto.graph.initializer:
            elements += math.prod(tensor.dims)
            if tensor.name in made and math.prod(tensor.dims) <= _RANK:
                elements += math.prod(int(d) for d in onnx.numpy_helper.to_array(tensor))
    except (OSError, DecodeError, ModelFileError, TypeError, ValueError):
        return 0  # the model's own process says what is wrong
    return max(size, 4 * elements)
