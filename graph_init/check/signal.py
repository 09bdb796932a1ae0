"""The forward signal, layer by layer: one forward pass with a few numbers taken of every layer.

The numbers are reductions inside the graph, so that no activation leaves the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import onnx

from graph_init.analysis import Parameter
from graph_init.analysis.kinds import LINEAR
from graph_init.engine import memory
from graph_init.engine.session import open_session
from graph_init.ir import Array, Builder, Value, variance
from graph_init.problem.passes import GraphPass, LoweredNode
from graph_init.problem.workload import Workload

T = TypeVar("T")

_LAYERS = LINEAR | {"DeformConv", "LSTM", "GRU", "RNN", "Gather", "Attention"}
#: A unit of these is dead where it gives zero, and of those saturated where it is at its limit.
_RECTIFIERS = frozenset({"Relu", "ThresholdedRelu"})
_LIMITED: Mapping[str, tuple[float, float]] = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}
#: So near to its limit an activation counts as saturated, as a share of its range.
_AT_LIMIT = 0.01
#: Axis 1 of what these make counts channels; of other layers it is the last one.
_CHANNELS_FIRST = frozenset({"Conv", "FusedConv", "ConvTranspose", "DeformConv"})
_NAN = float("nan")


@dataclass(frozen=True)
class LayerSignal:
    """What a layer gives on a batch.

    Attributes:
        tensor: the weight, or the table, of the layer.
        node: its name, or ``Op:output`` where it has none.
        operator: its operator type.
        std: standard deviation of its output over all elements.
        mean: their mean.
        across: standard deviation across the rows of the batch, averaged over the places of a row:
            what depends on the input. NaN where the output has no rows.
        bias: root mean square of the layer's bias; 0 without one.
    """

    tensor: str
    node: str
    operator: str
    std: float = _NAN
    mean: float = _NAN
    across: float = _NAN
    bias: float = 0.0


@dataclass(frozen=True)
class UnitSignal:
    """What an activation gives: the share of its units that are dead, or of elements at a limit.

    ``tensor`` is the weight of the layer before it.
    """

    tensor: str
    node: str
    operator: str
    dead: float = 0.0
    saturated: float = 0.0


@dataclass(frozen=True)
class AttentionSignal:
    """A softmax inside the network: E[Σ a²] over its rows, 1 where they are one-hot."""

    node: str
    size: int
    concentration: float = _NAN


@dataclass(frozen=True)
class StatisticSignal:
    """What a batch norm normalises by, and what it gets: means over the channels of variances."""

    tensor: str
    node: str
    stored: float = _NAN
    measured: float = _NAN


@dataclass(frozen=True)
class SumSignal:
    """A sum of two branches, a place of the residual stream, after so many ``layers``."""

    node: str
    layers: int
    std: float = _NAN


@dataclass(frozen=True)
class OutputSignal:
    """The output that the loss reads; its numbers are those of a layer."""

    size: int
    std: float = _NAN
    mean: float = _NAN
    across: float = _NAN


@dataclass(frozen=True)
class Signal:
    """The profile, each kind in the order of the graph."""

    layers: Sequence[LayerSignal]
    units: Sequence[UnitSignal]
    attentions: Sequence[AttentionSignal]
    statistics: Sequence[StatisticSignal]
    sums: Sequence[SumSignal]
    output: OutputSignal


#: Of a model without a forward pass.
NO_SIGNAL = Signal(
    layers=(), units=(), attentions=(), statistics=(), sums=(), output=OutputSignal(0)
)


@dataclass(frozen=True)
class _Record:
    """What will be made of these scalars of the graph, by the names that ``make`` takes."""

    make: Callable[..., Any]
    scalars: Mapping[str, Value]


class Profiler(GraphPass):
    """Takes numbers of layers, activations, softmaxes, batch norms and sums while lowering.

    It needs what the analyzer says of the parameters, and leaves the graph as it is. ``records``
    holds what was looked at, in the order of the graph.
    """

    def __init__(self, parameters: Sequence[Parameter], rows: int) -> None:
        """``rows``: those of the batch."""
        self._parameters = {p.name: p for p in parameters}
        self._rows = rows
        #: By name of a value: the weight that it is a view of; the weight of the layer that it
        #: comes from, with the axis of the layer's channels.
        self._views: dict[str, str] = {}
        self._origins: dict[str, tuple[str, int]] = {}
        self.records: list[_Record] = []
        self._layers = 0  # that multiply

    def after(self, lowered: LoweredNode) -> None:
        node, values = lowered.node, lowered.values
        out = values.get(node.output[0]) if node.output else None
        if out is None or not out.is_float or not out.shape:
            return
        weights = [w for i in node.input if (w := self._weight(i))]
        data = any(
            (v := values.get(i)) is not None
            and v.const is None
            and i not in self._parameters
            and i not in self._views
            for i in node.input
        )
        if weights and not data:
            self._views |= dict.fromkeys(node.output, weights[0])
        elif weights and node.op_type in _LAYERS:
            self._layer(node, lowered, out, weights[0])
        else:
            self._other(node, lowered, out)

    def _weight(self, name: str) -> str:
        p = self._parameters.get(name)
        is_weight = p is not None and p.trainable and len(p.shape) > 1
        return name if is_weight else self._views.get(name, "")

    def _layer(self, node: onnx.NodeProto, lowered: LoweredNode, out: Value, tensor: str) -> None:
        op, b = node.op_type, lowered.builder
        self._layers += op != "Gather"
        scalars = moments(b, out, self._rows)
        bias = lowered.values.get(node.input[2]) if op in LINEAR and len(node.input) > 2 else None
        if bias is not None and bias.is_float and op != "Einsum":
            scalars["bias"] = _mean(b, b.mul(bias, bias))
        make = partial(LayerSignal, tensor, _label(node), op)
        self.records.append(_Record(make, scalars))
        self._follow(node, tensor, 1 if op in _CHANNELS_FIRST else out.rank - 1)

    def _follow(self, node: onnx.NodeProto, tensor: str, axis: int) -> None:
        self._origins |= dict.fromkeys(node.output, (tensor, axis))

    def _other(self, node: onnx.NodeProto, lowered: LoweredNode, out: Value) -> None:
        op, b = node.op_type, lowered.builder
        origin = next((self._origins[i] for i in node.input if i in self._origins), None)
        if op in _RECTIFIERS and origin is not None:
            axes = [a for a in range(out.rank) if a != min(origin[1], out.rank - 1)]
            level = b.mean(b.op("Abs", out), axes) if axes else b.op("Abs", out)
            dead = b.cast(b.op("Less", level, b.scalar(1e-30, level)), out.dtype)
            make = partial(UnitSignal, origin[0], _label(node), op)
            self.records.append(_Record(make, {"dead": _mean(b, dead)}))
        elif op in _LIMITED and origin is not None:
            low, high = _LIMITED[op]
            edge = _AT_LIMIT * (high - low)
            ends = (
                b.op("Greater", out, b.scalar(high - edge, out)),
                b.op("Less", out, b.scalar(low + edge, out)),
            )
            share = b.add(*(_mean(b, b.cast(end, out.dtype)) for end in ends))
            make = partial(UnitSignal, origin[0], _label(node), op)
            self.records.append(_Record(make, {"saturated": share}))
        elif op == "Softmax" and out.rank >= 3:
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1) % out.rank
            made = partial(AttentionSignal, _label(node), out.dims[axis])
            rows = b.sum(b.mul(out, out), [axis])
            self.records.append(_Record(made, {"concentration": _mean(b, rows)}))
        elif op == "BatchNormalization":
            self._batch_norm(node, lowered)
        elif op == "Add" and self._is_sum(node, lowered.values, out):
            sum_of = partial(SumSignal, _label(node), self._layers)
            self.records.append(_Record(sum_of, {"std": moments(b, out, 1)["std"]}))
        if origin is not None:
            self._follow(node, *origin)

    def _is_sum(self, node: onnx.NodeProto, values: Mapping[str, Value | None], out: Value) -> bool:
        """Whether two branches of the network meet."""
        return all(
            (v := values.get(i)) is not None
            and v.const is None
            and v.shape == out.shape
            and i not in self._parameters
            and i not in self._views
            for i in node.input
        )

    def _batch_norm(self, node: onnx.NodeProto, lowered: LoweredNode) -> None:
        b = lowered.builder
        x, stored = (lowered.values.get(node.input[k]) for k in (0, 4))
        if x is None or stored is None or x.rank < 2:
            return
        make = partial(StatisticSignal, node.input[4], _label(node))
        measured = variance(b, x, [a for a in range(x.rank) if a != 1])
        scalars = {"stored": _mean(b, stored), "measured": _mean(b, measured)}
        self.records.append(_Record(make, scalars))


def _label(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type}:{node.output[0]}"


def _mean(b: Builder, value: Value) -> Value:
    return b.mean(value, list(range(value.rank)), keepdims=False) if value.rank else value


def moments(b: Builder, out: Value, rows: int) -> dict[str, Value]:
    """Scalars for ``std`` and ``across``, of which these are the squares, and ``mean``."""
    axes = list(range(out.rank))
    found = {"std": variance(b, out, axes, keepdims=False), "mean": _mean(b, out)}
    if rows > 1 and out.dims[0] == rows:
        found["across"] = _mean(b, variance(b, out, [0]))
    return found


#: Of these the graph gives the square.
_SQUARES = frozenset({"std", "across", "bias"})


def signal(
    workload: Workload, parameters: Sequence[Parameter], values: Mapping[str, Array]
) -> Signal:
    """The profile at ``values`` on the first batch to report on, or its first slice.

    Raises MemoryLimitError if the pass does not fit.
    """
    rows = workload.problem.batch_size
    profiler = Profiler(parameters, rows)
    problem = workload.rebuild(profiler)
    b, prediction = problem.builder, problem.objective.terms[0].prediction
    output = _Record(
        partial(OutputSignal, prediction.size),
        moments(b, prediction, rows) if prediction.rank else {},
    )
    records = [*profiler.records, output]
    wanted = _computable(b, records, {v.name for v in problem.inputs} | set(problem.fed))
    program = b.program(list({id(v): v for v in wanted.values()}.values()))
    memory.require(
        memory.estimate(program.peak, 0), workload.options.memory_limit, [memory.FEWER_ROWS]
    )
    session = open_session(program, workload.engine)
    batch = next(workload.layout.slices(workload.source.report.batch(0)))
    own = {p.name: values[p.name] for p in problem.parameters}
    with np.errstate(all="ignore"):
        found = session({**problem.fed, **own, **batch})
    numbers = {key: float(found[v.name]) for key, v in wanted.items()}
    made = [_made(record, k, numbers) for k, record in enumerate(records)]
    return Signal(
        layers=_of(LayerSignal, made),
        units=_of(UnitSignal, made),
        attentions=_of(AttentionSignal, made),
        statistics=_of(StatisticSignal, made),
        sums=_of(SumSignal, made),
        output=_of(OutputSignal, made)[0],
    )


def _computable(
    b: Builder, records: Sequence[_Record], known: set[str]
) -> dict[tuple[int, str], Value]:
    """By place and name the scalars to compute, of which batches have all inputs."""
    strange = {id(v) for v in b.inputs if not v.requires_grad and v.name not in known}
    for node in b.nodes if strange else ():
        if any(v is not None and id(v) in strange for v in node.inputs):
            strange.update(id(v) for v in node.outputs if v is not None)
    return {
        (place, name): value
        for place, record in enumerate(records)
        for name, value in record.scalars.items()
        if value.const is None and id(value) not in strange
    }


def _made(record: _Record, place: int, numbers: Mapping[tuple[int, str], float]) -> Any:
    own = {}
    for name, value in record.scalars.items():
        number = numbers.get((place, name))
        if number is None and value.const is not None:
            number = float(np.asarray(value.const).reshape(-1)[0])
        if number is not None:
            own[name] = math.sqrt(max(number, 0.0)) if name in _SQUARES else number
    return record.make(**own)


def _of(kind: type[T], made: Sequence[Any]) -> list[T]:
    return [x for x in made if isinstance(x, kind)]
