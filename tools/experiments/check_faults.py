"""Faults that are planted in a file's weights, each with the tensors that are wrong then."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graph_init.analysis import Parameter
from graph_init.analysis.kinds import TABLES, WEIGHTS

Array = Any
#: Tensors with fewer elements are left in peace.
_SMALL = 256
FACTORS = (2, 3, 5, 10)


@dataclass(frozen=True)
class Planted:
    """``values``: new ones by name; a finding at one of ``right`` has found the fault."""

    values: Mapping[str, Array]
    right: Sequence[str]
    undone: bool = False


class Model:
    """A file with what the analyzer says of its tensors."""

    def __init__(self, name: str, proto: onnx.ModelProto, parameters: Sequence[Parameter]) -> None:
        self.name = name
        self._proto = proto
        self._stored = {t.name: t for t in proto.graph.initializer}
        found = [
            p
            for p in parameters
            if p.name in self._stored
            and p.kind in WEIGHTS | TABLES
            and p.trainable
            and p.tied_to is None
            and math.prod(p.shape) >= _SMALL
            and len(p.shape) > 1
        ]
        #: The last of the layers.
        self.last = found[-1].name if found else ""
        #: Weights with a scale, in an order that their names' digests give.
        self.weights = sorted(
            (p for p in found if np.ptp(self.value(p.name))), key=lambda p: self._digest(p.name)
        )

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.name} {text}".encode()).digest()

    @property
    def layers(self) -> list[Parameter]:
        """Without tables, which have no fans."""
        return [p for p in self.weights if p.kind in WEIGHTS - {"embedding"}]

    def rng(self, text: str) -> np.random.Generator:
        return np.random.default_rng(list(self._digest(text)[:8]))

    @property
    def values(self) -> dict[str, Array]:
        """Of every initializer."""
        return {n: self.value(n) for n in self._stored}

    def value(self, name: str) -> Array:
        return numpy_helper.to_array(self._stored[name])

    def bias_of(self, p: Parameter) -> str | None:
        """The bias of the layer, by the name that PyTorch gives it."""
        name = p.name.removesuffix("weight") + "bias"
        return name if name in self._stored and name != p.name else None

    def with_values(self, values: Mapping[str, Array]) -> onnx.ModelProto:
        """A copy of the file with these."""
        new = onnx.ModelProto()
        new.CopyFrom(self._proto)
        for tensor in new.graph.initializer:
            if tensor.name in values:
                old = self._stored[tensor.name]
                kind = numpy_helper.to_array(old).dtype
                tensor.CopyFrom(
                    numpy_helper.from_array(values[tensor.name].astype(kind), tensor.name)
                )
        return new


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def _times(model: Model, p: Parameter, factor: float) -> Planted:
    return Planted({p.name: model.value(p.name) * factor}, [p.name], p.undone_by is not None)


def factor(model: Model, by: int) -> Iterator[Planted]:
    """One tensor times or divided by it; another tensor for each factor."""
    if model.weights:
        p = model.weights[FACTORS.index(by) % len(model.weights)]
        up = model.rng(f"direction {by}").random() < 0.5
        yield _times(model, p, by if up else 1 / by)


def never_written(model: Model) -> Iterator[Planted]:
    """Memory as torch.empty gives it: zeros, and some numbers that mean nothing."""
    rng = model.rng("memory")
    for p in model.weights[:1]:
        found = np.zeros(p.shape)
        places = rng.random(p.shape) < 0.3
        found[places] = 10.0 ** rng.uniform(-44, -38, places.sum())
        yield Planted({p.name: found}, [p.name])


def framework_default(model: Model) -> Iterator[Planted]:
    """A module that was forgotten: PyTorch's own draw, with a deviation of 1/√(3·fan-in)."""
    for p in model.layers:
        limit = 1 / math.sqrt(p.fan_in or p.shape[0])
        factor = limit / math.sqrt(3) / _rms(model.value(p.name))
        # Else it is what the others are, or nearly.
        if max(factor, 1 / factor) >= 2:
            drawn = model.rng("default").uniform(-limit, limit, p.shape)
            yield Planted({p.name: drawn}, [p.name], p.undone_by is not None)
            return


def ones(model: Model) -> Iterator[Planted]:
    """A tensor of ones that nobody drew."""
    for p in model.layers[:1]:
        yield Planted({p.name: np.ones(p.shape)}, [p.name])


def zeros(model: Model) -> Iterator[Planted]:
    """A layer in the middle of a plain network, with its bias: nothing passes."""
    # A head that is zero is meant so.
    for p in [p for p in model.layers if p.name != model.last][:1]:
        bias = model.bias_of(p)
        found = {p.name: np.zeros(p.shape)}
        if bias is not None:
            found[bias] = np.zeros_like(model.value(bias))
        yield Planted(found, [p.name])


def wrong_fan(model: Model) -> Iterator[Planted]:
    """Fan-out in place of fan-in."""
    for p in model.layers:
        if p.fan_in and p.fan_out and not 0.5 < p.fan_in / p.fan_out < 2:
            yield _times(model, p, math.sqrt(p.fan_in / p.fan_out))
            return


def variance(model: Model) -> Iterator[Planted]:
    """A variance that is given as a standard deviation."""
    for p in model.layers[:1]:
        yield _times(model, p, _rms(model.value(p.name)))


def same_seed(model: Model) -> Iterator[Planted]:
    """The numbers of another tensor, at this one's scale."""
    for p in model.layers:
        own = model.value(p.name)
        for q in model.layers:
            other = model.value(q.name)
            if q is not p and other.size >= own.size:
                drawn = other.reshape(-1)[: own.size].reshape(own.shape)
                scaled = drawn * (_rms(own) / _rms(drawn))
                yield Planted({p.name: scaled}, [p.name, q.name])
                return


def dead(model: Model) -> Iterator[Planted]:
    """A bias so far below zero that every rectified unit is."""
    for p in model.layers:
        bias = model.bias_of(p)
        if bias is not None and (p.gain_activation or "").lower() == "relu":
            low = np.full_like(model.value(bias), -20.0)
            yield Planted({bias: low}, [p.name, bias])
            return


def swapped(model: Model) -> Iterator[Planted]:
    """Two layers with each other's standard deviation."""
    for p in model.layers:
        for q in model.layers:
            a, b = model.value(p.name), model.value(q.name)
            if q is not p and max(_rms(a) / _rms(b), _rms(b) / _rms(a)) >= 2:
                ratio = _rms(b) / _rms(a)
                undone = p.undone_by is not None and q.undone_by is not None
                yield Planted({p.name: a * ratio, q.name: b / ratio}, [p.name, q.name], undone)
                return


Fault = Callable[[Model], Iterator[Planted]]
#: Of every model; then of those of PyTorch that are written here.
EVERY: Mapping[str, Fault] = {f"a factor of {k}": partial(factor, by=k) for k in FACTORS}
OWN: Mapping[str, Fault] = {
    "memory that was never written": never_written,
    "the framework's default in another scheme": framework_default,
    "all ones": ones,
    "all zero, in a plain network": zeros,
    "fan-out in place of fan-in": wrong_fan,
    "a variance in place of a deviation": variance,
    "a seed used twice": same_seed,
    "a dead layer": dead,
    "two layers with each other's deviation": swapped,
}
#: Zeros stop what has no way around them.
PLAIN = ("mlp", "funnel", "cnn", "autoencoder")
