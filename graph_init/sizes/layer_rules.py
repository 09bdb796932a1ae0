"""Rules for layers with weights: products, convolutions, pools, norms, recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graph_init.sizes.known import Call, Conflict, Dim, Dims, Known, UnknownShape, marks_of, product
from graph_init.sizes.shape_rules import broadcast, equal, names, rule

# -- products -----------------------------------------------------------------------------------


@rule("MatMul", "FusedMatMul")
def _matmul(c: Call) -> list[Known]:
    a, b = c.dims(0), c.dims(1)
    if c.attr("transA"):
        a = (*a[:-2], a[-1], a[-2])
    if c.attr("transB"):
        b = (*b[:-2], b[-1], b[-2])
    inner = b[-2] if len(b) > 1 else b[-1]
    equal(a[-1], inner, f"multiplies {names(a)} by {names(b)}: {int(a[-1])} is not {int(inner)}")
    left = a[-2:-1] if len(a) > 1 else ()
    right = b[-1:] if len(b) > 1 else ()
    stacked = broadcast(a[:-2], b[:-2]) if len(a) > 2 or len(b) > 2 else ()
    return [Known(c.dtype(), (*stacked, *left, *right))]


@rule("Gemm")
def _gemm(c: Call) -> list[Known]:
    a, b = c.dims(0), c.dims(1)
    if len(a) != 2 or len(b) != 2:
        raise Conflict(f"multiplies tensors of {len(a)} and {len(b)} axes, which must be two")
    a = a[::-1] if c.attr("transA") else a
    b = b[::-1] if c.attr("transB") else b
    equal(a[1], b[0], f"reads {int(b[0])} features and is given {int(a[1])}")
    return [Known(c.dtype(), (a[0], b[1]))]


# -- windows ------------------------------------------------------------------------------------


def _window(c: Call, spatial: Dims, kernel: Sequence[int], ceil: bool = False) -> Dims:
    """Spatial sizes behind a window that goes over ``spatial``."""
    rank = len(spatial)
    strides = c.attr("strides") or [1] * rank
    dilations = c.attr("dilations") or [1] * rank
    auto = c.attr("auto_pad", "NOTSET")
    pads = c.attr("pads") or [0] * (2 * rank)
    result: list[int] = []
    for k, size in enumerate(spatial):
        extent = dilations[k] * (kernel[k] - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            result.append((size + (strides[k] - 1)) // strides[k])
            continue
        around = 0 if auto == "VALID" else pads[k] + pads[k + rank]
        if size + around < extent:
            words = f"has a window of {int(extent)}, and the axis has {int(size)}"
            raise Conflict(words, size, extent - around, True)
        room = size + around - extent
        result.append((room + (strides[k] - 1 if ceil else 0)) // strides[k] + 1)
    return tuple(result)


def _channels(x: Dims, wanted: int) -> None:
    equal(x[1], wanted, f"reads {int(wanted)} channels and is given {int(x[1])}")


@rule("Conv", "FusedConv")
def _conv(c: Call) -> list[Known]:
    x, w = c.dims(0), c.dims(1)
    if len(x) != len(w):
        raise Conflict(f"has a kernel of {len(w)} axes for an input of {len(x)}")
    _channels(x, w[1] * c.attr("group", 1))
    return [Known(c.dtype(), (x[0], w[0], *_window(c, x[2:], w[2:])))]


@rule("ConvTranspose")
def _conv_transpose(c: Call) -> list[Known]:
    x, w = c.dims(0), c.dims(1)
    _channels(x, w[0])
    rank = len(x) - 2
    strides = c.attr("strides") or [1] * rank
    dilations = c.attr("dilations") or [1] * rank
    more = c.attr("output_padding") or [0] * rank
    pads = c.attr("pads") or [0] * (2 * rank)
    given, auto = c.attr("output_shape"), c.attr("auto_pad", "NOTSET")
    spatial: list[int] = []
    for k in range(rank):
        if given:
            spatial.append(Dim(given[k - rank]))
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            spatial.append(x[k + 2] * strides[k])
        else:
            extent = dilations[k] * (w[k + 2] - 1) + 1
            whole = (x[k + 2] - 1) * strides[k] + extent + more[k]
            spatial.append(whole - pads[k] - pads[k + rank])
    return [Known(c.dtype(), (x[0], w[1] * c.attr("group", 1), *spatial))]


@rule("MaxPool", "AveragePool", "LpPool")
def _pool(c: Call) -> list[Known]:
    x = c.dims(0)
    shape = (*x[:2], *_window(c, x[2:], c.attr("kernel_shape"), bool(c.attr("ceil_mode"))))
    return [Known(c.dtype(), shape)] * len(c.node.outputs)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(c: Call) -> list[Known]:
    x = c.dims(0)
    return [Known(c.dtype(), (*x[:2], *(Dim(1) for _ in x[2:])))]


@rule("Resize", "Upsample")
def _resize(c: Call) -> list[Known]:
    x = c.dims(0)
    sizes, scales = c.get(3), c.get(2) if c.node.op_type == "Resize" else c.get(1)
    if c.node.op_type == "Resize" and c.opset < 11:
        scales = c.get(1)
    axes = [int(a) % len(x) for a in c.attr("axes") or range(len(x))]
    result = list(x)
    if c.attr("scales") is not None:
        factors: Sequence[float] = c.attr("scales")
        marks = 0
    elif sizes is not None:
        for axis, n in zip(axes, c.numbers(3), strict=True):
            result[axis] = n
        return [Known(c.dtype(), tuple(result))]
    elif scales is not None and scales.content is not None:
        factors, marks = scales.content.ravel().tolist(), scales.followed
    else:
        raise UnknownShape
    for axis, factor in zip(axes, factors, strict=True):
        result[axis] = Dim(int(x[axis] * factor + 1e-6), marks_of(x[axis]) | marks)
    return [Known(c.dtype(), tuple(result))]


# -- norms --------------------------------------------------------------------------------------


@rule("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def _channel_norm(c: Call) -> list[Known]:
    x, gain = c.dims(0), c.dims(1)
    if c.node.op_type != "GroupNormalization" and len(x) > 1:
        _channels(x, gain[0])
    statistics = [Known(c.dtype(1), gain)] * (len(c.node.outputs) - 1)
    return [Known(c.dtype(), x), *statistics]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(c: Call) -> list[Known]:
    x, gain = c.dims(0), c.get(1)
    if gain is not None and gain.dims is not None:
        broadcast(x[c.attr("axis", -1) % len(x) :], gain.dims)
    return [Known(c.dtype(), x)] * len(c.node.outputs)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(c: Call) -> list[Known]:
    return [Known(c.dtype(), broadcast(c.dims(0), c.dims(1)))] * len(c.node.outputs)


# -- recurrent layers ---------------------------------------------------------------------------


@rule("LSTM", "GRU", "RNN")
def _recurrent(c: Call) -> list[Known]:
    x, w, r = c.dims(0), c.dims(1), c.dims(2)
    equal(x[2], w[2], f"reads {int(w[2])} features and is given {int(x[2])}")
    steps, rows = (x[1], x[0]) if c.attr("layout") else (x[0], x[1])
    directions, width = w[0], r[2]
    for slot in (5, 6):
        state = c.get(slot)
        if state is not None and state.dims is not None:
            theirs = state.dims[0 if c.attr("layout") else 1]
            words = f"has {int(rows)} rows and is given a state of {int(theirs)}"
            rows = equal(rows, theirs, words)
    lengths = c.get(4)
    if lengths is not None and lengths.dims:
        words = f"has {int(rows)} rows and is given {int(lengths.dims[0])} lengths"
        rows = equal(rows, lengths.dims[0], words)
    if c.attr("layout"):
        whole, last = (rows, steps, directions, width), (rows, directions, width)
    else:
        whole, last = (steps, directions, rows, width), (directions, rows, width)
    return [Known(c.dtype(), whole), Known(c.dtype(), last), Known(c.dtype(), last)]


@rule("Attention")
def _attention(c: Call) -> list[Known]:
    if c.node.domain != "com.microsoft":
        raise UnknownShape
    x, w = c.dims(0), c.dims(1)
    equal(x[2], w[0], f"reads {int(w[0])} features and is given {int(x[2])}")
    return [Known(c.dtype(), (*x[:2], w[1] // 3))]


# -- spectra ------------------------------------------------------------------------------------


@rule("DFT")
def _dft(c: Call) -> list[Known]:
    x = list(c.dims(0))
    axes = c.numbers(2) if c.get(2) is not None else [c.attr("axis", 1 if c.opset < 20 else -2)]
    axis = int(axes[0]) % len(x)
    length = c.numbers(1)[0] if c.get(1) is not None else x[axis]
    x[axis], x[-1] = length // 2 + 1 if c.attr("onesided") else length, Dim(2)
    return [Known(c.dtype(), tuple(x))]


@rule("STFT")
def _stft(c: Call) -> list[Known]:
    x, (step,), window = c.dims(0), c.numbers(1), c.get(2)
    if c.get(3) is not None:
        length = c.numbers(3)[0]
    else:
        length = c.dims(2)[0] if window is not None else x[1]
    if length > x[1]:
        words = f"has a window of {int(length)}, and the axis has {int(x[1])}"
        raise Conflict(words, x[1], length, True)
    bins = length // 2 + 1 if c.attr("onesided", 1) else length
    return [Known(c.dtype(), (x[0], (x[1] - length) // step + 1, bins, Dim(2)))]


# -- work ---------------------------------------------------------------------------------------


def _kernel(c: Call, made: Dims) -> int:
    return int(product(made) * product(c.dims(1)[1:]))


#: Multiplications of a layer, by what it reads and makes.
WORK: Mapping[str, Callable[[Call, Dims], int]] = {
    "MatMul": lambda c, made: int(product(made) * c.dims(0)[-1]),
    "FusedMatMul": lambda c, made: int(product(made) * c.dims(0)[-1]),
    "Gemm": lambda c, made: int(product(made) * product(c.dims(1)) // max(made[1], 1)),
    "Conv": _kernel,
    "FusedConv": _kernel,
    "ConvTranspose": lambda c, made: int(product(c.dims(0)) * product(c.dims(1)[1:])),
    **dict.fromkeys(
        ("LSTM", "GRU", "RNN"),
        lambda c, made: int(product(c.dims(0)[:2]) * (product(c.dims(1)) + product(c.dims(2)))),
    ),
}
