"""LSTM, GRU and RNN, unrolled over time.

Shapes in the standard's letters: T steps, B rows, I inputs, H units, D directions; X is (T, B, I),
or (B, T, I) with ``layout=1``. Gates are stacked along the second axis of W (D, g·H, I) and of
R (D, g·H, H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from graph_init.ir import Builder, Value
from graph_init.lowering.activation import (
    clip,
    elu,
    hard_sigmoid,
    positive,
    softplus,
    softsign,
)
from graph_init.lowering.registry import Call, lowers

Unary = Callable[[Value], Value]


def named_activation(
    b: Builder, name: str, alpha: float | None, beta: float | None, c: Call
) -> Unary:
    """One of the activation functions that the standard names, with its default parameters."""

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    table: dict[str, Callable[[Value], Value]] = {
        "tanh": lambda x: b.op("Tanh", x),
        "sigmoid": lambda x: b.op("Sigmoid", x),
        "relu": lambda x: b.op("Relu", x),
        "softsign": lambda x: softsign(b, x),
        "softplus": lambda x: softplus(b, x),
        "affine": lambda x: b.add(b.scale(x, given(alpha, 1.0)), b.scalar(given(beta, 0.0), x)),
        "leakyrelu": lambda x: b.where(positive(b, x), x, b.scale(x, given(alpha, 0.01))),
        "thresholdedrelu": lambda x: b.where(
            b.op("Greater", x, b.scalar(given(alpha, 1.0), x)), x, b.scalar(0.0, x)
        ),
        "scaledtanh": lambda x: b.scale(
            b.op("Tanh", b.scale(x, given(beta, 1.0))), given(alpha, 1.0)
        ),
        "hardsigmoid": lambda x: hard_sigmoid(b, x, given(alpha, 0.2), given(beta, 0.5)),
        "elu": lambda x: elu(b, x, given(alpha, 1.0)),
    }
    if name.lower() not in table:
        raise c.refuse(f"has an unknown activation '{name}'")
    return table[name.lower()]


#: Activations that take a parameter, which consume the lists of them in order.
_TAKES_ALPHA = frozenset("affine leakyrelu thresholdedrelu scaledtanh hardsigmoid elu".split())
_TAKES_BETA = frozenset("affine scaledtanh hardsigmoid".split())


def _parameters(c: Call, names: Sequence[str]) -> list[tuple[float | None, float | None]]:
    """alpha and beta of each activation, where given."""
    alphas, betas = (iter(c.attrs.get(f"activation_{k}") or []) for k in ("alpha", "beta"))
    return [
        (
            next(alphas, None) if name.lower() in _TAKES_ALPHA else None,
            next(betas, None) if name.lower() in _TAKES_BETA else None,
        )
        for name in names
    ]


@dataclass(frozen=True)
class _Cell:
    """One direction: its weights as matrices, its activations, and the clip on what they read."""

    b: Builder
    attrs: Any
    hidden: int
    recurrent: Value  # (H, g·H)
    recurrent_bias: Value | None  # (g·H,), kept apart from the inputs' bias
    peephole: list[Value]
    functions: list[Unary]
    clip: float | None

    def squeeze(self, x: Value) -> Value:
        if self.clip is None:
            return x
        return clip(self.b, x, self.b.scalar(-self.clip, x), self.b.scalar(self.clip, x))

    def gates(self, x: Value, count: int) -> list[Value]:
        return [self.b.slice(x, 1, k * self.hidden, (k + 1) * self.hidden) for k in range(count)]

    def act(self, index: int, x: Value) -> Value:
        return self.functions[index](self.squeeze(x))


State = tuple[Value, ...]


def _rnn_step(cell: _Cell, x: Value, state: State) -> State:
    """h = f(x + h R)."""
    b = cell.b
    total = b.add(x, b.op("MatMul", state[0], cell.recurrent))
    if cell.recurrent_bias is not None:
        total = b.add(total, cell.recurrent_bias)
    return (cell.act(0, total),)


def _gru_step(cell: _Cell, x: Value, state: State) -> State:
    """z, r from x + h R; the candidate resets before or after its product; h = (1−z) n + z h."""
    b, h, n = cell.b, state[0], cell.hidden
    xz, xr, xh = cell.gates(x, 3)
    rz, rr, rh = (b.slice(cell.recurrent, 1, k * n, (k + 1) * n) for k in range(3))
    bias = cell.recurrent_bias
    bz, br, bh = (
        (None,) * 3 if bias is None else (b.slice(bias, 0, k * n, (k + 1) * n) for k in range(3))
    )

    def plus(value: Value, shift: Value | None) -> Value:
        return value if shift is None else b.add(value, shift)

    z = cell.act(0, b.add(xz, plus(b.op("MatMul", h, rz), bz)))
    r = cell.act(0, b.add(xr, plus(b.op("MatMul", h, rr), br)))
    if cell.attrs.get("linear_before_reset"):
        inner = b.mul(r, plus(b.op("MatMul", h, rh), bh))
    else:
        inner = plus(b.op("MatMul", b.mul(r, h), rh), bh)
    candidate = cell.act(1, b.add(xh, inner))
    return (b.add(candidate, b.mul(z, b.sub(h, candidate))),)


def _lstm_step(cell: _Cell, x: Value, state: State) -> State:
    """Gates i, o, f and the candidate; peepholes see the old cell, the output gate's the new."""
    b, (h, c) = cell.b, state
    total = b.add(x, b.op("MatMul", h, cell.recurrent))
    if cell.recurrent_bias is not None:
        total = b.add(total, cell.recurrent_bias)
    i, o, f, g = cell.gates(total, 4)
    if cell.peephole:
        i = b.add(i, b.mul(cell.peephole[0], c))
        f = b.add(f, b.mul(cell.peephole[2], c))
    entry = cell.act(0, i)
    keep = b.sub(b.scalar(1.0, entry), entry) if cell.attrs.get("input_forget") else cell.act(0, f)
    new = b.add(b.mul(keep, c), b.mul(entry, cell.act(1, g)))
    if cell.peephole:
        o = b.add(o, b.mul(cell.peephole[1], new))
    # The engine does not clip the cell, though the standard's text could be read so.
    return (b.mul(cell.act(0, o), cell.functions[2](new)), new)


@dataclass(frozen=True)
class _Kind:
    gates: int
    functions: tuple[str, ...]
    states: int
    step: Callable[[_Cell, Value, State], State]


_KINDS = {
    "RNN": _Kind(1, ("Tanh",), 1, _rnn_step),
    "GRU": _Kind(3, ("Sigmoid", "Tanh"), 1, _gru_step),
    "LSTM": _Kind(4, ("Sigmoid", "Tanh", "Tanh"), 2, _lstm_step),
}


def _of_direction(b: Builder, c: Call, index: int, d: int) -> Value | None:
    value = c.get(index)
    if value is None:
        return None
    return b.reshape(b.slice(value, 0, d, d + 1), value.dims[1:])


def _cell(b: Builder, c: Call, kind: _Kind, d: int) -> tuple[_Cell, Value]:
    """The cell of direction ``d`` and its input projection of all steps, (T, B, g·H)."""
    x, w, r = c[0], _of_direction(b, c, 1, d), _of_direction(b, c, 2, d)
    assert w is not None and r is not None
    hidden = r.dims[1]
    bias = _of_direction(b, c, 3, d)
    width = kind.gates * hidden
    projected = b.op("MatMul", x, b.transpose(w, [1, 0]))
    recurrent_bias = None
    if bias is not None:
        projected = b.add(projected, b.slice(bias, 0, 0, width))
        recurrent_bias = b.slice(bias, 0, width, 2 * width)
    peephole = _of_direction(b, c, 7, d)
    count = len(kind.functions)
    names = list(c.attrs.get("activations") or kind.functions * 2)
    given = _parameters(c, names)
    functions = [
        named_activation(b, names[k], *given[k], c) for k in range(d * count, (d + 1) * count)
    ]
    cell = _Cell(
        b,
        c.attrs,
        hidden=hidden,
        recurrent=b.transpose(r, [1, 0]),
        recurrent_bias=recurrent_bias,
        peephole=[]
        if peephole is None
        else [b.slice(peephole, 0, k * hidden, (k + 1) * hidden) for k in range(3)],
        functions=functions,
        clip=c.attrs.get("clip"),
    )
    return cell, projected


def reverse_in_time(b: Builder, x: Value, lengths: Value | None) -> Value:
    """(T, B, …) with each row's first ``lengths`` steps reversed (all of them by default)."""
    steps = np.arange(x.dims[0])
    if lengths is None:
        return b.op("Gather", x, b.ints(steps[::-1]), axis=0)
    grid = b.constant(np.broadcast_to(steps[:, None], x.dims[:2]).astype(np.int64))
    ends = b.reshape(b.cast(lengths, TensorProto.INT64), [1, x.dims[1]])
    mirrored = b.sub(b.sub(ends, b.constant(np.int64(1))), grid)
    index = b.where(b.op("Less", grid, ends), mirrored, grid)
    index = b.reshape(index, [*x.dims[:2]] + [1] * (x.rank - 2))
    return b.op("GatherElements", x, b.expand(index, x.dims), axis=0)


@lowers("RNN", "GRU", "LSTM")
def _recurrent(b: Builder, c: Call) -> list[Value]:
    kind = _KINDS[c.op]
    batch_first = bool(c.attrs.get("layout", 0))
    inputs = list(c.inputs)
    if batch_first:
        for k in (0, 5, 6):
            v = c.get(k)
            if v is not None:
                inputs[k] = b.transpose(v, [1, 0, 2])
        c = replace(c, inputs=tuple(inputs))
    x, lengths = c[0], c.get(4)
    steps, rows = x.dims[:2]
    if lengths is not None and lengths.const is not None and np.all(lengths.const == steps):
        lengths = None
    direction = c.attrs.get("direction", "forward")
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    sequences, finals = [], []
    for d, back in enumerate(backward):
        cell, projected = _cell(b, c, kind, d)
        if back:
            projected = reverse_in_time(b, projected, lengths)
        state: State = tuple(
            v
            if (v := _of_direction(b, c, 5 + k, d)) is not None
            else b.constant(np.zeros((rows, cell.hidden)), x.dtype)
            for k in range(kind.states)
        )
        outputs = []
        for t in range(steps):
            now = b.reshape(b.slice(projected, 0, t, t + 1), projected.dims[1:])
            new = kind.step(cell, now, state)
            shown = new[0]
            if lengths is not None:
                alive = b.op(
                    "Greater",
                    b.reshape(b.cast(lengths, TensorProto.INT64), [rows, 1]),
                    b.constant(np.int64(t)),
                )
                shown = b.where(alive, shown, b.scalar(0.0, shown))
                new = tuple(b.where(alive, n, o) for n, o in zip(new, state, strict=True))
            state = new
            outputs.append(b.reshape(shown, [1, rows, cell.hidden]))
        sequence = b.op("Concat", *outputs, axis=0)
        if back:
            sequence = reverse_in_time(b, sequence, lengths)
        sequences.append(b.reshape(sequence, [steps, 1, rows, cell.hidden]))
        finals.append([b.reshape(s, [1, rows, cell.hidden]) for s in state])
    y = b.op("Concat", *sequences, axis=1)
    last = [b.op("Concat", *column, axis=0) for column in zip(*finals, strict=True)]
    if batch_first:
        y = b.transpose(y, [2, 0, 1, 3])
        last = [b.transpose(v, [1, 0, 2]) for v in last]
    return [y, *last][: len(c.wanted)]


@lowers("ReverseSequence")
def _reverse_sequence(b: Builder, c: Call) -> Value:
    x = c[0]
    time, batch = c.attrs.get("time_axis", 0), c.attrs.get("batch_axis", 1)
    perm = [time, batch, *(i for i in range(x.rank) if i not in (time, batch))]
    back = [int(i) for i in np.argsort(perm)]
    return b.transpose(reverse_in_time(b, b.transpose(x, perm), c[1]), back)
