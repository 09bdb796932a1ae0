"""The public functions, which the command line calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graph_init import comparison
from graph_init.analysis import Parameter, analyze
from graph_init.comparison import Comparison, Plan, Progress
from graph_init.deviation.evaluator import Measurement, prepare
from graph_init.engine import memory
from graph_init.errors import UnsupportedModelError, UsageError, printable
from graph_init.frontends import resolve as frontends
from graph_init.frontends.resolve import ResolvedModel
from graph_init.init import initial_state
from graph_init.init.schemes import Settings
from graph_init.model import scales_file
from graph_init.model.load import load
from graph_init.model.save import NewValue
from graph_init.model.scaled import SCALED_TYPES, Scaled
from graph_init.problem import forward_graph
from graph_init.problem.data_files import Data
from graph_init.problem.workload import Options, build
from graph_init.results import Applied, Initialized, Inspection
from graph_init.training import artifacts
from graph_init.tuning import dtype_limits, registry
from graph_init.version import __version__

#: Held-out batches on which ``initialize`` measures before and after.
HELD_OUT = 2


def inspect(
    model: Any,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
) -> Inspection:
    """Every initializer of ``model``: what it is, and why.

    Args:
        model: here and in the other functions a path, a ModelProto, an onnx_ir.Model, or a model
            of a framework that has a frontend.
        args: an example of what a framework's model is called with; shapes count, values do not.
        kwargs: the same by keyword.
        export: options of the framework's frontend.
        trainable: regular expressions; tensors in whose name one is found are parameters.
        freeze: the same for tensors that are not.

    Raises:
        ModelFileError: The file is missing, unreadable or not valid ONNX.
        UsageError: An expression is wrong, or is found in no name.
    """
    subject = frontends.resolve(model, args, kwargs, export)
    return Inspection(_analyzed(subject, trainable, freeze))


def measure(
    model: Any,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    data: Data | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "eval",
    method: str = "taylor",
    difference_step: float | None = None,
    micro_batch: int | None = None,
    device: str = "cpu",
    memory_limit: str | None = None,
    engine: str = "auto",
    scale_gradient: bool = False,
) -> Measurement:
    """Gradient deviation of ``model`` as it is, on one batch (all of ``data`` if given).

    The definition is that of MetaInit (Dauphin and Schoenholz, NeurIPS 2019), there called gradient
    quotient, with ε = 1e-5. ``model``, ``args``, ``kwargs``, ``export``, ``trainable`` and
    ``freeze`` are those of :func:`inspect`.

    Args:
        data: arrays by input name, and ``target``: a mapping, an ``.npz`` file, a folder of
            ``.npy`` files; or an iterable of batches. All arrays have as many rows. None: random
            batches.
        batch_size: rows of a random batch; 16 unless the model fixes it.
        seed: of what is random.
        loss: ``auto`` (by the operator before the output), ``cross-entropy`` (targets: integers of
            the output's shape without the class axis), ``binary-cross-entropy`` or ``mse``
            (targets: floats of the output's shape). Each is a mean over the target's elements.
        output_name: the output that the loss reads; of several the losses are added.
        dims: sizes of symbolic dimensions other than the batch; 32 for those not named.
        batch_norm: ``eval``: running statistics; ``train``: the batch's own.
        method: ``taylor``: Hg exactly; ``finite-difference``: (g(θ) − g(θ − h·g))/h in its place.
        difference_step: h; by default h·‖g‖ is 0.0001 of ‖θ‖.
        micro_batch: rows computed at a time, a divisor of the batch; the result is the batch's.
        device: ``cpu`` or ``cuda``.
        memory_limit: such as ``"8GB"``; what needs more is refused before it starts. By default
            what is available.
        engine: ``auto``: the fastest operators that the installed onnxruntime has; ``onnxruntime``:
            those of the standard alone; ``onnxruntime-training``: gradients by the training build's
            own builder.
        scale_gradient: also ∂GD/∂log s of every scalable tensor, ``log_scale_gradient`` in its row.

    Raises:
        UsageError: An option or the data are wrong.
        ModelFileError: The file is missing, unreadable or not valid ONNX.
        UnsupportedModelError: A node cannot be differentiated, or memory does not suffice.
        NumericalError: The loss or the deviation is not finite.
        EngineError: onnxruntime is not installed, or not the build that ``engine`` names.
    """
    subject = frontends.resolve(model, args, kwargs, export)
    loaded, parameters = subject.loaded, _analyzed(subject, trainable, freeze)
    values = forward_graph.initial_values(loaded)
    options = Options(
        subject.data(data), subject.batch_size(batch_size), seed,
        subject.loss(loss, output_name),
        subject.output_name(output_name), subject.dims(dims), batch_norm, method, True,
        scale_gradient, micro_batch, device, difference_step, _bytes(memory_limit), engine,
    )  # fmt: skip
    run = prepare(build(loaded, parameters, values, options), values)
    return run.measure([0], np.ones(len(run.scaled)), scale_gradient)


def initialize(
    model: Any,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    data: Data | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "eval",
    method: str = "taylor",
    difference_step: float | None = None,
    micro_batch: int | None = None,
    device: str = "cpu",
    memory_limit: str | None = None,
    engine: str = "auto",
    scheme: str = "keep",
    gain: float | str | None = None,
    std: float | None = None,
    steps: int | None = None,
    optimizer: str = registry.DEFAULT,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Initialized:
    """Find the norm of every scalable tensor from which the model trains well.

    The other arguments, and the errors, are those of :func:`measure`; with ``data`` batches of
    ``batch_size`` rows are drawn. A framework's model is changed in place, where the framework's
    models can be changed, and is the result's ``updated``; a model file is not touched. Should
    anything fail, neither has changed. The result holds the best scales met, not the last.

    Args:
        scheme: what the weights are before tuning; ``keep``: as they are.
        gain: a factor on the scheme's weights, or ``"activation"`` for that of what follows each
            layer.
        std: standard deviation of ``truncated-normal``; 0.02 by default.
        steps: of ``signal`` the updates of a trial (30), of ``sign`` its steps (500); with 0 the
            scales stay 1.
        optimizer: ``signal`` restores the forward signal and tries which state learns best;
            ``sign`` is MetaInit's, which lowers gradient deviation.
        on_step: receives each entry of the history: one a state for ``signal``, one a step for
            ``sign``.
    """
    start = time.perf_counter()
    kind = registry.kind(optimizer)
    steps = kind.steps if steps is None else steps
    if steps < 0:
        raise UsageError(f"--steps must not be negative, not {steps}")
    subject = frontends.resolve(model, args, kwargs, export)
    loaded, parameters = subject.loaded, _analyzed(subject, trainable, freeze)
    options = Options(
        subject.data(data), subject.batch_size(batch_size), seed,
        subject.loss(loss, output_name),
        subject.output_name(output_name), subject.dims(dims), batch_norm, method, False,
        kind.scale_gradient, micro_batch, device, difference_step, _bytes(memory_limit), engine,
    )  # fmt: skip
    state = initial_state.fill(loaded, parameters, Settings(scheme, gain, std), seed)
    workload = build(loaded, parameters, state.values, options)
    state.finish(workload)
    filled, values = state.filled, state.values
    run = prepare(workload, values)
    if not run.scaled:
        p = max((p for p in parameters if p.trainable), key=lambda p: int(np.prod(p.shape)))
        raise UnsupportedModelError(
            f"no parameter is scalable ('{p.name}': {p.reason}); see `graph-init inspect`, and "
            "--trainable"
        )
    held_out = [-1 - k for k in range(HELD_OUT)]
    mends = kind.tries and steps > 0
    before = run.measure(held_out, np.ones(len(run.scaled)), False, strict=not mends)
    tuner = kind.prepare(run, workload, parameters)
    result = tuner(values, run.source, steps, on_step)
    # The written factor is the float32 one that was measured.
    factors = {n: float(np.float32(s)) for n, s in zip(run.scaled, result.scales, strict=True)}
    notes = [f"at the start {before.problem}"] if before.problem else []
    dtypes = {p.name: p.dtype.lower() for p in parameters}
    for n, factor in factors.items():
        if (limit := dtype_limits.limit(factor, values[n], dtypes[n])) is not None:
            factors[n] = limit.taken
            notes.append(limit.sentence(n, dtypes[n]))
    after = run.measure(held_out, np.array(list(factors.values())), False)
    for p in parameters:
        if p.tied_to in factors and p.trainable:
            factors[p.name] = factors[p.tied_to]
    provenance = {
        "graph_init.version": __version__,
        "graph_init.scheme": scheme,
        "graph_init.optimizer": optimizer,
        "graph_init.method": method,
        "graph_init.steps": str(steps),
        "graph_init.seed": str(seed),
        "graph_init.loss": run.problem.objective.kind,
        "graph_init.source_sha256": loaded.digest(),
    }
    settings = {
        "scheme": scheme, "gain": gain, "std": std, "optimizer": optimizer, "steps": steps,
        "method": method, "seed": seed, "loss": run.problem.objective.kind,
        "batch_size": run.problem.batch_size, "batch_norm": batch_norm,
        "data": "random" if options.data is None else "given", "dims": dict(options.dims),
        "trainable": list(trainable), "freeze": list(freeze), "micro_batch": micro_batch,
        "device": device, "engine": after.engine,
    }  # fmt: skip
    new: dict[str, NewValue] = {n: v for n, v in filled.items() if n not in factors}
    updated, tensors = None, {}
    if subject.exported is None:
        new.update({n: Scaled(loaded, n, factors[n], filled.get(n)) for n in factors})
    else:
        tensors = subject.new_values(factors, filled)
        new.update({n: tensors[n] for n in subject.owners if n in tensors})
        updated = subject.write(tensors)
    return Initialized(
        before, after, len(result.history), time.perf_counter() - start, result.history, factors,
        provenance, result.interrupted, settings, result.best_step, notes,
        updated=updated, tensors=tensors, _subject=subject, _values=new, _parameters=parameters,
    )  # fmt: skip


def compare(
    model: Any,
    data: Data,
    *,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
    test: Data | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "train",
    method: str = "taylor",
    plan: Plan | None = None,
    on_progress: Progress | None = None,
) -> Comparison:
    """Train ``model`` on ``data`` for a short while from several initial states.

    The other arguments, and the errors, are those of :func:`measure`.

    Args:
        data: rows to train on, as in :func:`measure`.
        test: rows to score on; by default a share of ``data`` is held out.
        plan: which states, optimisers, learning rates and seeds, and for how many updates.
        on_progress: receives what is being done, how much of it is done, and how much there is.
    """
    subject = frontends.resolve(model, args, kwargs, export)
    loaded, parameters = subject.loaded, _analyzed(subject, trainable, freeze)
    options = Options(
        subject.data(data), subject.batch_size(batch_size), seed,
        subject.loss(loss, output_name),
        subject.output_name(output_name), subject.dims(dims), batch_norm, method, False, True,
    )  # fmt: skip
    test = subject.data(test)
    return comparison.compare(loaded, parameters, options, plan or Plan(), test, on_progress)


def write_artifacts(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    seed: int = 0,
    loss: str = "auto",
    output_name: str | Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    batch_norm: str = "eval",
    optimizer: str = "adamw",
    scheme: str = "keep",
) -> None:
    """Write what ``onnxruntime.training.api`` needs to train ``model`` into ``folder``.

    These are ``training_model.onnx``, ``eval_model.onnx``, ``optimizer_model.onnx`` (``adamw`` or
    ``sgd``) and ``checkpoint``, with static shapes. Targets are an input after the model's own.
    """
    loaded = load(model)
    parameters = analyze(loaded.ir, trainable, freeze)
    state = initial_state.fill(loaded, parameters, Settings(scheme), seed)
    options = Options(
        None, batch_size, seed, loss, output_name, dims or {}, batch_norm, "taylor", False, False,
    )  # fmt: skip
    workload = build(loaded, parameters, state.values, options)
    state.finish(workload)
    artifacts.write(workload.problem, state.values, optimizer, Path(folder))


def _analyzed(
    subject: ResolvedModel, trainable: Sequence[str], freeze: Sequence[str]
) -> list[Parameter]:
    return analyze(subject.loaded.ir, trainable, freeze, subject.trained, subject.buffers)


def _bytes(limit: str | None) -> int | None:
    return None if limit is None else memory.parse(limit)


def apply(scales: str | os.PathLike[str] | Mapping[str, Any], model: Any) -> Applied:
    """Multiply the tensors of ``model`` by the factors of a scales file (or its content).

    Raises:
        ModelFileError: One of the files cannot be read, or is no scales file.
        UnsupportedModelError: The model lacks a tensor that the scales name.
        NumericalError: A product does not fit the tensor's type.
    """
    read = scales_file.read(scales)
    factors, loaded = read.factors, load(model)
    for name in factors:
        found = loaded.ir.graph.initializers.get(name)
        if found is None:
            raise UnsupportedModelError(
                f"the model has no initializer '{name}', which the scales file names; see "
                "`graph-init inspect`"
            )
        if found.const_value is None or found.const_value.dtype not in SCALED_TYPES:
            raise UnsupportedModelError(
                f"initializer '{name}', which the scales file names, does not hold floats of 16, "
                "32 or 64 bits; see `graph-init inspect`"
            )
    values = {name: Scaled(loaded, name, factor) for name, factor in factors.items()}
    provenance = {"graph_init.version": __version__, "graph_init.applied": "scales"}
    notes = []
    if read.scheme != "keep":
        notes.append(
            f"the scales were found for weights of --scheme {printable(read.scheme)}, not for "
            "those that the model had; on other weights they may be far off"
        )
    return Applied(factors, provenance, notes, loaded, values)
