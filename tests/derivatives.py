"""Gradient, tangent and mixed tangent of a lowered graph against numeric differentiation.

Each order is checked against central differences of the order below, in float64, on ONNX's
reference implementation: nothing of the engine takes part but its gradient builder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graph_init.autodiff import primal
from graph_init.autodiff.tangent import tangents
from graph_init.errors import UnsupportedModelError
from graph_init.ir import MICROSOFT, Array, Builder, Value

STEP = 1e-5


class FusedMatMul(OpRun):
    op_domain = MICROSOFT

    def _run(self, a: Array, b: Array, **attributes: Any) -> tuple[Array]:
        def turned(x: Array, swap: Any, batch: Any) -> Array:
            x = np.moveaxis(x, 0, -2) if batch else x
            return np.swapaxes(x, -1, -2) if swap else x

        left = turned(a, attributes.get("transA"), attributes.get("transBatchA"))
        right = turned(b, attributes.get("transB"), attributes.get("transBatchB"))
        return ((attributes.get("alpha") or 1.0) * (left @ right),)


class GatherGrad(OpRun):
    op_domain = MICROSOFT

    def _run(self, shape: Array, index: Array, dy: Array, axis: int = 0) -> tuple[Array]:
        out = np.zeros(tuple(shape), dy.dtype)
        np.add.at(out, (slice(None),) * axis + (index,), dy)
        return (out,)


class GatherElementsGrad(OpRun):
    op_domain = MICROSOFT

    def _run(self, dy: Array, shape: Array, index: Array, axis: int = 0) -> tuple[Array]:
        out = np.zeros(tuple(shape), dy.dtype)
        np.add.at(out, _places(index, axis), dy)
        return (out,)


class GatherNDGrad(OpRun):
    op_domain = MICROSOFT

    def _run(self, shape: Array, index: Array, dy: Array, batch_dims: int = 0) -> tuple[Array]:
        out = np.zeros(tuple(shape), dy.dtype)
        lead = np.indices(index.shape[:-1])[:batch_dims]
        np.add.at(out, (*lead, *np.moveaxis(index, -1, 0)), dy)
        return (out,)


def _contributions(
    x: Array, w: Array, dy: Array, attributes: Mapping[str, Any]
) -> tuple[Array, Array, Array]:
    """dX, dW and dB of a convolution, tap by tap."""
    n = x.ndim - 2
    group = attributes.get("group") or 1
    strides = attributes.get("strides") or [1] * n
    dilations = attributes.get("dilations") or [1] * n
    pads = attributes.get("pads") or [0] * 2 * n
    widths = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
    padded = np.pad(x, widths)
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    ins, outs = w.shape[1], w.shape[0] // group
    for tap in np.ndindex(*w.shape[2:]):
        place = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, dilations, strides, dy.shape[2:], strict=True)
        )
        for k in range(group):
            i, o = slice(k * ins, (k + 1) * ins), slice(k * outs, (k + 1) * outs)
            at = (slice(None), i, *place)
            axes = [0, *range(2, dy.ndim)]
            dw[(o, slice(None), *tap)] += np.tensordot(dy[:, o], padded[at], (axes, axes))
            dx[at] += np.einsum("no...,oi->ni...", dy[:, o], w[(o, slice(None), *tap)])
    inner = tuple(slice(a, a + size) for (a, _), size in zip(widths, x.shape, strict=True))
    return dx[inner], dw, dy.sum(axis=(0, *range(2, dy.ndim)))


class ConvGrad(OpRun):
    op_domain = MICROSOFT

    def _run(self, dy: Array, x: Array, w: Array, **attributes: Any) -> tuple[Array, ...]:
        return _contributions(x, w, dy, attributes)[: len(self.onnx_node.output)]


class ConvTranspose(OpRun):
    """With groups of more than one channel, which the reference does not always get right."""

    def _run(self, dy: Array, w: Array, **attributes: Any) -> tuple[Array]:
        n = dy.ndim - 2
        extra = attributes.get("output_padding") or [0] * n
        strides = attributes.get("strides") or [1] * n
        dilations = attributes.get("dilations") or [1] * n
        pads = attributes.get("pads") or [0] * 2 * n
        space = [
            (dy.shape[2 + i] - 1) * strides[i]
            + dilations[i] * (w.shape[2 + i] - 1)
            + 1
            + extra[i]
            - pads[i]
            - pads[n + i]
            for i in range(n)
        ]
        channels = w.shape[1] * (attributes.get("group") or 1)
        x = np.zeros((dy.shape[0], channels, *space), dy.dtype)
        return (_contributions(x, w, dy, attributes)[0],)


class GatherElements(OpRun):
    """The reference's takes at most 64 rows."""

    def _run(self, x: Array, index: Array, axis: int = 0) -> tuple[Array]:
        return (x[_places(index, axis)],)


def _places(index: Array, axis: int) -> tuple[Array, ...]:
    grid = list(np.indices(index.shape))
    grid[axis] = index
    return tuple(grid)


class ScatterElements(OpRun):
    """The reference's does not take an index smaller than the data."""

    def _run(
        self, x: Array, index: Array, updates: Array, axis: int = 0, reduction: str = "none"
    ) -> tuple[Array]:
        out = np.array(x)
        if reduction == "add":
            np.add.at(out, _places(index, axis), updates)
        else:
            out[_places(index, axis)] = updates
        return (out,)


class MaxPool(OpRun):
    """With explicit pads of any kind, which the reference does not always get right."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        kernel = attributes["kernel_shape"]
        n = len(kernel)
        pads, strides = attributes["pads"], attributes["strides"]
        widths = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
        padded = np.pad(x, widths, constant_values=-np.inf)
        places = np.pad(np.arange(x.size).reshape(x.shape), widths, constant_values=-1)
        values, indices = [], []
        for tap in np.ndindex(*kernel):
            at: list[slice] = [slice(None), slice(None)]
            for i in range(n):
                reach = (kernel[i] - 1) * attributes["dilations"][i]
                count = (padded.shape[2 + i] - reach - 1) // strides[i] + 1
                start = tap[i] * attributes["dilations"][i]
                at.append(slice(start, start + (count - 1) * strides[i] + 1, strides[i]))
            values.append(padded[tuple(at)])
            indices.append(places[tuple(at)])
        best = np.argmax(values, axis=0)[None]
        found = tuple(np.take_along_axis(np.asarray(v), best, 0)[0] for v in (values, indices))
        return found[: len(self.onnx_node.output)]


class Erf(OpRun):
    """In full precision, which the reference's is not."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


OPERATORS = [
    Erf,
    GatherElements,
    ScatterElements,
    MaxPool,
    FusedMatMul,
    GatherGrad,
    GatherElementsGrad,
    GatherNDGrad,
    ConvGrad,
    ConvTranspose,
]


def evaluator(model: onnx.ModelProto) -> Callable[[Mapping[str, Array]], list[Array]]:
    reference = ReferenceEvaluator(model, new_ops=OPERATORS)
    names = [i.name for i in model.graph.input]

    def evaluate(feeds: Mapping[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(v) for v in reference.run(None, {n: feeds[n] for n in names})]

    return evaluate


class Derivatives:
    """All derivatives of L = Σ c·(y + y²/2) over a lowered graph's outputs y, float64's for checks.

    The square lets even linear operators have derivatives of higher order.
    ``point`` maps the graph's active inputs to values; ``used`` names those that move L, and
    ``weights`` are the c, None for an output that does not move.
    """

    def __init__(
        self, b: Builder, outputs: Sequence[Value], point: Mapping[str, Array], seed: int = 0
    ) -> None:
        self.rng = np.random.default_rng(seed)
        loss: Value | None = None
        self.weights: list[Array | None] = [
            self.rng.standard_normal(v.dims) if v.is_float and v.requires_grad and v.size else None
            for v in outputs
        ]
        for output, c in zip(outputs, self.weights, strict=True):
            if c is not None:
                weights = b.constant(c, output.dtype)
                curved = b.add(output, b.scale(b.mul(output, output), 0.5))
                term = b.sum(b.mul(weights, curved), keepdims=False)
                loss = term if loss is None else b.add(loss, term)
        assert loss is not None, "no output depends on an input"
        loss = b.barrier(loss)
        start = b.op("Cast", loss, to=TensorProto.FLOAT)  # the engine starts from a float32 one
        forward = b.model([start], unused_inputs=True)
        self.names = [v.name for v in b.inputs if v.name in point]
        self.used: list[str] = []
        try:
            p = primal.build(forward, start.name, self.names)
        except UnsupportedModelError as error:
            if "has no gradient" not in str(error):
                raise
            return
        d, theta, gradients, value = p.builder, p.theta, p.gradients, p.loss
        self.used = list(gradients)
        nodes = d.needed([*gradients.values()])
        seeds = {
            kind: {n: d.input(f"{kind}:{n}", theta[n].dtype, theta[n].dims) for n in self.used}
            for kind in ("t", "u", "z")
        }
        first = tangents(d, nodes, {theta[n]: seeds["t"][n] for n in self.used})
        moved = {theta[n]: seeds["u"][n] for n in self.used}
        moved |= {seeds["t"][n]: seeds["z"][n] for n in self.used}
        hg = {n: first.get(gradients[n]) for n in self.used}
        mixed = tangents(d, d.needed([v for v in hg.values() if v is not None]), moved)

        def filled(v: Value | None, n: str) -> Value:
            return d.expand(d.scalar(0.0, theta[n]), theta[n].dims) if v is None else v

        rows = [
            [gradients[n] for n in self.used],
            [filled(hg[n], n) for n in self.used],
            [filled(None if (v := hg[n]) is None else mixed.get(v), n) for n in self.used],
        ]
        flat = [d.barrier(v) for v in [value, *(v for row in rows for v in row)]]
        self.program = d.program(flat, unused_inputs=True)
        self._loss = d.program(flat[:1], unused_inputs=True)
        self.model = self.program.model
        self._run = evaluator(self.model)
        self.point = {n: np.asarray(a, np.float64) for n, a in point.items()}
        self.seeds = {
            f"{kind}:{n}": self.rng.standard_normal(theta[n].dims)
            for kind in ("t", "u", "z")
            for n in self.used
        }

    @property
    def feeds(self) -> dict[str, Array]:
        """What ``program`` reads."""
        return {**self.point, **self.seeds}

    def at(self, moves: Mapping[str, Array], scale: float) -> tuple[float, list[Array]]:
        """L, and the vectors g, Hg and mixed (all parameters in one), at a shifted point."""
        feeds = self.feeds
        for name, move in moves.items():
            feeds[name] = feeds[name] + scale * move
        loss, *rest = self._run(feeds)
        k = len(self.used)
        return float(loss), [
            np.concatenate([v.ravel() for v in rest[i * k : (i + 1) * k]]) for i in range(3)
        ]

    def numeric(self, most: int) -> list[Array]:
        """All three vectors by central differences of the order below.

        Of the gradient at most so many elements, drawn at random; the others are NaN.
        """
        loss, feeds = evaluator(self._loss.model), self.feeds
        places = [(n, i) for n in self.used for i in range(self.point[n].size)]
        slopes = np.full(len(places), np.nan)
        drawn = self.rng.permutation(len(places))[:most]
        for number in drawn:
            name, i = places[number]
            step = np.zeros(self.point[name].shape)
            step.flat[i] = STEP
            high, low = (
                float(loss({**feeds, name: feeds[name] + sign * step})[0]) for sign in (1, -1)
            )
            slopes[number] = (high - low) / (2 * STEP)
        return [slopes, *self._changes()]

    def _changes(self) -> list[Array]:
        """Hg and mixed as differences of g and of Hg."""
        t = {n: self.seeds[f"t:{n}"] for n in self.used}
        both = {n: self.seeds[f"u:{n}"] for n in self.used}
        both |= {f"t:{n}": self.seeds[f"z:{n}"] for n in self.used}
        found = []
        for order, moves in enumerate((t, both)):
            high, low = self.at(moves, STEP), self.at(moves, -STEP)
            found.append((high[1][order] - low[1][order]) / (2 * STEP))
        return found

    def errors(self) -> tuple[float, float, float]:
        """Relative errors of gradient, tangent and mixed tangent; NaN where they are not finite."""
        _, (g, hg, mixed) = self.at({}, 0.0)
        t = {n: self.seeds[f"t:{n}"] for n in self.used}
        high, low = (self.at(t, sign * STEP)[0] for sign in (1, -1))
        changes = self._changes()
        along_t = float(g @ np.concatenate([t[n].ravel() for n in self.used]))
        size = 1e-3 + max(np.abs(g).max(initial=0), 1e-3)
        return (
            abs(along_t - (high - low) / (2 * STEP)) / (size * np.sqrt(max(g.size, 1))),
            _relative(hg, changes[0]),
            _relative(mixed, changes[1]),
        )


def _relative(ours: Array, numeric: Array) -> float:
    return float(np.abs(ours - numeric).max(initial=0) / (np.abs(numeric).max(initial=0) + 1e-2))
