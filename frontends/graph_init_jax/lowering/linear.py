"""Products: dot_general and convolutions."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import numpy as np

from graph_init_jax.lowering.graph import Graph, Shape, Value
from graph_init_jax.lowering.layout import flip
from graph_init_jax.lowering.registry import Result, rule


@rule("dot_general", broadcasting=False)
def dot_general(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    inputs = [g.cast(v, out.dtype) for v in inputs]
    left, right = inputs
    last = len(left.shape) - 1
    plain = not left_batch and tuple(left_sum) == (last,) and tuple(right_sum) == (0,)
    if plain and len(right.shape) == 2 and last >= 1:
        return g.add("MatMul", inputs, out.shape, out.dtype)
    letters = iter(ascii_lowercase)
    names = [[next(letters) for _ in left.shape], [""] * len(right.shape)]
    for ours, theirs in [*zip(left_sum, right_sum), *zip(left_batch, right_batch)]:  # noqa: B905
        names[1][theirs] = names[0][ours]
    names[1] = [name or next(letters) for name in names[1]]
    batch = [names[0][axis] for axis in left_batch]
    shared = {names[0][axis] for axis in (*left_sum, *left_batch)}
    result = batch + [name for term in names for name in term if name not in shared]
    terms = ",".join("".join(term) for term in names)
    return g.add("Einsum", inputs, out.shape, out.dtype, equation=f"{terms}->{''.join(result)}")


@rule("conv_general_dilated", broadcasting=False)
def convolution(g: Graph, inputs: list[Value], params: dict[str, Any], out: Result) -> Value:
    """ONNX has the channels before the space; an input of holes is a transposed convolution."""
    numbers = params["dimension_numbers"]
    groups = int(params["feature_group_count"])
    if params["batch_group_count"] != 1:
        raise out.refused("with batch_group_count")
    value = g.transpose(g.cast(inputs[0], out.dtype), numbers.lhs_spec)
    kernel = g.transpose(g.cast(inputs[1], out.dtype), numbers.rhs_spec)
    strides = [int(n) for n in params["window_strides"]]
    holes = [int(n) for n in params["lhs_dilation"]]
    dilations = [int(n) for n in params["rhs_dilation"]]
    edges = [(int(low), int(high)) for low, high in params["padding"]]
    shape = tuple(out.shape[axis] for axis in numbers.out_spec)
    if any(n != 1 for n in holes):
        if any(n != 1 for n in strides) or groups != 1:
            raise out.refused("with lhs_dilation, and strides or groups")
        made = _transposed(
            g, value, kernel, strides=holes, dilations=dilations, edges=edges, shape=shape, out=out
        )
    else:
        if any(edge < 0 for pair in edges for edge in pair):
            raise out.refused("with negative padding")
        pads = [low for low, _ in edges] + [high for _, high in edges]
        made = g.add(
            "Conv",
            [value, kernel],
            shape,
            out.dtype,
            strides=strides,
            dilations=dilations,
            group=groups,
            pads=pads,
        )
    return g.transpose(made, np.argsort(numbers.out_spec))


def _transposed(
    g: Graph,
    value: Value,
    kernel: Value,
    strides: list[int],
    dilations: list[int],
    edges: list[tuple[int, int]],
    shape: Shape,
    out: Result,
) -> Value:
    """A convolution over an input with holes: ConvTranspose with the kernel turned around.

    ConvTranspose pads by (kernel - 1) · dilation on its own; what JAX pads less, it crops.
    """
    flipped = flip(
        g, g.transpose(kernel, [1, 0, *range(2, len(kernel.shape))]), range(2, len(shape))
    )
    spans = [(n - 1) * d for n, d in zip(kernel.shape[2:], dilations, strict=True)]
    crop = [span - low for span, (low, _) in zip(spans, edges, strict=True)]
    crop += [span - high for span, (_, high) in zip(spans, edges, strict=True)]
    extra = [max(0, -n) for n in crop[len(spans) :]]
    if any(n < 0 for n in crop[: len(spans)]) or any(
        n >= max(s, d) for n, s, d in zip(extra, strides, dilations, strict=True)
    ):
        raise out.refused("with lhs_dilation, padded by more than the kernel")
    return g.add(
        "ConvTranspose",
        [value, flipped],
        shape,
        out.dtype,
        strides=strides,
        dilations=dilations,
        pads=[max(0, n) for n in crop],
        output_padding=extra,
    )
