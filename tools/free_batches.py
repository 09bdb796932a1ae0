"""Frees the batch of real files, and compares each row with what the file gives for it alone.

Files whose batch is open are fixed at one row first, with all that follows folded into constants by
ONNX Runtime, as an exporter does. Prints what came of each file, and the sums. Usage:

    python tools/free_batches.py CACHE      (a cache that python -m tools.real_files has filled)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init import rows, sizes
from graph_init.model.load import LoadedModel, load
from tools.real_files import catalog
from tools.real_files.fetch import path_of

ROWS = 3
#: Of the largest number in an output. Rounding in other orders is magnified by some models (a
#: variance as a difference of squares, in one); what other rows change in a row is not rounding.
TOLERANCE, MIXING = 0.05, 1e-5
#: Larger files are left out: memory.
MOST_BYTES = 100 << 20
ARGUMENTS = {"disabled_optimizers": ["MatMulAddFusion", "GemmActivationFusion"]}


def session(model: bytes | str, folded: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    if folded is not None:
        options.graph_optimization_level = level.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    return onnxruntime.InferenceSession(model, options, **(ARGUMENTS if folded else {}))


def fixed(path: Path, loaded: LoadedModel, folder: Path) -> Path:
    """The file with a batch of one row."""
    signature = sizes.solve(loaded.ir, sizes.Request(rows=1))
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in signature.axes:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, signature.shape(value.name), strict=True):
                dim.dim_value = int(size)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    made = folder / "fixed.onnx"
    session(model.SerializeToString(), made)
    return made


def feeds(loaded: LoadedModel, signature: sizes.Signature, batch: rows.Freed, count: int) -> dict:
    rng = np.random.default_rng(0)
    found = {}
    for value in sizes.inputs_of(loaded.ir):
        shape, kind = list(signature.shape(value.name)), np.dtype(value.dtype.numpy())
        if value.name in batch.inputs:
            shape[batch.inputs[value.name]] = count
        chosen = signature.values.get(value.name)
        if chosen is not None:
            drawn = np.full(shape, chosen.value.reshape(-1)[0])
        else:
            whole = kind.kind != "f"
            drawn = rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)
        found[value.name] = np.asarray(drawn).astype(kind)
    return found


def errors(path: Path, loaded: LoadedModel, batch: rows.Freed, size: int) -> tuple[float, float]:
    """Between a row among others and the same row alone; and between it among others and itself.

    Each is the largest one, as a share of the largest number in its output.
    """
    given = feeds(loaded, sizes.solve(loaded.ir), batch, size * ROWS)
    freed = session(batch.loaded.proto.SerializeToString())
    together = freed.run(None, given)
    alone, worst, mixed = session(str(path)), 0.0, 0.0
    for row in range(ROWS):
        places = range(row * size, (row + 1) * size)
        one = {
            n: np.take(a, places, batch.inputs[n]) if n in batch.inputs else a
            for n, a in given.items()
        }
        same = {
            n: np.concatenate([a] * ROWS, batch.inputs[n]) if n in batch.inputs else a
            for n, a in one.items()
        }
        found = zip(together, freed.run(None, same), alone.run(None, one), strict=True)
        for whole, twins, part in found:
            axes = [k for k in range(part.ndim) if whole.shape[k] != part.shape[k]]
            if not axes or not part.size or part.dtype.kind != "f":
                continue
            mine, twin = (
                np.split(a, ROWS, axes[0])[row].astype(np.float64) for a in (whole, twins)
            )
            scale = max(float(np.abs(part).max()), 1e-9)
            worst = max(worst, float(np.abs(mine - part).max()) / scale)
            mixed = max(mixed, float(np.abs(mine - twin).max()) / scale)
    return worst, mixed


def outcome(path: Path, folder: Path) -> tuple[str, str]:
    """What came of a file: a word, and a sentence."""
    try:
        loaded, kind = load(path), "fixed"
        if rows.is_open(loaded):
            path, kind = fixed(path, loaded, folder), "open"
            loaded = load(path)
        found = rows.fixed(loaded)
        if found is None:
            return f"{kind}: no rows", ""
        batch = rows.free(loaded, sizes.solve(loaded.ir))
        error, mixed = errors(path, loaded, batch, found[1])
    except rows.Obstacle as obstacle:
        return f"{kind}: held", str(obstacle)
    except Exception as error:  # ONNX Runtime lacks some operators, and sizes are not found
        return "not run", " ".join(str(error).split())[:120]
    word = "freed" if error < TOLERANCE and mixed < MIXING else "WRONG"
    words = f"{batch.changed} nodes changed; beside alone {error:.1g}, by other rows {mixed:.1g}"
    return f"{kind}: {word}", words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("cache", type=Path)
    cache = parser.parse_args().cache
    counts: Counter[str] = Counter()
    for file in catalog.read():
        path = path_of(cache, file)
        if file.aside or not path.exists() or path.stat().st_size > MOST_BYTES:
            continue
        with tempfile.TemporaryDirectory() as folder:
            word, sentence = outcome(path, Path(folder))
        counts[word] += 1
        print(f"{word:14} {file.name}: {sentence}", flush=True)
    print(dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
