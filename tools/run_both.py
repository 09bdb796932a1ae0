"""Run two models of one kind in ONNX Runtime on the same random inputs.

As a program it takes ``ORIGINAL WRITTEN SHAPES`` (JSON) and prints the result as JSON: sizes that a
file does not expect can end the engine's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Sizes that are tried for axes of which the file does not say it.
_SIZES = (1, 2, 16, 32, 64, 128, 224, 512, 16000)


def apart(
    original: Path, written: Path, shapes: Mapping[str, Sequence[int]]
) -> tuple[list[str], str]:
    """:func:`run_both` in a process of its own."""
    given = [str(original), str(written), json.dumps({k: list(v) for k, v in shapes.items()})]
    done = subprocess.run(
        [sys.executable, __file__, *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [], f"not run: the engine ended with status {done.returncode}"
    differences, ran = json.loads(done.stdout)
    return differences, ran


def run_both(
    original: Path, written: Path, shapes: Mapping[str, Sequence[int]]
) -> tuple[list[str], str]:
    """Differences when both run on the same random inputs; and what came of it, in a few words."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        first = onnxruntime.InferenceSession(str(original), options, ["CPUExecutionProvider"])
    except Exception as error:  # the engine's errors share no base class but this
        return [], f"not run: the engine does not load the original ({one_line(error)})"
    try:
        second = onnxruntime.InferenceSession(str(written), options, ["CPUExecutionProvider"])
    except Exception as error:  # as above
        return [f"the engine does not load the written file: {one_line(error)}"], "not loaded"
    reason = "it takes no tensors"
    for feeds in _feeds(first, shapes):
        try:
            before = first.run(None, feeds)
        except Exception as error:  # as above
            reason = one_line(error)
            continue
        try:
            after = second.run(None, feeds)
        except Exception as error:  # as above
            return [
                f"the written file does not run where the original does: {one_line(error)}"
            ], "ran"
        return list(_outputs(first, before, after)), "ran"
    return [], f"not run: no inputs that were tried fit the original ({reason})"


def _outputs(session: Any, before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    for value, a, b in zip(session.get_outputs(), before, after, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            continue
        if a.shape != b.shape:
            yield f"output '{value.name}' has the shape {b.shape}, not {a.shape}"
        elif np.isfinite(a).all() and not np.isfinite(b).all():
            lost = int((~np.isfinite(b)).sum())
            yield f"output '{value.name}' has {lost} of {b.size} numbers that are not finite"


_ELEMENTS = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _feeds(session: Any, shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Random inputs, with one size after the other for what the file leaves open.

    Floats are N(0,1), integers 1, booleans true.
    """
    if any(v.type not in _ELEMENTS for v in session.get_inputs()):
        return
    for size in _SIZES:
        rng = np.random.default_rng(0)
        feeds = {}
        for value in session.get_inputs():
            dtype = np.dtype(_ELEMENTS[value.type])
            open_ = [1 if axis == 0 else size for axis in range(len(value.shape))]
            declared = [
                d if isinstance(d, int) and d > 0 else o
                for d, o in zip(value.shape, open_, strict=True)
            ]
            shape = tuple(shapes.get(value.name, declared))
            drawn = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
            feeds[value.name] = np.asarray(drawn).astype(dtype)
        yield feeds


def one_line(error: Exception) -> str:
    """The error's message, on one line and not too long."""
    return " ".join(str(error).split())[:160]


if __name__ == "__main__":
    print(json.dumps(run_both(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
