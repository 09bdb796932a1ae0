"""The sizes that a model's inputs leave open, and what each of them is taken for at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graph_init.model.reading import stored

#: What an open size is at first, by what it seems to be.
SUGGESTED: Mapping[str, int] = {"rows": 16, "pixels": 64, "samples": 16_000, "steps": 32}
_WORDS: Mapping[str, str] = {
    "rows": "the rows of a batch",
    "pixels": "a side of an image",
    "samples": "the samples of a signal",
    "steps": "a sequence, or another size",
}

#: Names that say nothing, so that two axes of this name may differ.
_NAMELESS = frozenset({"", "?", "None", "-1", "0", "unk", "unknown"})

#: Nodes between an input and the layer that shows what it is.
_ON_THE_WAY = frozenset(
    "Unsqueeze Squeeze Reshape Pad Cast Identity Transpose Sub Div Mul Add BatchNormalization "
    "Concat Slice QuantizeLinear DequantizeLinear".split()
)
_IMAGE_CHANNELS = frozenset({1, 3, 4})


@dataclass
class Unknown:
    """One size. ``places`` are the input axes that it is; ``fixed``: by an option or by data."""

    name: str
    kind: str
    size: int
    reason: str
    places: list[tuple[str, int]] = field(default_factory=list)
    fixed: bool = False
    solved: bool = False

    def set(self, size: int, reason: str, *, fixed: bool = False) -> None:
        self.size, self.reason, self.fixed = size, reason, fixed


def declared(value: ir.Value) -> list[int | str | None]:
    """The sizes that an input declares; numbers below 1 are sizes that are left open."""
    if value.shape is None:
        return []
    sizes = [d if isinstance(d, int) else d.value for d in value.shape]
    return [None if isinstance(d, int) and d < 1 else d for d in sizes]


def key(value: ir.Value, axis: int, size: int | str | None) -> str:
    """The name under which an open size is known, and ``--dim`` gives it."""
    plain = str(size) if isinstance(size, str) else ""
    return f"{value.name}[{axis}]" if plain in _NAMELESS else plain


def unknowns(inputs: Sequence[ir.Value]) -> dict[str, Unknown]:
    """The open sizes of ``inputs``, by name. A name that is an axis 0 anywhere counts rows."""
    found: dict[str, Unknown] = {}
    for value in inputs:
        for axis, size in enumerate(declared(value)):
            if isinstance(size, int):
                continue
            name = key(value, axis, size)
            kind = "rows" if axis == 0 else _kind(value, axis)
            entry = found.setdefault(name, Unknown(name, kind, SUGGESTED[kind], ""))
            if kind == "rows" or entry.kind == "steps":
                entry.kind, entry.size = kind, SUGGESTED[kind]
            entry.places.append((value.name or "", axis))
            entry.reason = f"the default for {_WORDS[entry.kind]}"
    return found


def _kind(value: ir.Value, axis: int) -> str:
    """What an axis other than the first seems to count."""
    sizes = declared(value)
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    if not is_float:
        return "steps"
    if len(sizes) == 4:
        channels = {k for k in (1, 3) if sizes[k] in _IMAGE_CHANNELS or sizes[k] is None}
        first = 1 if 1 in channels or not channels else 3
        if axis != first:
            return "pixels"
    if len(sizes) in (2, 3) and axis == len(sizes) - 1 and _meets_convolution(value):
        return "samples"
    return "steps"


def _meets_convolution(value: ir.Value) -> bool:
    """Whether the first layer is a convolution along one axis that reads one channel."""
    pending, seen = [value], set[int]()
    while pending:
        at = pending.pop()
        for node, slot in at.uses():
            if id(node) in seen or len(seen) > 64:
                continue
            seen.add(id(node))
            if node.op_type in ("STFT", "DFT"):
                return True
            if node.op_type == "Conv" and slot == 0:
                kernel = stored(node.inputs[1])
                return kernel is not None and len(kernel.shape) == 3 and kernel.shape[1] == 1
            if node.op_type in _ON_THE_WAY:
                pending.extend(node.outputs)
    return False
