"""A tensor of a model times a factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir

from graph_init.engine import memory
from graph_init.errors import NumericalError
from graph_init.ir import Array
from graph_init.model.load import LoadedModel

#: Element types that a factor can multiply.
SCALED_TYPES = frozenset(
    {
        onnx_ir.DataType.BFLOAT16,
        onnx_ir.DataType.DOUBLE,
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.FLOAT16,
    }
)


@dataclass(frozen=True)
class Scaled:
    """``factor`` × a tensor, computed when it is written: in float64, rounded once to its type."""

    loaded: LoadedModel
    name: str
    factor: float
    filled: Array | None = None

    def __call__(self) -> Array:
        tensor = self.loaded.ir.graph.initializers[self.name].const_value
        assert tensor is not None
        source = tensor.numpy()
        base = source if self.filled is None else self.filled
        with np.errstate(over="ignore"):
            new = (base.astype(np.float64) * self.factor).astype(source.dtype)
        memory.release(source)
        # An element may not become infinite, nor all of them zero.
        lost = np.isfinite(base) & ~np.isfinite(new)
        if lost.any() or (base.any() and not new.any()):
            raise NumericalError(
                f"'{self.name}' times {self.factor:g} does not fit {source.dtype}; nothing was "
                "written. Use a wider type for the model"
            )
        return new
