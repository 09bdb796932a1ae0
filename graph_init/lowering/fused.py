"""Operators of the domain com.microsoft that ONNX Runtime's optimiser puts into transformers.

Letters in shapes: B rows, S new positions, P past ones, T = P + S, N heads, h elements a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from graph_init.ir import MICROSOFT, Array, Builder, Value
from graph_init.lowering.activation import clip, hard_sigmoid
from graph_init.lowering.linear import gemm, plain_conv
from graph_init.lowering.normalization import affine, rms, standardize
from graph_init.lowering.recurrent import named_activation
from graph_init.lowering.registry import Call, lowers

_EPSILON = 1e-12  # the domain's default for normalisations with a skip

INT64 = 7


@lowers("SkipLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(b: Builder, c: Call) -> Sequence[Value | None]:
    """Inputs: x, skip, gain, shift, bias. The fourth output is x + skip + bias."""
    total = _skip(b, c, 4)
    y, mean, inverse = standardize(b, total, [total.rank - 1], c.attrs.get("epsilon", _EPSILON))
    return [affine(b, y, c[2], c.get(3)), mean, inverse, total][: len(c.wanted)]


@lowers("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_rms_norm(b: Builder, c: Call) -> Sequence[Value | None]:
    """Inputs: x, skip, gain, bias."""
    total = _skip(b, c, 3)
    y = rms(b, total, [total.rank - 1], c.attrs.get("epsilon", _EPSILON))
    return [b.mul(y, c[2]), None, None, total][: len(c.wanted)]


def _skip(b: Builder, c: Call, bias: int) -> Value:
    total = b.add(c[0], c[1])
    shift = c.get(bias)
    return total if shift is None else b.add(total, shift)


@lowers("EmbedLayerNormalization", domain=MICROSOFT)
def _embed_layer_norm(b: Builder, c: Call) -> Sequence[Value | None]:
    """Inputs: ids (B, S), segments, the three tables, gain, shift, mask, positions."""
    ids, segments, words, places, kinds = c[0], c.get(1), c[2], c[3], c.get(4)
    rows, length = ids.dims
    total = b.op("Gather", words, ids, axis=0)
    positions = c.get(8)
    if positions is None:
        positions = b.ints(range(length))
    total = b.add(total, b.op("Gather", places, positions, axis=0))
    if kinds is not None and segments is not None:
        total = b.add(total, b.op("Gather", kinds, segments, axis=0))
    y = standardize(b, total, [2], c.attrs.get("epsilon", _EPSILON))[0]
    mask = c.get(7)
    ends = (
        b.constant(np.zeros(rows, np.int32))
        if mask is None
        else b.op("ReduceSum", b.cast(mask, TensorProto.INT32), b.ints([1]), keepdims=0)
    )
    return [affine(b, y, c[5], c[6]), ends, total][: len(c.wanted)]


# -- attention ----------------------------------------------------------------------------------


def _heads(b: Builder, x: Value, count: int) -> Value:
    """(B, S, N·h) as (B, N, S, h)."""
    rows, length, width = x.dims
    return b.transpose(b.reshape(x, [rows, length, count, width // count]), [0, 2, 1, 3])


def _joined(b: Builder, x: Value) -> Value:
    """(B, N, S, h) as (B, S, N·h)."""
    rows, count, length, width = x.dims
    return b.reshape(b.transpose(x, [0, 2, 1, 3]), [rows, length, count * width])


def _attend(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    *,
    scale: float,
    bias: Value | None = None,
    seen: Array | None = None,
    softcap: float = 0.0,
) -> Value:
    """softmax(scale · q kᵀ + bias) v, over the positions of k that ``seen`` says of each of q."""
    scores = b.scale(b.op("MatMul", q, b.transpose(k, [0, 1, 3, 2])), scale)
    if softcap:
        scores = b.scale(b.op("Tanh", b.scale(scores, 1 / softcap)), softcap)
    if bias is not None:
        scores = b.add(scores, bias)
    if seen is not None:
        scores = b.where(b.constant(seen), scores, b.scalar(-1e30, scores))
    return b.op("MatMul", b.op("Softmax", scores, axis=-1), v)


def _past(q: Value, k: Value, window: int = -1) -> Array:
    """Whether a query sees a position, (S, T), where queries are the last of the positions.

    It sees itself and those before it; with a ``window`` of w, w of these.
    """
    new, total = q.dims[2], k.dims[2]
    behind = (np.arange(new)[:, None] + total - new) - np.arange(total)[None, :]
    return (behind >= 0) & (behind <= window) if window > 0 else behind >= 0


def _scale(c: Call, width: int) -> float:
    return float(c.attrs.get("scale") or 0.0) or 1 / math.sqrt(width)


def _mask_bias(b: Builder, c: Call, mask: Value | None, total: int, like: Value) -> Value | None:
    """What is added to the scores (B, N, S, T) for a mask in one of the domain's forms."""
    if mask is None:
        return None
    if mask.rank == 1:  # lengths of the rows, padded on the right
        if mask.size != like.dims[0]:
            raise c.refuse("has a mask of start and end positions; use one of shape (B, T)")
        ends = b.reshape(b.cast(mask, INT64), [mask.size, 1, 1, 1])
        kept = b.op("Less", b.ints(range(total)), ends)
    else:
        ones = b.op("Greater", b.cast(mask, INT64), b.constant(np.int64(0)))
        rows, *rest = mask.dims
        kept = b.reshape(ones, [rows, *[1] * (3 - len(rest)), *rest])
    low = b.scalar(c.attrs.get("mask_filter_value", -10000.0), like)
    return b.where(kept, b.scalar(0.0, like), low)


def _plus(b: Builder, first: Value | None, second: Value | None) -> Value | None:
    if first is None or second is None:
        return second if first is None else first
    return b.add(first, second)


@lowers("Attention", domain=MICROSOFT)
def _attention(b: Builder, c: Call) -> Sequence[Value | None]:
    """Self-attention with one product for queries, keys and values."""
    x, weights, bias, mask, past = c[0], c[1], c.get(2), c.get(3), c.get(4)
    if c.attrs.get("do_rotary"):
        raise c.refuse(
            "applies rotary embeddings (do_rotary), for which Attention has no rule here; export "
            "without that fusion"
        )
    heads = c.attrs["num_heads"]
    sizes = c.attrs.get("qkv_hidden_sizes") or [weights.dims[1] // 3] * 3
    packed = b.op("MatMul", x, weights)
    if bias is not None:
        packed = b.add(packed, bias)
    edges = np.cumsum([0, *sizes])
    q, k, v = (
        _heads(b, b.slice(packed, 2, int(a), int(z)), heads)
        for a, z in zip(edges[:-1], edges[1:], strict=True)
    )
    if past is not None:  # (2, B, N, P, h)
        old = [b.reshape(b.slice(past, 0, i, i + 1), past.dims[1:]) for i in (0, 1)]
        k, v = b.op("Concat", old[0], k, axis=2), b.op("Concat", old[1], v, axis=2)
    added = _plus(b, _mask_bias(b, c, mask, total=k.dims[2], like=q), c.get(5))
    seen = _past(q, k) if c.attrs.get("unidirectional") else None
    y = _joined(b, _attend(b, q, k, v, scale=_scale(c, q.dims[3]), bias=added, seen=seen))
    if len(c.wanted) < 2:
        return [y]
    present = b.op("Concat", *(b.reshape(t, [1, *t.dims]) for t in (k, v)), axis=0)
    return [y, present]


def _unpacked(b: Builder, x: Value, axis: int, position: int) -> Value:
    """One of the tensors that are stacked along ``axis``, as (B, N, S, h)."""
    part = b.slice(x, axis, position, position + 1)
    part = b.reshape(part, [d for i, d in enumerate(x.dims) if i != axis])
    return b.transpose(part, [0, 2, 1, 3])


@lowers("MultiHeadAttention", domain=MICROSOFT)
def _multi_head(b: Builder, c: Call) -> Sequence[Value | None]:
    """Separate, or packed as (B, S, N, 3, h) or key and value as (B, L, N, 2, h)."""
    heads = c.attrs["num_heads"]
    query, key, value, bias = c[0], c.get(1), c.get(2), c.get(3)
    if key is None:
        q, k, v = (_unpacked(b, query, 3, i) for i in range(3))
    elif value is None:
        q = _heads(b, query, heads)
        k, v = (_unpacked(b, key, 3, i) for i in range(2))
    else:
        q = _heads(b, query, heads)
        k, v = (_heads(b, t, heads) if t.rank == 3 else t for t in (key, value))
    if bias is not None:
        edges = np.cumsum([0, *(heads * t.dims[3] for t in (q, k, v))])
        parts = [b.slice(bias, 0, int(a), int(z)) for a, z in zip(edges, edges[1:], strict=False)]
        q, k, v = (
            b.add(t, b.reshape(p, [heads, 1, t.dims[3]]))
            for t, p in zip((q, k, v), parts, strict=True)
        )
    past = [c.get(6), c.get(7)]
    if past[0] is not None and past[1] is not None:
        k, v = b.op("Concat", past[0], k, axis=2), b.op("Concat", past[1], v, axis=2)
    added = _plus(b, _mask_bias(b, c, c.get(4), total=k.dims[2], like=q), c.get(5))
    seen = _past(q, k) if c.attrs.get("unidirectional") else None
    y = _joined(b, _attend(b, q, k, v, scale=_scale(c, q.dims[3]), bias=added, seen=seen))
    return [y, k, v][: len(c.wanted)]


@lowers("GroupQueryAttention", domain=MICROSOFT)
def _group_query(b: Builder, c: Call) -> Sequence[Value | None]:
    """Causal attention of many query heads to few key heads.

    All positions are taken for valid: sequence lengths (inputs 5 and 6), which only say what of a
    buffer is in use, are not read.
    """
    heads, groups = c.attrs["num_heads"], c.attrs["kv_num_heads"]
    query, key, value = c[0], c.get(1), c.get(2)
    if key is None or value is None:
        width = query.dims[2] // (heads + 2 * groups)
        edges = np.cumsum([0, heads * width, groups * width, groups * width])
        parts = [
            b.slice(query, 2, int(a), int(z)) for a, z in zip(edges[:-1], edges[1:], strict=True)
        ]
    else:
        parts = [query, key, value]
    q, k, v = (_heads(b, t, n) for t, n in zip(parts, (heads, groups, groups), strict=True))
    past = [c.get(3), c.get(4)]
    start = 0 if past[0] is None else past[0].dims[2]
    if c.attrs.get("do_rotary"):
        places = b.ints(range(start, start + q.dims[2]))
        interleaved = bool(c.attrs.get("rotary_interleaved"))
        q, k = (_rotate(b, t, places, cos=c[7], sin=c[8], interleaved=interleaved) for t in (q, k))
    if past[0] is not None and past[1] is not None and start:
        k, v = b.op("Concat", past[0], k, axis=2), b.op("Concat", past[1], v, axis=2)
    y = _attend(
        b,
        q,
        _repeated(b, k, heads // groups),
        v=_repeated(b, v, heads // groups),
        scale=_scale(c, q.dims[3]),
        seen=_past(q, k, c.attrs.get("local_window_size", -1)),
        softcap=c.attrs.get("softcap", 0.0),
    )
    return [_joined(b, y), k, v][: len(c.wanted)]


def _repeated(b: Builder, x: Value, times: int) -> Value:
    """Each head ``times`` times in a row."""
    if times == 1:
        return x
    rows, heads, length, width = x.dims
    wide = b.expand(
        b.reshape(x, [rows, heads, 1, length, width]), [rows, heads, times, length, width]
    )
    return b.reshape(wide, [rows, heads * times, length, width])


# -- rotary position embedding ------------------------------------------------------------------


def _rotate(
    b: Builder, x: Value, places: Value, cos: Value, sin: Value, interleaved: bool
) -> Value:
    """Pairs of elements of (B, N, S, h) turned by the angles in the caches (positions, r/2).

    ``places`` is (S,) or (B, S). Elements after the first r are left as they are.
    """
    half = cos.dims[1]
    width = 2 * half
    cosine, sine = (b.op("Gather", t, places, axis=0) for t in (cos, sin))
    if places.rank == 2:
        cosine, sine = (b.reshape(t, [t.dims[0], 1, *t.dims[1:]]) for t in (cosine, sine))
    turned = b.slice(x, 3, 0, width)
    rest = b.slice(x, 3, width, x.dims[3])
    if interleaved:
        first, second = (b.op("Gather", turned, b.ints(range(k, width, 2)), axis=3) for k in (0, 1))
    else:
        first, second = b.slice(turned, 3, 0, half), b.slice(turned, 3, half, width)
    one = b.sub(b.mul(first, cosine), b.mul(second, sine))
    two = b.add(b.mul(first, sine), b.mul(second, cosine))
    y = b.op("Concat", one, two, axis=3)
    if interleaved:
        order = np.arange(width).reshape(2, half).T.reshape(-1)
        y = b.op("Gather", y, b.ints(order), axis=3)
    return y if rest.dims[3] == 0 else b.op("Concat", y, rest, axis=3)


@lowers("RotaryEmbedding", domain=MICROSOFT)
def _rotary(b: Builder, c: Call) -> Value:
    """Inputs: x (B, S, N·h) or (B, N, S, h), positions (B, S) or a first position (1,), caches."""
    x, places, cos, sin = c[0], c[1], c[2], c[3]
    if c.attrs.get("scale", 1.0) != 1.0 or c.attrs.get("is_packed_batching"):
        raise c.refuse(
            "scales or packs its rotary positions, for which there is no rule; export without "
            "that fusion"
        )
    flat = x.rank == 3
    length = x.dims[1] if flat else x.dims[2]
    if places.size == 1 and length > 1:
        places = b.add(b.reshape(places, [1]), b.ints(range(length)))
    if flat:
        rotated = c.attrs.get("rotary_embedding_dim") or 0
        heads = c.attrs.get("num_heads") or x.dims[2] // (rotated or 2 * cos.dims[1])
        x = _heads(b, x, heads)
    y = _rotate(b, x, places, cos=cos, sin=sin, interleaved=bool(c.attrs.get("interleaved")))
    return _joined(b, y) if flat else y


# -- products with an activation ----------------------------------------------------------------


def _activated(b: Builder, c: Call, x: Value, name: str | None, parameters: list[float]) -> Value:
    if not name:
        return x
    if name == "Clip":
        return clip(b, x, *(b.scalar(p, x) for p in parameters))
    if name == "HardSigmoid":
        return hard_sigmoid(b, x, *parameters)
    alpha = parameters[0] if parameters else None
    return named_activation(b, name, alpha, beta=None, c=c)(x)


@lowers("FusedConv", domain=MICROSOFT)
def _fused_conv(b: Builder, c: Call) -> Value:
    """Inputs: x, kernel, bias, and what is added before the activation."""
    y = plain_conv(b, replace(c, inputs=c.inputs[:3]))
    added = c.get(3)
    y = y if added is None else b.add(y, added)
    parameters = list(c.attrs.get("activation_params") or [])
    return _activated(b, c, y, name=c.attrs.get("activation"), parameters=parameters)


@lowers("FusedGemm", domain=MICROSOFT)
def _fused_gemm(b: Builder, c: Call) -> Value:
    parameters = [c.attrs[k] for k in ("activation_alpha", "activation_beta") if k in c.attrs]
    return _activated(b, c, gemm(b, c), name=c.attrs.get("activation"), parameters=parameters)
