"""If, Loop and Scan with constant conditions and counts: the taken branch, the unrolled body."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers, run

#: Unrolling more iterations than this would make a graph that no engine opens in reasonable time.
MAX_ITERATIONS = 2048
#: Nodes of all unrolled bodies together: loops within loops multiply.
MAX_UNROLLED = 100_000


def _body(
    b: Builder, c: Call, graph: onnx.GraphProto, bindings: Mapping[str, Value]
) -> list[Value]:
    """The outputs of ``graph``, which may read the values of the graph around it."""
    environment = {**c.environment, **bindings}
    b.unrolled += 1 + len(graph.node)
    if b.unrolled > MAX_UNROLLED:
        raise c.refuse(f"unrolls to more than {MAX_UNROLLED} nodes; export with fewer iterations")
    for initializer in graph.initializer:
        environment[initializer.name] = b.literal(numpy_helper.to_array(initializer))
    run(b, graph.node, environment, opset=c.opset, name=c.name, outer=c.outer, context=c.context)
    if c.context.after is not None:
        # What it has changed around the body holds from here on, in the next iteration, too.
        c.environment.update({n: environment[n] for n in c.environment if n not in bindings})
    outputs = []
    for output in graph.output:
        value = environment[output.name]
        assert value is not None
        outputs.append(value)
    return outputs


def _truth(c: Call, value: Value) -> bool:
    if value.const is None:
        decides = _decides(c, value)
        way = f"; --output-name {decides} ends the model before it" if decides else ""
        raise c.refuse(
            "is control flow that depends on the data (its condition is "
            f"'{value.name}'), so it has no fixed graph to differentiate; export with the "
            f"condition fixed, or trace the model instead of scripting it{way}"
        )
    return bool(value.const.reshape(-1)[0])


def _decides(c: Call, condition: Value) -> str | None:
    """The float value of the user's model that a condition is computed from, if it is computed."""
    names = {id(v): name for name, v in c.environment.items() if v is not None and v.node}
    pending, seen = [condition], set[int]()
    while pending:
        at = pending.pop(0)
        if at.is_float and id(at) in names:
            return names[id(at)]
        if at.node is not None and id(at) not in seen:
            seen.add(id(at))
            pending.extend(v for v in at.node.inputs if v is not None)
    return None


@lowers("If")
def _if(b: Builder, c: Call) -> list[Value]:
    return _body(b, c, c.attrs["then_branch" if _truth(c, c[0]) else "else_branch"], {})


def _stack(b: Builder, slices: list[Value], axis: int = 0) -> Value:
    rank = slices[0].rank + 1
    axis %= rank
    parts = [b.reshape(v, [*v.dims[:axis], 1, *v.dims[axis:]]) for v in slices]
    return b.op("Concat", *parts, axis=axis)


@lowers("Loop")
def _loop(b: Builder, c: Call) -> list[Value]:
    graph: onnx.GraphProto = c.attrs["body"]
    count = c.get(0)
    if count is not None and count.const is None:
        raise c.refuse(
            f"is a loop whose trip count ('{count.name}') depends on the data, so it has no fixed "
            "graph to differentiate; export with static shapes"
        )
    most = (
        int(count.const.reshape(-1)[0]) if count is not None and count.const is not None else None
    )
    names = [i.name for i in graph.input]
    states: list[Value] = [v for v in c.inputs[2:] if v is not None]
    going, kept, step = c.get(1), [], 0
    condition = b.constant(np.asarray(True)) if going is None else going
    while (most is None or step < most) and _truth(c, condition):
        if step == MAX_ITERATIONS:
            raise c.refuse(f"runs for more than {MAX_ITERATIONS} iterations, too many to unroll")
        given = [b.constant(np.asarray(step, np.int64)), condition, *states]
        found = _body(b, c, graph, dict(zip(names, given, strict=True)))
        condition, states = found[0], found[1 : 1 + len(states)]
        kept.append(found[1 + len(states) :])
        step += 1
    if not kept and len(graph.output) > 1 + len(states):
        raise c.refuse("makes no iteration, so its scan outputs are empty")
    return [*states, *(_stack(b, list(column)) for column in zip(*kept, strict=True))]


def _take(b: Builder, x: Value, axis: int, position: int) -> Value:
    axis %= x.rank
    part = b.slice(x, axis, position, position + 1)
    return b.reshape(part, [d for i, d in enumerate(x.dims) if i != axis])


@lowers("Scan")
def _scan(b: Builder, c: Call) -> list[Value]:
    """Since opset 9; in opset 8 all operands have a leading batch axis, over which this loops."""
    scanned = c.attrs["num_scan_inputs"]
    operands = [v for v in c.inputs[1 if c.opset < 9 else 0 :] if v is not None]
    if c.opset >= 9:
        return _scan_once(b, c, operands, scanned=scanned, directions="scan_input_directions")
    if c.get(0) is not None:
        raise c.refuse("gives sequence lengths to a Scan of opset 8; export with opset 9 or newer")
    rows = [
        _scan_once(
            b, c, [_take(b, v, 0, row) for v in operands], scanned=scanned, directions="directions"
        )
        for row in range(operands[0].dims[0])
    ]
    return [_stack(b, list(column)) for column in zip(*rows, strict=True)]


def _scan_once(
    b: Builder, c: Call, operands: list[Value], scanned: int, directions: str
) -> list[Value]:
    graph: onnx.GraphProto = c.attrs["body"]
    names = [i.name for i in graph.input]
    states, sequences = operands[:-scanned], operands[-scanned:]
    axes = c.attrs.get("scan_input_axes") or [0] * scanned
    backward = c.attrs.get(directions) or [0] * scanned
    length = sequences[0].dims[axes[0]]
    if length > MAX_ITERATIONS:
        raise c.refuse(f"runs for {length} iterations, too many to unroll; shorten it with --dim")
    kept = []
    for step in range(length):
        slices = [
            _take(b, x, axis, length - 1 - step if back else step)
            for x, axis, back in zip(sequences, axes, backward, strict=True)
        ]
        found = _body(b, c, graph, dict(zip(names, [*states, *slices], strict=True)))
        states = found[: len(states)]
        kept.append(found[len(states) :])
    columns = [list(column) for column in zip(*kept, strict=True)]
    out_axes = c.attrs.get("scan_output_axes") or [0] * len(columns)
    out_backward = c.attrs.get("scan_output_directions") or [0] * len(columns)
    return [
        *states,
        *(
            _stack(b, column[::-1] if back else column, axis)
            for column, axis, back in zip(columns, out_axes, out_backward, strict=True)
        ),
    ]
