"""Layer-sequential unit variance: the second half of LSUV, as one forward graph.

Mishkin and Matas, "All you need is a good init", ICLR 2016: layer after layer, the weights are
divided by the standard deviation of the layer's output on a batch, in which the layers before have
their new weights already. Here each division is part of the graph, so that one forward run gives
all factors: a layer is computed with the weights as they are, its output's std σ taken, and
computed again with the weights times 1/σ, on which the rest of the graph goes on. Biases are zero,
so that the output is linear in the weights and one division is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from graph_init.analysis import Parameter
from graph_init.analysis.kinds import LINEAR
from graph_init.engine.session import open_session
from graph_init.ir import Array, Builder, Value, variance
from graph_init.problem import output_choice
from graph_init.problem.forward_graph import Problem
from graph_init.problem.passes import GraphPass, LoweredNode
from graph_init.problem.workload import Workload

_KINDS = frozenset({"convolution kernel", "matrix"})
_LAYERS = LINEAR | {"DeformConv"}
#: Below this an output is constant, and its layer stays as it is.
_TINY = 1e-12


def factors(
    workload: Workload, parameters: Sequence[Parameter], values: Mapping[str, Array]
) -> dict[str, float]:
    """For each layer the factor on its weights that gives its output a std of 1.

    ``values`` holds every trainable parameter. The batch is the first, or its first slice.
    """
    divisions = UnitVariance(parameters)
    problem = workload.rebuild(divisions)
    wanted = reached(problem, divisions.factors)
    if not wanted:
        return {}
    session = open_session(problem.builder.program(list(wanted.values())), workload.engine)
    batch = next(workload.layout.slices(workload.source.search.batch(0)))
    found = session({**problem.fed, **values, **batch}).values()
    return {n: float(f) for n, f in zip(wanted, found, strict=True)}


def reached(problem: Problem, factors: Mapping[str, Value]) -> dict[str, Value]:
    """Those of ``factors``, scalars by tensor, whose tensors lead to the loss.

    The others lead only to outputs that it does not read; batches lack the inputs of these.
    """
    b = problem.builder
    used = set(output_choice.trainable(b, [problem.objective.loss]))
    found = {name: value for name, value in factors.items() if name in used}
    known = {v.name for v in problem.inputs} | set(problem.fed)
    strange = {id(v) for v in b.inputs if not v.requires_grad and v.name not in known}

    def fed(value: Value) -> bool:
        read = (v for node in b.needed([value]) for v in node.inputs)
        return not any(v is not None and id(v) in strange for v in read)

    # A layer may be used twice, and first for another output.
    return {n: v for n, v in found.items() if not strange or fed(v)}


class UnitVariance(GraphPass):
    """Divides each layer's weights by the standard deviation of its output.

    It needs what the analyzer says of the parameters, and biases that are zero. With ``tables``
    embeddings are layers too; ``stds`` are other ones than 1 to give, by weight. It changes
    the graph: what reads a layer reads it divided. It leaves ``factors``, a scalar for each layer
    whose weights are scalable and are not a table's too, in the order of the graph, and ``inner``,
    the names of those whose output reaches another layer. In the body of a loop a layer's factor is
    that of the first iteration, and holds for all; its output reaches itself in the next one.
    """

    inside: bool = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        tables: bool = False,
        stds: Mapping[str, float] | None = None,
    ) -> None:
        self._stds = stds or {}
        kinds = _KINDS | {"embedding"} if tables else _KINDS
        self._layers = _LAYERS | {"Gather"} if tables else _LAYERS
        self._reads_weights = {p.name for p in parameters if p.scalable}
        self._behind: dict[int, tuple[Value, frozenset[str]]] = {}
        tied = {p.tied_to for p in parameters}
        self._weights = {
            p.name
            for p in parameters
            if p.scalable and p.kind in kinds and p.tied_to is None and p.name not in tied
        }
        self._roots = {name: frozenset({name}) for name in self._weights}
        self._views: list[onnx.NodeProto] = []
        self.factors: dict[str, Value] = {}
        self.inner: set[str] = set()

    def after(self, lowered: LoweredNode) -> None:
        node, b, values = lowered.node, lowered.builder, lowered.values
        if any(a.HasField("g") for a in node.attribute):
            return  # this has gone over its nodes
        roots = frozenset[str]().union(*(self._roots.get(i, frozenset()) for i in node.input))
        if roots or self._reads_weights.intersection(node.input):
            for name in node.input:
                self.inner |= self._before(values.get(name))
            self._mark(lowered, roots)
        if not roots:
            return
        data = [
            v
            for i in node.input
            if i not in self._roots and (v := values.get(i)) is not None and v.const is None
        ]
        if not data:  # computed from weights alone
            if node.output[0] not in self._roots:
                self._views.append(node)
            for output in node.output:
                self._roots[output] = roots
            return
        waiting = roots - self.factors.keys()
        if node.op_type not in self._layers or not waiting:
            return
        output = values[node.output[0]]
        assert output is not None
        if output.size == 1:  # a single number has no standard deviation
            return
        name = min(waiting)  # a layer of two weights: the output needs dividing once
        factor = b.scale(_inverse_std(b, output), self._stds.get(name, 1.0))
        self.factors[name] = factor
        value = values[name]
        assert value is not None
        scaled = b.mul(value, factor)
        scaled.requires_grad = True
        self._behind[id(scaled)] = scaled, frozenset()  # its factor comes from an output
        values[name] = scaled
        views = [v for v in self._views if v.output[0] in values]
        lowered.lower([*(v for v in views if name in self._roots[v.output[0]]), node])
        self._mark(lowered, roots)

    def _mark(self, lowered: LoweredNode, roots: frozenset[str]) -> None:
        """Note whose outputs the outputs of a layer are."""
        for output in lowered.node.output:
            value = lowered.values.get(output)
            if value is not None:
                self._behind[id(value)] = value, roots

    def _before(self, value: Value | None) -> frozenset[str]:
        """The layers whose outputs reach a value without going through another one."""
        if value is None:
            return frozenset()
        known, pending = self._behind, [value]
        while pending:
            at = pending[-1]
            read = [] if at.node is None else [v for v in at.node.inputs if v is not None]
            unknown = [v for v in read if id(v) not in known] if id(at) not in known else []
            if unknown:
                pending += unknown
                continue
            if id(at) not in known:
                known[id(at)] = at, frozenset[str]().union(*(known[id(v)][1] for v in read))
            pending.pop()
        return known[id(value)][1]


def _inverse_std(b: Builder, value: Value) -> Value:
    """1/σ over all elements, or 1 where they are all equal; shape ()."""
    square = variance(b, value, list(range(value.rank)), keepdims=False)
    tiny = b.op("Less", square, b.scalar(_TINY, square))
    one = b.scalar(1.0, square)
    return b.reciprocal(b.op("Sqrt", b.op("Where", tiny, one, square)))
