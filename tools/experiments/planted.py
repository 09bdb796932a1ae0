"""How often the analyzer takes a fixed table for a weight, and a weight for a table.

Small models in which one tensor is planted: a table of signal processing or geometry, or a random
or trained tensor in the same place and of the same shape. `python -m tools.experiments.planted`
prints the share of errors; the forms of HELD_OUT were not looked at while the rules were written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graph_init.analysis import Parameter, analyze

Array = Any
Made = tuple[str, Array]
Maker = Callable[[np.random.Generator], Made]


# -- the models ----------------------------------------------------------------------------------


def planted(use: str, table: Array) -> Parameter:
    """What the analyzer says of ``table`` as the tensor ``t`` of a model."""
    shape = table.shape
    after = {"matmul": shape[-1:], "window": shape, "add": shape[-1:], "gather": shape[-1:]}
    first, inputs = {
        "matmul": ("MatMul", [2, 3, shape[0]]),
        "conv1d": ("Conv", [2, 1, 4 * shape[-1]]),
        "inverse": ("ConvTranspose", [2, shape[0], 5]),
        "depthwise": ("Conv", [2, shape[0], *(3 * n for n in shape[2:])]),
        "window": ("Mul", [2, *shape]),
        "add": ("Add", [2, *shape]),
        "gather": ("Gather", [2, 3]),
    }[use]
    names = ["t", "x"] if use == "gather" else ["x", "t"]
    options: dict[str, Any] = {
        "conv1d": {"strides": [max(1, shape[-1] // 4)]},
        "inverse": {"strides": [max(1, shape[-1] // 4)]},
        "depthwise": {"group": shape[0]},
    }.get(use, {})
    nodes = [helper.make_node(first, names, ["a"], "first", **options)]
    nodes.append(helper.make_node("Tanh", ["a"], ["b"]))
    weights = [numpy_helper.from_array(np.asarray(table), "t")]
    at = "b"
    if use in after:
        w = np.random.default_rng(0).standard_normal((after[use][-1], 5)).astype(table.dtype)
        weights.append(numpy_helper.from_array(w, "w"))
        nodes.append(helper.make_node("MatMul", ["b", "w"], ["c"]))
        at = "c"
    nodes.append(helper.make_node("Relu", [at], ["y"]))
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    given = TensorProto.INT64 if use == "gather" else kind
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", given, inputs)],
        [helper.make_tensor_value_info("y", kind, None)],
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return next(p for p in analyze(ir.from_proto(model)) if p.name == "t")


# -- tables --------------------------------------------------------------------------------------


def _windows(n: int) -> dict[str, Array]:
    t = 2 * np.pi * np.arange(n) / n
    return {
        "none": np.ones(n),
        "hann": 0.5 - 0.5 * np.cos(t),
        "hamming": 0.54 - 0.46 * np.cos(t),
        "blackman": 0.42 - 0.5 * np.cos(t) + 0.08 * np.cos(2 * t),
        "gauss": np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 6)) ** 2),
        "kaiser": np.kaiser(n, 8.0),
    }


def _any_window(rng: np.random.Generator, n: int) -> Array:
    return list(_windows(n).values())[int(rng.integers(6))]


def _mel(bins: int, filters: int, curved: bool, normed: bool) -> Array:
    """Triangles over ``bins`` frequencies up to 8 kHz; ``curved``: linear in mel, not in Hz."""
    to_mel, to_hz = (lambda f: 1127 * np.log1p(f / 700)), (lambda m: 700 * np.expm1(m / 1127))
    hz = np.linspace(0, 8000, bins)
    edges = np.linspace(to_mel(20.0), to_mel(8000.0), filters + 2)
    at = to_mel(hz) if curved else hz
    corners = edges if curved else to_hz(edges)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bank = np.maximum(0, np.minimum((at - left) / (middle - left), (right - at) / (right - middle)))
    return bank * (2 / (right - left) if normed else 1)


def mel(rng: np.random.Generator) -> Made:
    bins, filters = int(rng.choice([129, 201, 257, 513])), int(rng.choice([20, 40, 64, 80]))
    bank = _mel(bins, filters, curved=rng.random() < 0.5, normed=rng.random() < 0.5)
    return ("matmul", bank.T) if rng.random() < 0.7 else ("conv1d", bank[:, None])


def stft(rng: np.random.Generator) -> Made:
    n = int(rng.choice([32, 64, 128, 256]))
    k = np.arange(n // 2 + 1)[:, None] * np.arange(n) * 2 * np.pi / n
    window = _any_window(rng, n)
    parts = np.cos(k) * window, -np.sin(k) * window
    both = np.concatenate(parts) if rng.random() < 0.5 else np.stack(parts, 1).reshape(-1, n)
    return "conv1d", both[:, None]


def one_part(rng: np.random.Generator) -> Made:
    n = int(rng.choice([32, 64, 200, 256]))
    k = np.arange(n // 2 + 1) * np.arange(n)[:, None] * 2 * np.pi / n
    return "matmul", (np.cos(k) if rng.random() < 0.5 else np.sin(k)) * _any_window(rng, n)[:, None]


def inverse_stft(rng: np.random.Generator) -> Made:
    n = int(rng.choice([32, 64, 128]))
    k = np.arange(n // 2 + 1)[:, None] * np.arange(n) * 2 * np.pi / n
    scale = np.where((np.arange(n // 2 + 1) % (n // 2)) == 0, 1, 2)[:, None] / n
    both = np.concatenate([np.cos(k) * scale, -np.sin(k) * scale]) * _any_window(rng, n)
    return "inverse", both[:, None]


def log_spaced(rng: np.random.Generator) -> Made:
    n, pairs = int(rng.choice([64, 128])), int(rng.integers(8, 40))
    k = 2 * np.pi * np.geomspace(0.02, 0.45, pairs)[:, None] * np.arange(n)
    window = _windows(n)["hann"] + 0.01
    return "conv1d", np.concatenate([np.cos(k) * window, np.sin(k) * window])[:, None]


def dct(rng: np.random.Generator) -> Made:
    n = int(rng.choice([8, 40, 64, 80]))
    kept = int(rng.integers(8, n + 1))
    basis = np.cos(np.pi * (2 * np.arange(n)[:, None] + 1) * np.arange(kept) / (2 * n))
    if rng.random() < 0.5:
        basis *= np.where(np.arange(kept) == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    return "matmul", basis


def window(rng: np.random.Generator) -> Made:
    n = int(rng.choice([16, 64, 400, 512]))
    names = [name for name in _windows(n) if name != "none"]
    return "window", _windows(n)[names[int(rng.integers(len(names)))]]


def _sinc(rng: np.random.Generator, n: int, cut: float) -> Array:
    t = np.arange(n) - (n - 1) / 2
    kernel = np.sinc(2 * cut * t) * np.kaiser(n, 5.0)
    return kernel / kernel.sum()


def resample(rng: np.random.Generator) -> Made:
    n, channels = int(rng.choice([7, 12, 24, 63])), int(rng.choice([1, 4, 16]))
    kernel = _sinc(rng, n, float(rng.uniform(0.1, 0.3)))
    return "depthwise", np.broadcast_to(kernel, (channels, 1, n)).copy()


def phases(rng: np.random.Generator) -> Made:
    new, old, width = int(rng.choice([2, 3, 4, 5])), int(rng.choice([1, 3, 7])), 6
    rate = min(new, old) * 0.99
    scale = int(np.ceil(width * old / rate))
    t = (-np.arange(new)[:, None] / new + np.arange(-scale, scale + old) / old) * rate
    t = np.clip(t, -width, width)
    return "conv1d", (np.cos(t * np.pi / width / 2) ** 2 * np.sinc(t) * rate / old)[:, None]


def blur(rng: np.random.Generator) -> Made:
    n, channels = int(rng.choice([3, 5, 7])), int(rng.choice([1, 3, 16]))
    binomial = np.array([1.0])
    for _ in range(n - 1):
        binomial = np.convolve(binomial, [1, 1])
    row = binomial if rng.random() < 0.5 else np.exp(-0.5 * (np.arange(n) - n // 2) ** 2)
    kernel = np.outer(row, row) / row.sum() ** 2
    return "depthwise", np.broadcast_to(kernel, (channels, 1, n, n)).copy()


def _angles(rows: int, width: int) -> Array:
    return np.arange(rows)[:, None] / 10000 ** (np.arange(0, width, 2) / width)


def sinusoidal(rng: np.random.Generator) -> Made:
    angles = _angles(int(rng.choice([16, 50, 128])), int(rng.choice([16, 32, 64])))
    parts = np.sin(angles), np.cos(angles)
    table = (
        np.concatenate(parts, 1)
        if rng.random() < 0.5
        else np.stack(parts, 2).reshape(len(angles), -1)
    )
    return "add", table


def rotary(rng: np.random.Generator) -> Made:
    angles = _angles(int(rng.choice([32, 128])), int(rng.choice([16, 32, 64])))
    table = np.cos(angles) if rng.random() < 0.5 else np.sin(angles)
    return "gather", np.concatenate([table, table], 1)


def grid(rng: np.random.Generator) -> Made:
    sizes = [int(n) for n in rng.choice([8, 10, 13, 20, 26], int(rng.integers(1, 4)))]
    parts = []
    for n in sizes:
        y, x = np.mgrid[:n, :n]
        parts.append(np.stack([x, y], -1).reshape(-1, 2) + 0.5)
    return "add", np.concatenate(parts)


def anchors(rng: np.random.Generator) -> Made:
    n, boxes = int(rng.choice([10, 16, 20])), int(rng.integers(2, 5))
    y, x = np.mgrid[:n, :n] / n + 0.5 / n
    sides = rng.uniform(0.1, 0.9, (boxes, 2))
    corners = np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, 0)
    return "add", np.concatenate([corners, np.tile(sides, (n * n, 1))], 1)


def ramp(rng: np.random.Generator) -> Made:
    n = int(rng.choice([8, 16, 40]))
    return "add", np.arange(n) * float(rng.choice([1, 0.5, 8])) + float(rng.choice([0, 0.5]))


# ---- not looked at while the rules were written


def bark(rng: np.random.Generator) -> Made:
    hz = np.linspace(0, 8000, int(rng.choice([129, 257])))
    scale = 6 * np.arcsinh(hz / 600)
    centres = np.linspace(scale[0], scale[-1], int(rng.choice([18, 24])) + 2)[1:-1]
    slope = np.minimum(scale - centres[:, None] + 1.3, -2.5 * (scale - centres[:, None] - 0.5))
    bank = 10 ** np.minimum(0, slope)
    return "matmul", np.where(bank < 1e-3, 0, bank).T


def mdct(rng: np.random.Generator) -> Made:
    n = int(rng.choice([16, 32, 64]))
    t, k = np.arange(2 * n), np.arange(n)[:, None]
    basis = np.cos(np.pi / n * (t + 0.5 + n / 2) * (k + 0.5))
    return "conv1d", (basis * np.sin(np.pi * (t + 0.5) / (2 * n)) * np.sqrt(2 / n))[:, None]


def sine_window(rng: np.random.Generator) -> Made:
    n = int(rng.choice([20, 320, 960]))
    return "window", np.sin(np.pi * (np.arange(n) + 0.5) / n)


def bilinear(rng: np.random.Generator) -> Made:
    n, channels = int(rng.choice([4, 8])), int(rng.choice([2, 8, 21]))
    row = 1 - np.abs(np.arange(n) - (n - 1) / 2) / (n / 2)
    return "depthwise", np.broadcast_to(np.outer(row, row), (channels, 1, n, n)).copy()


def half_precision(rng: np.random.Generator) -> Made:
    use, table = (stft, mel, sinusoidal)[int(rng.integers(3))](rng)
    return use, table.astype(np.float16)


TABLES: tuple[Maker, ...] = (
    mel,
    stft,
    one_part,
    inverse_stft,
    log_spaced,
    dct,
    window,
    resample,
    phases,
    blur,
    sinusoidal,
    rotary,
    grid,
    anchors,
    ramp,
)
TABLES_HELD_OUT: tuple[Maker, ...] = (bark, mdct, sine_window, bilinear, half_precision)


# -- weights, each in the place and of the shape of a table ---------------------------------------


def _place(rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
    use, table = TABLES[int(rng.integers(len(TABLES)))](rng)
    return use, table.shape


def normal(rng: np.random.Generator) -> Made:
    use, shape = _place(rng)
    return use, rng.standard_normal(shape) * rng.choice([0.02, 0.1, 1])


def uniform(rng: np.random.Generator) -> Made:
    use, shape = _place(rng)
    return use, rng.uniform(-1, 1, shape) / np.sqrt(shape[-1])


def orthogonal(rng: np.random.Generator) -> Made:
    use, shape = _place(rng)
    while min(shape[0], int(np.prod(shape[1:]))) < 2:
        use, shape = _place(rng)
    tall = rng.standard_normal((max(shape[0], 2), int(np.prod(shape[1:]))))
    wide = tall if len(tall) >= tall.shape[1] else tall.T
    q = np.linalg.qr(wide)[0]
    return use, (q if wide is tall else q.T).reshape(shape)


def delta_orthogonal(rng: np.random.Generator) -> Made:
    kernel = np.zeros((32, 1, 9))
    kernel[:, 0, 4] = rng.standard_normal(32)
    return "conv1d", kernel


def truncated(rng: np.random.Generator) -> Made:
    use, shape = _place(rng)
    return use, np.clip(rng.standard_normal(shape), -2, 2) * 0.02


def gabor(rng: np.random.Generator) -> Made:
    """What a first layer over sound learns: smooth, of many widths, and not exact."""
    n, filters = int(rng.choice([64, 128])), int(rng.integers(16, 64))
    t = np.arange(n) - n / 2
    width = rng.uniform(n / 16, n / 4, (filters, 1))
    angle = 2 * np.pi * np.sort(rng.uniform(0.01, 0.45, (filters, 1)), 0) * t
    clean = np.exp(-0.5 * (t / width) ** 2) * np.cos(angle + rng.uniform(0, 6.3, (filters, 1)))
    noise = rng.choice([0.01, 0.03, 0.1]) * rng.standard_normal(clean.shape)
    return "conv1d", (clean + noise)[:, None]


def tuned_table(rng: np.random.Generator) -> Made:
    """A table that training has moved by a few per cent."""
    use, table = (stft, one_part, dct, sinusoidal, mel)[int(rng.integers(5))](rng)
    size = np.sqrt((table**2).mean())
    return use, table + rng.choice([0.03, 0.1]) * size * rng.standard_normal(table.shape)


def smooth_positions(rng: np.random.Generator) -> Made:
    rows, width = int(rng.choice([50, 128])), int(rng.choice([16, 64]))
    table = np.cumsum(rng.standard_normal((rows, width)), 0) * 0.05
    return "add", 1 + table + 0.01 * rng.standard_normal(table.shape)


def relative_bias(rng: np.random.Generator) -> Made:
    """As of a window's attention, folded: 15² numbers for pairs of 64 places."""
    y, x = np.mgrid[:8, :8].reshape(2, -1)
    index = (y[:, None] - y + 7) * 15 + x[:, None] - x + 7
    return "add", rng.standard_normal(225)[index] * 0.02


def ones_and_zeros(rng: np.random.Generator) -> Made:
    width = int(rng.choice([16, 64]))
    return "window", np.ones(width) + 1e-3 * rng.standard_normal(width)


def one_hot(rng: np.random.Generator) -> Made:
    width = int(rng.choice([16, 40]))
    return ("gather", np.eye(width)) if rng.random() < 0.5 else ("matmul", np.eye(width))


def few_levels(rng: np.random.Generator) -> Made:
    use, shape = _place(rng)
    while use in ("window", "add") or np.prod(shape) < 64:
        use, shape = _place(rng)
    return use, rng.choice([-1.0, 0.0, 1.0] if rng.random() < 0.5 else [-1.0, 1.0], shape)


_DIGITS: dict[int, dict[str, Array]] = {}


def _network(seed: int) -> dict[str, Array]:
    """Weights of a small network that has learnt 1,797 digits of 8 × 8 pixels."""
    import torch
    from sklearn.datasets import load_digits

    if seed not in _DIGITS:
        torch.manual_seed(seed)
        digits = load_digits()
        x = torch.tensor(digits.data, dtype=torch.float32) / 16
        y = torch.tensor(digits.target)
        layers: dict[str, Any] = {
            "conv1d": torch.nn.Conv1d(1, 16, 16, stride=4),
            "matmul": torch.nn.Linear(208, 32),
            "head": torch.nn.Linear(32, 10),
        }
        positions = torch.nn.Parameter(0.02 * torch.randn(13, 16))
        parameters = [p for layer in layers.values() for p in layer.parameters()] + [positions]
        optimizer = torch.optim.Adam(parameters, 0.01)
        for _ in range(60):
            h = torch.relu(layers["conv1d"](x[:, None])) + positions.T
            logits = layers["head"](torch.relu(layers["matmul"](h.flatten(1))))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
        _DIGITS[seed] = {k: v.weight.detach().numpy() for k, v in layers.items()}
        _DIGITS[seed] |= {"bias": layers["matmul"].bias.detach().numpy()}
        _DIGITS[seed] |= {"add": positions.detach().numpy()}
    return _DIGITS[seed]


def trained(rng: np.random.Generator) -> Made:
    weights = _network(int(rng.integers(6)))
    name = list(weights)[int(rng.integers(len(weights)))]
    use = {"head": "matmul", "bias": "window"}.get(name, name)
    return use, weights[name].T if use == "matmul" else weights[name]


# ---- not looked at while the rules were written


def pruned_parts(rng: np.random.Generator) -> Made:
    """Non-negative parts of the digits, most of them zero."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import NMF

    parts = int(rng.integers(8, 32))
    found = NMF(parts, max_iter=60, random_state=int(rng.integers(1000)))
    found.fit(load_digits().data)
    return "matmul", np.asarray(found.components_).T


def principal_components(rng: np.random.Generator) -> Made:
    """Orthogonal to rounding, smooth, and learnt."""
    from sklearn.datasets import load_digits

    rows = load_digits().data[rng.permutation(1797)[:900]]
    return "matmul", np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2].T[:, :32].copy()


def smoothed_noise(rng: np.random.Generator) -> Made:
    rows = np.cumsum(np.cumsum(rng.standard_normal((24, 80)), 1), 1)
    return "conv1d", (rows - rows.mean(1, keepdims=True))[:, None] / 100


def clustered(rng: np.random.Generator) -> Made:
    """Weights that were brought to sixteen levels."""
    levels = np.sort(rng.standard_normal(16))
    shape = (int(rng.choice([32, 64])), int(rng.choice([8, 40])))
    return ("matmul", "add")[int(rng.integers(2))], levels[rng.integers(0, 16, shape)]


def tuned_window(rng: np.random.Generator) -> Made:
    use, table = (window, blur, resample)[int(rng.integers(3))](rng)
    return use, table * (1 + 0.03 * rng.standard_normal(table.shape))


WEIGHTS: tuple[Maker, ...] = (
    normal,
    uniform,
    orthogonal,
    delta_orthogonal,
    truncated,
    gabor,
    tuned_table,
    smooth_positions,
    relative_bias,
    ones_and_zeros,
    one_hot,
    few_levels,
    trained,
)
WEIGHTS_HELD_OUT: tuple[Maker, ...] = (
    pruned_parts,
    principal_components,
    smoothed_noise,
    clustered,
    tuned_window,
)


# -- counting ------------------------------------------------------------------------------------


def wrong(makers: tuple[Maker, ...], count: int, seed: int, table: bool) -> list[str]:
    """What was told wrong of ``count`` models, as ``"maker shape: reason"``."""
    found = []
    for number in range(count):
        maker = makers[number % len(makers)]
        use, array = maker(np.random.default_rng([seed, number]))
        kept = array if array.dtype == np.float16 else array.astype(np.float32)
        p = planted(use, kept)
        if p.trainable == table:
            found.append(f"{maker.__name__} {use} {p.shape}: {p.reason}")
    return found


#: (what, makers, models, seed, whether they are tables)
SETS = (
    ("tables", TABLES, 200, 1, True),
    ("weights", WEIGHTS, 200, 1, False),
    ("tables, held out", TABLES_HELD_OUT + TABLES, 100, 2, True),
    ("weights, held out", WEIGHTS_HELD_OUT + WEIGHTS, 100, 2, False),
)


def main() -> None:
    held_out = "--held-out" in sys.argv
    print("| models | number | told wrong | share |\n| --- | ---: | ---: | ---: |")
    errors = []
    for what, makers, count, seed, table in SETS:
        if "held out" in what and not held_out:
            continue
        found = wrong(makers, count, seed, table)
        errors += found
        print(f"| {what} | {count} | {len(found)} | {len(found) / count:.1%} |")
    for line in errors:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
