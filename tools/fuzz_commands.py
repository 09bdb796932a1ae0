"""The commands that tools/fuzz.py is pointed at with --command, and the mutants that each reads.

Models for initialize, check, compare and apply: those of the onnx package's node tests, with their
control flow, sequences, recurrent layers and quantization, and some of our own; mostly a field, a
wire, a shape, an attribute or a type is changed, sometimes bytes. Manifests, journals and
overviews of zoo: sound ones of which parts are exchanged for something extreme, or bytes changed.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tools import mutations
from tools.mutations import Generator, Mutant

#: Rows of the data that a model is compared on.
_ROWS = 8
#: What takes the place of a part of a tree.
_EXTREMES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, -0.0, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "..",
        "../x",
        "/nowhere",
        "\x1b[31m\u202e",
        "\ud800",
        "a\nb",
    ),
    *("a" * 5000, "*", "**", "m.onnx", "none.onnx", "s3://", "http://x/y", "failed", "done"),
    *([], {}, [[]], [{}], {"": ""}, ["x"] * 100, {"source": "m.onnx"}, [None]),
)


# -- what is done ------------------------------------------------------------------------------


def _initialize(folder: Path, out: Path) -> str:
    import graph_init

    result = graph_init.initialize(folder / "m.onnx", updates=1, memory_limit="1GB")
    result.save(out / "out.onnx", scales=out / "s.json")
    json.dumps(result.to_json(), allow_nan=False)
    graph_init.inspect(out / "out.onnx")
    return "done"


def _check(folder: Path, out: Path) -> str:
    import graph_init

    found = graph_init.check(folder / "m.onnx", memory_limit="1GB")
    json.dumps(found.to_json(), allow_nan=False)
    return "done"


def _compare(folder: Path, out: Path) -> str:
    import graph_init

    signature = graph_init.inspect(folder / "m.onnx").signature
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"target": rng.integers(0, 2, _ROWS)}
    for entry in [] if signature is None else signature.inputs():
        shape = [_ROWS, *entry["shape"][1:]]
        if np.prod(shape, dtype=float) > 1e6:
            return "too large to compare"
        arrays[entry["name"]] = rng.standard_normal(shape).astype(np.float32)
    plan = graph_init.Plan(
        schemes=("keep", "he"),
        tune=False,
        seeds=1,
        optimizers=("sgd",),
        learning_rates=(0.1,),
        updates=2,
        workers=1,
    )
    found = graph_init.compare(folder / "m.onnx", arrays, plan=plan, batch_size=2)
    json.dumps(found.to_json(), allow_nan=False)
    return "done"


def _apply(folder: Path, out: Path) -> str:
    import graph_init

    graph_init.apply(folder / "s.json", folder / "m.onnx").save(out / "out.onnx")
    graph_init.inspect(out / "out.onnx")
    return "done"


def _manifest(folder: Path, out: Path) -> str:
    from graph_init.zoo import catalog

    (path,) = folder.glob("zoo.*")
    found = catalog.collect([str(path)], str(out), {})
    return "read" if found else "empty"


def _journal(folder: Path, out: Path) -> str:
    from graph_init.zoo import journal
    from graph_init.zoo.store import open_store

    (out / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    with journal.opened(open_store(str(out))) as opened:
        records = [opened.get(name) for name in ("a", "b", "sub/c", "x", "")]
        opened.append([r for r in records if r is not None])
    return "read" if any(records) else "nothing in it"


def _overview(folder: Path, out: Path) -> str:
    from graph_init.zoo import overview, summary

    (out / "zoo.json").write_bytes((folder / "zoo.json").read_bytes())
    found = overview.read(str(out))
    summary.failures(found.rows)
    json.dumps(found.to_json())
    return "read"


# -- mutants -----------------------------------------------------------------------------------


def _model(kind: str, rng: Generator) -> Mutant:
    draw = rng.random()
    if draw < 0.8:
        return mutations._model_structure(kind, rng)
    return (mutations._model_bytes if draw < 0.9 else mutations._model_external)(kind, rng)


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def _model_and_scales(kind: str, rng: Generator) -> Mutant:
    """A changed model and scales of its floats, half of the time changed, too."""
    made = _model(kind, rng)
    factors: dict[str, Any] = {"w": 2.0, "b": 0.5}
    with contextlib.suppress(DecodeError):  # of bytes nothing can be read
        graph = onnx.ModelProto.FromString(made.files["m.onnx"]).graph
        floats = [t for t in graph.initializer if t.data_type in _FLOATS]
        factors = {t.name: float(rng.uniform(0.1, 3)) for t in floats}
    tree = {"format": "graph-init/scales", "version": 1, "scales": factors, "provenance": {}}
    scales = _changed(tree, rng) if rng.random() < 0.5 else json.dumps(tree).encode()
    return Mutant(kind, made.seed, {**made.files, "s.json": scales})


_MANIFEST: dict[str, Any] = {
    "format": "graph-init/zoo",
    "version": 1,
    "defaults": {"scheme": "he", "batch-size": 4, "dim": {"n": 3}, "freeze": ["a.*"]},
    "models": [
        {"source": "m.onnx", "name": "a", "options": {"time-limit": "10m", "gain": 0.5}},
        {"source": "*.onnx", "options": {"memory-limit": "1GB", "tuner": "metainit"}},
    ],
}
_FIGURES = {
    "gradient_deviation": 1.0,
    "loss": 2.3,
    "gradient_norm": 0.5,
    "vanished_fraction": 0.0,
    "output_std": 1.0,
}
_RECORD: dict[str, Any] = {
    "name": "a",
    "source": "m.onnx",
    "status": "done",
    "before": _FIGURES,
    "after": {**_FIGURES, "gradient_deviation": None},
    "error": None,
    "elements": 16,
    "warnings": ["w"],
    "notes": ["n"],
    "seconds": 1.5,
    "peak_memory": 1000,
    "attempts": 1,
    "host": "h",
    "outputs": ["a.onnx", "a.json"],
    "key": "k",
    "inputs": [{"path": "m.onnx", "digest": "d"}],
    "transient": False,
}


def _manifest_of(kind: str, rng: Generator) -> Mutant:
    suffix = "json" if rng.random() < 0.5 else "yaml"  # what is JSON is YAML, too
    files = {f"zoo.{suffix}": _changed(_MANIFEST, rng), "m.onnx": mutations._sound_model()}
    return Mutant(kind, suffix, files)


def _journal_of(kind: str, rng: Generator) -> Mutant:
    others: list[dict[str, Any]] = [
        _RECORD,
        {**_RECORD, "name": "b", "status": "failed", "error": _error()},
        {**_RECORD, "name": "sub/c", "status": "unfinished"},
    ]
    lines = [_changed(r, rng) if rng.random() < 0.6 else json.dumps(r).encode() for r in others]
    content = b"\n".join(lines) + (b"\n" if rng.random() < 0.7 else b"")
    return Mutant(kind, "journal", {"journal.jsonl": content})


def _overview_of(kind: str, rng: Generator) -> Mutant:
    failed = {**_RECORD, "name": "b", "status": "failed", "error": _error()}
    tree = {
        "format": "graph-init/zoo-overview",
        "version": 1,
        "output": "out",
        "program": "0.1.0",
        **{"models": 2, "done": 1, "failed": 1, "unfinished": 0, "seconds": 1.0},
        "rows": [_RECORD, failed],
    }
    return Mutant(kind, "overview", {"zoo.json": _changed(tree, rng)})


def _error() -> dict[str, Any]:
    return {"class": "Crash", "message": "its process crashed", "exit_status": 7}


def _changed(tree: Any, rng: Generator) -> bytes:
    """``tree`` as JSON, of which one to three parts are another thing; and sometimes bytes."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        holder, key = mutations._any(_places(tree), rng)
        match int(rng.integers(5)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(mutations._any(_EXTREMES, rng))] = holder.pop(key)
            case 2:
                other, place = mutations._any(_places(tree), rng)
                holder[key] = copy.deepcopy(other[place])
            case _:
                holder[key] = copy.deepcopy(mutations._any(_EXTREMES, rng))
        if not _places(tree):
            break
    text = json.dumps(tree)
    if rng.random() < 0.05:
        depth = int(rng.integers(1, 100_000))
        text = text.replace("null", "[" * depth, 1).replace('"a"', "[" * depth, 1)
    raw = text.encode("utf-8", "surrogatepass")
    return mutations.mutate_bytes(raw, rng) if rng.random() < 0.15 else raw


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every part of ``tree``, as what holds it and its key there."""
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
    return found


@dataclass(frozen=True)
class Command:
    """How a mutant is made, and what is done with its files; ``run`` gives the outcome."""

    make: Callable[[str, Generator], Mutant]
    run: Callable[[Path, Path], str]


COMMANDS: dict[str, Command] = {
    "initialize": Command(_model, _initialize),
    "check": Command(_model, _check),
    "compare": Command(_model, _compare),
    "apply": Command(_model_and_scales, _apply),
    "manifest": Command(_manifest_of, _manifest),
    "journal": Command(_journal_of, _journal),
    "overview": Command(_overview_of, _overview),
}


def mutant(command: str, seed: int, number: int) -> Mutant:
    """Mutant ``number`` of the run with ``seed``, of the kind that ``command`` reads."""
    rng = np.random.default_rng([seed, number, list(COMMANDS).index(command)])
    return COMMANDS[command].make(command, rng)
