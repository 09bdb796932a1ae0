"""The public functions: inspect, measure, initialize, apply. The command line calls these."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graph_init import data as batches
from graph_init import problem as problems
from graph_init import schemes, tuning
from graph_init.builder import Array
from graph_init.deviation import session, taylor
from graph_init.errors import ModelFileError, NumericalError, UnsupportedModelError, UsageError
from graph_init.model.load import LoadedModel, load
from graph_init.model.save import save, with_values
from graph_init.parameters import Parameter, analyze
from graph_init.version import __version__

SCALES_FORMAT = "graph-init/scales"
SCALES_VERSION = 1
METHODS = ("taylor",)

#: Held-out batches on which ``initialize`` measures before and after.
HELD_OUT = 2

Data = str | os.PathLike[str] | Mapping[str, Array]


@dataclass(frozen=True)
class Inspection:
    """What the graph analyzer found, in the order of the model's initializers."""

    parameters: list[Parameter]

    def to_json(self) -> dict[str, Any]:
        return {"parameters": [p.to_json() for p in self.parameters]}


@dataclass(frozen=True)
class Measurement:
    """Gradient deviation of a model; ``parameters`` has one dictionary a trainable tensor."""

    gradient_deviation: float
    loss: float
    gradient_norm: float
    vanished_fraction: float
    elements: int
    method: str
    epsilon: float
    parameters: list[dict[str, Any]]
    output_std: float
    loss_kind: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Initialized:
    """The result of :func:`initialize`: ``scales`` are factors on ``model``'s starting tensors."""

    before: Measurement
    after: Measurement
    steps: int
    seconds: float
    history: list[dict[str, Any]]
    scales: dict[str, float]
    provenance: dict[str, str]
    interrupted: bool
    output: str | None = None
    _loaded: LoadedModel = field(repr=False, kw_only=True)
    _values: dict[str, Array] = field(repr=False, kw_only=True)

    @property
    def model(self) -> onnx.ModelProto:
        """The initialised model, its weights embedded."""
        return with_values(self._loaded, self._values, self.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; atomic, with the input's own external-data layout."""
        save(self._loaded, self._values, path, self.provenance)
        self.output = str(path)

    def save_scales(self, path: str | os.PathLike[str]) -> None:
        """Write the scales file that :func:`apply` reads."""
        _write_json(
            path,
            {
                "format": SCALES_FORMAT,
                "version": SCALES_VERSION,
                "scales": self.scales,
                "provenance": self.provenance,
            },
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "steps": self.steps,
            "seconds": self.seconds,
            "history": self.history,
            "scales": self.scales,
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class Applied:
    """The result of :func:`apply`."""

    scales: dict[str, float]
    provenance: dict[str, str]
    _loaded: LoadedModel = field(repr=False)
    _values: dict[str, Array] = field(repr=False)

    @property
    def model(self) -> onnx.ModelProto:
        return with_values(self._loaded, self._values, self.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        save(self._loaded, self._values, path, self.provenance)

    def to_json(self) -> dict[str, Any]:
        return {"scales": self.scales}


def inspect(model: Any, *, trainable: Sequence[str] = (), freeze: Sequence[str] = ()) -> Inspection:
    """Every initializer of ``model`` (path, ModelProto or onnx_ir.Model): what it is, and why."""
    return Inspection(analyze(load(model).ir, trainable, freeze))


@dataclass
class _Run:
    """A model made ready to be evaluated."""

    problem: problems.Problem
    values: dict[str, Array]
    source: batches.RandomBatches | batches.FixedBatches
    step: session.MetaStep
    scaled: list[str]

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.problem.parameters]

    def measure(self, numbers: Sequence[int], scales: Array, slopes: bool) -> Measurement:
        """The mean over the batches with these numbers."""
        found = [self.step(self.source.batch(n), scales) for n in numbers]
        for evaluation in found:
            session.require_finite(evaluation, self.names)

        def mean(get: Callable[[session.Evaluation], Any]) -> Any:
            return sum(get(e) for e in found) / len(found)

        sums = mean(lambda e: e.deviation_sums.astype(np.float64))
        squares = mean(lambda e: e.value_squares.astype(np.float64))
        log_slopes = mean(lambda e: e.log_scale_gradient) if slopes else None
        rows = []
        for k, p in enumerate(self.problem.parameters):
            elements = int(np.prod(p.shape))
            row: dict[str, Any] = {
                "name": p.name,
                "kind": p.kind,
                "shape": list(p.shape),
                "elements": elements,
                "scalable": p.scalable,
                "norm": float(np.sqrt(squares[k])),
                "gradient_deviation": float(sums[k] / elements),
            }
            if log_slopes is not None and p.name in self.scaled:
                row["log_scale_gradient"] = float(log_slopes[self.scaled.index(p.name)])
            rows.append(row)
        return Measurement(
            float(mean(lambda e: e.gradient_deviation)),
            float(mean(lambda e: e.loss)),
            float(mean(lambda e: e.gradient_norm)),
            float(mean(lambda e: e.vanished_fraction)),
            sum(r["elements"] for r in rows),
            "taylor",
            taylor.EPSILON,
            rows,
            float(mean(lambda e: e.extras[0])),
            self.problem.objective.kind,
        )


@dataclass(frozen=True)
class _Options:
    data: Data | None
    batch_size: int | None
    seed: int
    loss: str
    output_name: str | None
    dims: Mapping[str, int]
    batch_norm: str
    method: str
    whole_file: bool
    slopes: bool


def _prepare(
    loaded: LoadedModel,
    parameters: Sequence[Parameter],
    values: dict[str, Array],
    options: _Options,
) -> _Run:
    if options.method not in METHODS:
        raise UsageError(
            f"--method {options.method}: only {', '.join(METHODS)} is available in this version"
        )
    if options.batch_norm not in ("eval", "train"):
        raise UsageError(f"--batch-norm is eval or train, not '{options.batch_norm}'")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, not {options.batch_size}")
    if not any(p.trainable for p in parameters):
        raise UnsupportedModelError(
            "the model has no trainable parameter; see `graph-init inspect`, and --trainable"
        )
    arrays: dict[str, Array] | None = None
    input_sizes = None
    size = options.batch_size
    if options.data is not None:
        arrays = (
            dict(options.data)
            if isinstance(options.data, Mapping)
            else batches.read_npz(options.data)
        )
        rows = {k: v.shape[0] for k, v in arrays.items() if v.ndim}
        if not rows or min(rows.values()) == 0:
            raise UsageError("--data holds no rows")
        if options.whole_file:
            size = min(rows.values())
        size = min(size or problems.DEFAULT_BATCH, *rows.values())
        input_sizes = {
            name: (size, *arrays[name].shape[1:])
            for name in (v.name for v in loaded.ir.graph.inputs)
            if name is not None and name in arrays
        }
        _check_static(loaded, input_sizes)
    problem = problems.build(
        loaded,
        parameters,
        values,
        loss=options.loss,
        output_name=options.output_name,
        dims=options.dims,
        batch_size=size,
        batch_norm=options.batch_norm,
        input_sizes=input_sizes,
    )
    source: batches.RandomBatches | batches.FixedBatches
    if arrays is None:
        ranges = batches.index_ranges(problem.builder, problem.inputs)
        source = batches.RandomBatches(problem.inputs, ranges, problem.objective, options.seed)
    else:
        assert size is not None
        checked = batches.check_arrays(arrays, problem.inputs, problem.objective, size)
        source = batches.FixedBatches(checked, size, options.seed)
    names = [p.name for p in problem.parameters]
    scaled = [p.name for p in problem.parameters if p.scalable]
    graph = taylor.build(
        problem.forward,
        problem.objective.loss.name,
        names,
        scaled,
        scale_gradient=options.slopes,
        extra_outputs=problem.extras,
    )
    step = session.MetaStep(graph, {**values, **problem.fed}, [values[n].size for n in names])
    return _Run(problem, values, source, step, scaled)


def _check_static(loaded: LoadedModel, sizes: Mapping[str, tuple[int, ...]]) -> None:
    for value in loaded.ir.graph.inputs:
        shape = sizes.get(value.name or "")
        if shape is None or value.shape is None:
            continue
        declared = [d if isinstance(d, int) else None for d in value.shape]
        if len(declared) != len(shape) or any(
            d is not None and d != s for d, s in zip(declared, shape, strict=False)
        ):
            raise UsageError(
                f"--data: '{value.name}' has shape {shape}, but the model declares "
                f"{[d if isinstance(d, int) else str(d.value) for d in value.shape]}"
            )


def measure(
    model: Any,
    *,
    data: Data | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "eval",
    method: str = "taylor",
    scale_gradient: bool = False,
) -> Measurement:
    """Gradient deviation of ``model`` as it is, on one batch (all of ``data`` if given).

    Raises :class:`GraphInitError` subclasses for everything that a user can mend.
    """
    loaded = load(model)
    parameters = analyze(loaded.ir, trainable, freeze)
    values = problems.initial_values(loaded)
    options = _Options(
        data, batch_size, seed, loss, output_name, dims or {}, batch_norm, method, True,
        scale_gradient,
    )  # fmt: skip
    run = _prepare(loaded, parameters, values, options)
    return run.measure([0], np.ones(len(run.scaled)), scale_gradient)


def initialize(
    model: Any,
    *,
    data: Data | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "eval",
    method: str = "taylor",
    scheme: str = "keep",
    steps: int = 500,
    optimizer: str = "sign",
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Initialized:
    """Tune the norm of every scalable tensor so that gradient deviation becomes small.

    ``scheme`` says what the weights are before tuning (``keep``: as they are). ``on_step`` receives
    each history entry. The result holds the best scales met, not the last.
    """
    start = time.perf_counter()
    if steps < 0:
        raise UsageError(f"--steps must not be negative, not {steps}")
    loaded = load(model)
    parameters = analyze(loaded.ir, trainable, freeze)
    values = problems.initial_values(loaded)
    constant = schemes.constant_weights(parameters, values)
    if scheme == "keep" and constant:
        raise UnsupportedModelError(
            f"the weights of '{constant[0]}' are all equal"
            + (f" (and of {len(constant) - 1} more tensors)" if len(constant) > 1 else "")
            + ", so they have a norm but no direction to keep; fill them first with --scheme he"
        )
    filled = schemes.fill(parameters, values, scheme, seed, placeholders=bool(constant))
    values.update({n: np.ascontiguousarray(v, np.float32) for n, v in filled.items()})
    options = _Options(
        data, batch_size, seed, loss, output_name, dims or {}, batch_norm, method, False, True
    )
    run = _prepare(loaded, parameters, values, options)
    if not run.scaled:
        raise UnsupportedModelError(
            "no parameter is scalable; see `graph-init inspect`, and --trainable"
        )
    held_out = [-1 - k for k in range(HELD_OUT)]
    before = run.measure(held_out, np.ones(len(run.scaled)), False)
    norms = np.array([np.linalg.norm(values[n].astype(np.float64)) for n in run.scaled])
    result = tuning.tune(
        lambda scales, number: run.step(run.source.batch(number), scales),
        norms,
        tuning.create(optimizer),
        steps,
        on_step=on_step,
    )
    # The written factor is the float32 one that was measured.
    factors = {n: float(np.float32(s)) for n, s in zip(run.scaled, result.scales, strict=True)}
    after = run.measure(held_out, np.array(list(factors.values())), False)
    for p in parameters:
        if p.tied_to in factors and p.trainable:
            factors[p.name] = factors[p.tied_to]
    new = {n: v for n, v in filled.items() if n not in factors}
    new.update({n: _scaled(loaded, n, factors[n], filled.get(n)) for n in factors})
    provenance = {
        "graph_init.version": __version__,
        "graph_init.scheme": scheme,
        "graph_init.optimizer": optimizer,
        "graph_init.steps": str(steps),
        "graph_init.seed": str(seed),
        "graph_init.loss": run.problem.objective.kind,
        "graph_init.source_sha256": loaded.digest(),
    }
    return Initialized(
        before, after, len(result.history), time.perf_counter() - start, result.history, factors,
        provenance, result.interrupted, _loaded=loaded, _values=new,
    )  # fmt: skip


def _scaled(loaded: LoadedModel, name: str, factor: float, filled: Array | None = None) -> Array:
    """``factor`` × the tensor, computed in float64 and rounded once to the tensor's own type."""
    tensor = loaded.ir.graph.initializers[name].const_value
    assert tensor is not None
    source = tensor.numpy()
    base = source if filled is None else filled
    with np.errstate(over="ignore"):
        new = (base.astype(np.float64) * factor).astype(source.dtype)
    if not np.isfinite(new.astype(np.float64)).all():
        raise NumericalError(
            f"'{name}' times {factor:g} does not fit {source.dtype}; nothing was written. Use a "
            "wider type for the model"
        )
    return new


def apply(scales: str | os.PathLike[str] | Mapping[str, Any], model: Any) -> Applied:
    """Multiply the tensors of ``model`` by the factors of a scales file (or its content)."""
    content = dict(scales) if isinstance(scales, Mapping) else _read_scales(Path(scales))
    if content.get("format") != SCALES_FORMAT or not isinstance(content.get("scales"), Mapping):
        raise ModelFileError(
            f'this is not a scales file: it lacks "format": "{SCALES_FORMAT}" or "scales"'
        )
    if content.get("version") != SCALES_VERSION:
        raise ModelFileError(
            f"the scales file has version {content.get('version')}; this program reads "
            f"{SCALES_VERSION}"
        )
    loaded = load(model)
    values = {}
    factors = {}
    for name, factor in content["scales"].items():
        if name not in loaded.ir.graph.initializers:
            raise UnsupportedModelError(
                f"the model has no initializer '{name}', which the scales file names; see "
                "`graph-init inspect`"
            )
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
            raise ModelFileError(f"the scale of '{name}' is {factor!r}, not a positive number")
        factors[name] = float(factor)
        values[name] = _scaled(loaded, name, float(factor))
    provenance = {"graph_init.version": __version__, "graph_init.applied": "scales"}
    return Applied(factors, provenance, loaded, values)


def _read_scales(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no scales file '{path}'") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFileError(f"'{path}' is not a readable scales file: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"'{path}' is not a scales file: it is not a JSON object")
    return content


def _write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Atomic: a temporary file beside the target, then a rename."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"'{target}' cannot be written: {error.strerror}") from error
