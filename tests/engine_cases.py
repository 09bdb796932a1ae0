"""Calls whose expected outputs ONNX Runtime's own kernels give.

These are the operators of com.microsoft, and settings of standard ones that ONNX's backend tests
leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graph_init.ir import Array
from tests.node_cases import NodeCase

ROWS, LENGTH, OUTPUT_STDS, WIDTH = 2, 5, 2, 4
HIDDEN = OUTPUT_STDS * WIDTH


def _floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _case(
    name: str,
    op: str,
    inputs: list[Any],
    outputs: int = 1,
    like: list[Any] | None = None,
    domain: str = "com.microsoft",
    opset: int = 17,
    **attrs: Any,
) -> NodeCase:
    """``like``: inputs of another call that gives the same, where the engine lacks a kernel."""
    if like is not None:
        expected = _case(name, op, like, outputs, domain=domain, opset=opset, **attrs).expected
        case = _model(name, op, inputs, outputs, domain=domain, opset=opset, **attrs)
        return replace(case, expected=expected)
    case = _model(name, op, inputs, outputs, domain=domain, opset=opset, **attrs)
    return replace(case, expected=_native(case.model, case.inputs))


def _model(
    name: str, op: str, inputs: list[Any], outputs: int, domain: str, opset: int, **attrs: Any
) -> NodeCase:
    given = {f"i{k}": v for k, v in enumerate(inputs) if v is not None}
    names = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(
        op,
        [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)],
        names,
        name,
        domain=domain,
        **attrs,
    )
    graph = helper.make_graph(
        [node],
        name,
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in given.items()
        ],
        [helper.make_empty_tensor_value_info(n) for n in names],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    return NodeCase(name=name, model=model, inputs=given, expected={}, rtol=1e-3, atol=1e-5)


def _native(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, feeds)
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


def _packed(x: Array, key: Array, longer: Array) -> Iterator[NodeCase]:
    """Queries, keys and values in one tensor, which the engine takes on GPUs only."""

    def apart(v: Array) -> Array:
        return v.reshape(*v.shape[:2], OUTPUT_STDS, 1, WIDTH)

    yield _case(
        "MultiHeadAttention packed",
        "MultiHeadAttention",
        [np.concatenate([apart(x), apart(key), apart(key + 1)], axis=3)],
        like=[x, key, key + 1],
        num_heads=OUTPUT_STDS,
    )
    yield _case(
        "MultiHeadAttention packed key and value",
        "MultiHeadAttention",
        [x, np.concatenate([apart(longer), apart(longer + 1)], axis=3)],
        like=[x, longer, longer + 1],
        num_heads=OUTPUT_STDS,
    )


def _caches(half: int) -> tuple[Array, Array]:
    angles = np.arange(16)[:, None] / 10 ** (np.arange(half) / half)[None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def fused() -> Iterator[NodeCase]:
    """The operators of com.microsoft, in the forms that the optimiser writes."""
    x, skip = _floats(ROWS, LENGTH, HIDDEN), _floats(ROWS, LENGTH, HIDDEN, seed=1)
    gain, shift, bias = (_floats(HIDDEN, seed=k) for k in (2, 3, 4))
    wide = _floats(3 * HIDDEN, seed=5)
    for op, attrs in (("Gelu", {}), ("QuickGelu", {}), ("QuickGelu", {"alpha": 1.0})):
        yield _case(f"{op}{attrs or ''}", op, [x], **attrs)
    yield _case("BiasGelu", "BiasGelu", [x, bias])
    yield _case("FastGelu", "FastGelu", [x])
    yield _case("FastGelu bias", "FastGelu", [x, bias])
    yield _case("SkipLayerNorm", "SkipLayerNormalization", [x, skip, gain, shift], epsilon=1e-5)
    yield _case(
        "SkipLayerNorm bias", "SkipLayerNormalization", [x, skip, gain, shift, bias], epsilon=1e-5
    )
    yield _case("SkipLayerNorm no shift", "SkipLayerNormalization", [x, skip, gain], epsilon=1e-5)
    yield _case("SkipRMSNorm", "SkipSimplifiedLayerNormalization", [x, skip, gain], epsilon=1e-5)
    # The kernel of 1.19 leaves the bias out; added to the input it is the same.
    yield _case(
        "SkipRMSNorm bias",
        "SkipSimplifiedLayerNormalization",
        [x, skip, gain, bias],
        like=[x + bias, skip, gain],
        epsilon=1e-5,
    )
    ids = np.random.default_rng(0).integers(0, 11, (ROWS, LENGTH)).astype(np.int32)
    kinds = np.random.default_rng(1).integers(0, 2, (ROWS, LENGTH)).astype(np.int32)
    mask = np.ones((ROWS, LENGTH), np.int32)
    mask[1, 3:] = 0
    tables = [_floats(11, HIDDEN), _floats(LENGTH, HIDDEN), _floats(2, HIDDEN)]
    yield _case(
        "EmbedLayerNorm",
        "EmbedLayerNormalization",
        [ids, kinds, *tables, gain, shift, mask],
        outputs=2,
    )
    yield _case(
        "EmbedLayerNorm no segments",
        "EmbedLayerNormalization",
        [ids, None, tables[0], tables[1], None, gain, shift],
        outputs=2,
    )
    weights = _floats(HIDDEN, 3 * HIDDEN, seed=6)
    for name, extra, attrs in (
        ("", [], {}),
        (" mask", [mask], {}),
        (" lengths", [np.array([5, 3], np.int32)], {}),
        (" causal", [], {"unidirectional": 1}),
        (" scale", [], {"scale": 0.3}),
        (" past", [None, _floats(2, ROWS, OUTPUT_STDS, 3, WIDTH)], {"unidirectional": 1}),
    ):
        outputs = 2 if "past" in name else 1
        yield _case(
            f"Attention{name}",
            "Attention",
            [x, weights, wide, *extra],
            outputs,
            num_heads=OUTPUT_STDS,
            **attrs,
        )
    key, value = _floats(ROWS, 7, HIDDEN, seed=7), _floats(ROWS, 7, HIDDEN, seed=8)
    added = _floats(ROWS, OUTPUT_STDS, LENGTH, 7, seed=9)
    padding = np.ones((ROWS, LENGTH), np.int32)
    padding[0, 3:] = 0
    for name, inputs in (
        ("", [x, key, value]),
        (" bias", [x, key, value, wide]),
        # The kernel goes wrong where there are more keys than queries under a mask.
        (" padding", [x, skip, skip, None, padding]),
        (" added", [x, key, value, wide, None, added]),
    ):
        yield _case(
            f"MultiHeadAttention{name}", "MultiHeadAttention", inputs, num_heads=OUTPUT_STDS
        )
    yield from _packed(x, skip, key)
    query = _floats(ROWS, LENGTH, 4 * 16, seed=10)
    small = [_floats(ROWS, LENGTH, 2 * 16, seed=k) for k in (11, 12)]
    counts = [np.full(ROWS, LENGTH - 1, np.int32), np.array(LENGTH, np.int32)]
    empty = [np.zeros((ROWS, 2, 0, 16), np.float32)] * 2
    caches = _caches(8)
    for name, attrs in (
        ("", {}),
        (" rotary", {"do_rotary": 1}),
        (" rotary interleaved", {"do_rotary": 1, "rotary_interleaved": 1}),
        (" window", {"local_window_size": 2}),
    ):
        rotary = list(caches) if "rotary" in name else []
        yield _case(
            f"GroupQueryAttention{name}",
            "GroupQueryAttention",
            [query, *small, *empty, *counts, *rotary],
            3,
            num_heads=4,
            kv_num_heads=2,
            **attrs,
        )
    positions = np.tile(np.arange(LENGTH), (ROWS, 1))
    for name, inputs, attrs in (
        ("", [query, positions, *caches], {}),
        (" interleaved", [query, positions, *caches], {"interleaved": 1}),
        (" start", [query, np.array([2]), *caches], {}),
        (" heads apart", [_floats(ROWS, 4, LENGTH, 16), positions, *caches], {}),
        (" part", [query, positions, *_caches(4)], {"rotary_embedding_dim": 8, "num_heads": 4}),
    ):
        yield _case(f"RotaryEmbedding{name}", "RotaryEmbedding", inputs, **attrs)
    left, right = _floats(3, 4, 5), _floats(3, 5, 6)
    for name, a, c, attrs in (
        ("", left, right, {"alpha": 0.5}),
        (" transA", _floats(3, 5, 4), right, {"transA": 1}),
        (" transB", left, _floats(3, 6, 5), {"transB": 1}),
        (" batches", _floats(4, 3, 5), _floats(5, 3, 6), {"transBatchA": 1, "transBatchB": 1}),
    ):
        yield _case(f"FusedMatMul{name}", "FusedMatMul", [a, c], **attrs)
    image, kernel = _floats(2, 3, 6, 6), _floats(4, 3, 3, 3)
    for name, attrs in (
        ("Relu", {}),
        ("Tanh", {}),
        ("Sigmoid", {}),
        ("LeakyRelu", {"activation_params": [0.1]}),
        ("Clip", {"activation_params": [-0.5, 0.5]}),
        ("HardSigmoid", {"activation_params": [0.2, 0.5]}),
    ):
        yield _case(
            f"FusedConv {name}",
            "FusedConv",
            [image, kernel, _floats(4)],
            activation=name,
            pads=[1, 1, 1, 1],
            **attrs,
        )
    yield _case(
        "FusedConv sum",
        "FusedConv",
        [image, kernel, _floats(4), _floats(2, 4, 4, 4)],
        activation="Relu",
    )
    yield _case(
        "FusedGemm", "FusedGemm", [_floats(3, 4), _floats(4, 5), _floats(5)], activation="Relu"
    )


def _standard(op: str, setting: str, inputs: list[Any], outputs: int = 1, **more: Any) -> NodeCase:
    return _case(f"{op} {setting}", op, inputs, outputs, domain="", **more)


def standard() -> Iterator[NodeCase]:
    """Settings of standard operators that the backend tests leave out."""
    yield from _convolutions()
    yield from _recurrent()
    yield from _resizing()
    yield from _products()
    yield from _rest()


def _convolutions() -> Iterator[NodeCase]:
    for n, size in ((1, 9), (2, 7), (3, 5)):
        space = (size,) * n
        x = _floats(2, 4, *space)
        for setting, kernel, attrs in (
            ("grouped", (6, 2, *(3,) * n), {"group": 2}),
            ("depthwise", (4, 1, *(3,) * n), {"group": 4, "pads": [1] * 2 * n}),
            ("strided", (3, 4, *(3,) * n), {"strides": [2] * n, "pads": [1, 0] * n}),
            ("dilated", (3, 4, *(2,) * n), {"dilations": [2] * n}),
        ):
            bias = _floats(kernel[0])
            yield _standard("Conv", f"{n}-D {setting}", [x, _floats(*kernel), bias], **attrs)
        for setting, kernel, attrs in (
            ("strided", (4, 3, *(3,) * n), {"strides": [2] * n}),
            ("grouped", (4, 3, *(3,) * n), {"group": 2, "pads": [1] * 2 * n}),
            ("padded", (4, 2, *(3,) * n), {"strides": [2] * n, "output_padding": [1] * n}),
            ("same", (4, 2, *(3,) * n), {"strides": [2] * n, "auto_pad": "SAME_UPPER"}),
            ("cut", (4, 2, *(2,) * n), {"pads": [2] * 2 * n}),
        ):
            width = kernel[1] * attrs.get("group", 1)  # type: ignore[call-overload]
            inputs = [x, _floats(*kernel), _floats(width)]
            yield _standard("ConvTranspose", f"{n}-D {setting}", inputs, **attrs)
        for op in ("AveragePool", "MaxPool", "LpPool"):
            opset = 19 if op == "AveragePool" else 18 if op == "LpPool" else 17
            attrs = {"kernel_shape": [3] * n, "strides": [2] * n, "pads": [1] * 2 * n}
            yield _standard(op, f"{n}-D", [x], opset=opset, **attrs)
            dilated = {"kernel_shape": [2] * n, "dilations": [2] * n}
            yield _standard(op, f"{n}-D dilated", [x], opset=opset, **dilated)
    for p in (1, 2, 3):
        x = _floats(2, 3, 5, 5)
        yield _standard("LpPool", f"p={p}", [x], kernel_shape=[2, 2], p=p, opset=18)
        yield _standard("GlobalLpPool", f"p={p}", [x], p=p)


def _recurrent() -> Iterator[NodeCase]:
    steps, rows, width, hidden = 4, 3, 2, 3
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}
    lengths = np.array([4, 2, 3], np.int32)
    for op, count in gates.items():
        for direction in ("forward", "reverse", "bidirectional"):
            d = 2 if direction == "bidirectional" else 1
            x = _floats(steps, rows, width)
            w = _floats(d, count * hidden, width) * 0.5
            r = _floats(d, count * hidden, hidden, seed=1) * 0.5
            bias = _floats(d, 2 * count * hidden, seed=2)
            start = _floats(d, rows, hidden, seed=3)
            states = 2 if op == "LSTM" else 1
            inputs = [x, w, r, bias, lengths, *[start] * states]
            attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
            yield _standard(op, f"{direction} with lengths", inputs, 1 + states, **attrs)
            yield _standard(op, direction, [x, w, r], 1 + states, **attrs)
        yield _standard(op, "clipped", [x, w, r, bias], clip=0.5, **attrs)
    names = ["HardSigmoid", "ScaledTanh", "Softsign"]
    yield _standard(
        "LSTM",
        "activations",
        [x, w, r],
        hidden_size=hidden,
        direction="bidirectional",
        activations=names * 2,
        activation_alpha=[0.3, 0.7] * 2,
        activation_beta=[0.4, 0.6] * 2,
    )
    peephole = _floats(2, 3 * hidden, seed=4)
    yield _standard("LSTM", "peepholes", [x, w, r, bias, None, None, None, peephole], 3, **attrs)
    w, r, bias = _floats(2, 9, width), _floats(2, 9, hidden, seed=1), _floats(2, 18)
    for before in (0, 1):
        yield _standard(
            "GRU", f"reset {before}", [x, w, r, bias], 2, linear_before_reset=before, **attrs
        )


def _resizing() -> Iterator[NodeCase]:
    x = _floats(1, 2, 5, 6)
    up, down = np.array([1, 1, 1.6, 2], np.float32), np.array([1, 1, 0.6, 0.5], np.float32)
    for mode in ("nearest", "linear", "cubic"):
        for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            for name, scales in (("up", up), ("down", down)):
                yield _standard(
                    "Resize",
                    f"{mode} {coordinates} {name}",
                    [x, None, scales],
                    mode=mode,
                    coordinate_transformation_mode=coordinates,
                    # Halves depend on rounding in single precision.
                    nearest_mode="floor" if mode == "nearest" else "round_prefer_floor",
                )
    volume = _floats(1, 1, 3, 4, 3)
    yield _standard(
        "Resize", "volume", [volume, None, np.array([1, 1, 2, 2, 2], np.float32)], mode="linear"
    )


def _products() -> Iterator[NodeCase]:
    a, b, c = _floats(2, 3, 4), _floats(2, 4, 5), _floats(5, 3, seed=1)
    for equation, inputs in (
        ("bij,bjk->bik", [a, b]),
        ("bij,bjk->kb", [a, b]),
        ("bij,bjk,ki->b", [a, b, c]),
        ("...ij,...jk->...ik", [a, b]),
        ("bij->ijb", [a]),
        ("bij->b", [a]),
        ("bij,ck->bc", [a, c]),
        ("bij,bij->", [a, a]),
        ("bij,bkl->bijkl", [a, b]),
        ("ii->i", [_floats(4, 4)]),
        ("iij->j", [_floats(3, 3, 2)]),
        ("ij,jk", [_floats(2, 3), _floats(3, 4)]),
        ("bhqd,bhkd->bhqk", [_floats(2, 2, 3, 4), _floats(2, 2, 5, 4)]),
    ):
        yield _standard("Einsum", equation, inputs, equation=equation)
    yield _standard(
        "Gemm",
        "scaled",
        [_floats(3, 2), _floats(4, 3), _floats(4)],
        alpha=0.5,
        beta=2.0,
        transA=1,
        transB=1,
    )
    for left, right in (
        ((4,), (4,)),
        ((4,), (2, 4, 3)),
        ((2, 3, 4), (4,)),
        ((5, 1, 2, 4), (3, 4, 2)),
    ):
        yield _standard("MatMul", f"{left} {right}", [_floats(*left), _floats(*right, seed=1)])


def _rest() -> Iterator[NodeCase]:
    x = _floats(3, 4, 5)
    yield _standard("Cast", "to double and back", [x], to=1)
    yield _standard("CastLike", "float", [x, _floats(1)])
    yield _standard("Trilu", "upper", [x], upper=1)
    yield _standard("Trilu", "lower", [x, np.array(1, np.int64)], upper=0)
    for axis in range(3):
        for op in ("Softmax", "LogSoftmax"):
            yield _standard(op, f"axis {axis} of old", [x], axis=axis, opset=11)
            yield _standard(op, f"axis {axis}", [x], axis=axis)
        yield _standard("Hardmax", f"axis {axis}", [x], axis=axis)
    yield _standard("Pad", "negative", [x, np.array([1, -1, 0, -1, 2, 1])])
    for mode in ("reflect", "edge"):
        yield _standard("Pad", mode, [x, np.array([1, 2, 0, 2, 1, 3])], mode=mode)
    yield _standard(
        "Slice",
        "steps",
        [x, np.array([4, 2]), np.array([-9, 0]), np.array([2, 1]), np.array([-2, -1])],
    )
    k = np.array([2])
    yield _standard("TopK", "smallest", [x, k], 2, axis=1, largest=0)
    index = np.array([[0, 2, -1], [1, 1, 3]])
    yield _standard("Gather", "negative", [x, index], axis=1)
    yield _standard("GatherElements", "negative", [x, np.array([[[0, -1], [1, 1]]])], axis=2)
    yield _standard("GatherND", "batched", [x, np.array([[1, 0], [3, 2], [-1, 4]])], batch_dims=1)
    places = np.array([[[0, 1, -1, 2, 0]] * 2] * 2) % 3
    for reduction in ("none", "add", "mul"):
        updates = _floats(2, 2, 5, seed=1)
        unique = np.array([[[0] * 5, [1] * 5], [[2] * 5, [0] * 5]])
        chosen = unique if reduction == "none" else places
        yield _standard(
            "ScatterElements",
            reduction,
            [x, chosen, updates],
            axis=0,
            reduction=reduction,
            opset=16,
        )
        rows = np.array([[2], [0]] if reduction == "none" else [[2], [2]])
        yield _standard(
            "ScatterND",
            reduction,
            [x, rows, _floats(2, 4, 5, seed=1)],
            reduction=reduction,
            opset=16,
        )
    values = [_floats(4, seed=k) for k in range(4)]
    positive = np.abs(values[3]) + 0.1
    image = _floats(2, 4, 3)
    for opset in (9, 14):
        yield _standard(
            "BatchNormalization", f"opset {opset}", [image, *values[:3], positive], opset=opset
        )
    for axis in (1, -1):
        yield _standard(
            "LayerNormalization",
            f"axis {axis}",
            [x, _floats(*x.shape[axis:]), _floats(*x.shape[axis:], seed=1)],
            axis=axis,
        )
    yield _standard("PRelu", "per channel", [_floats(2, 3, 4, 4), _floats(3, 1, 1)])
    yield _standard("Clip", "old", [x], opset=7, min=-0.5, max=0.5)
    yield _standard("Max", "three", [x, _floats(5), _floats(4, 1)])
    yield _standard("Sum", "three", [x, _floats(5), _floats(4, 1)])
    yield _standard("Mean", "three", [x, _floats(5), _floats(4, 1)])
    yield _standard(
        "Where", "broadcasting", [np.array([[True], [False], [True], [True]]), _floats(5), x]
    )
