"""The public functions, which the command line calls: resolve, prepare, tune, clamp, write."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graph_init import comparison
from graph_init import options as all_options
from graph_init.analysis import Parameter
from graph_init.check import judge
from graph_init.comparison import Comparison, Plan, Progress
from graph_init.deviation.evaluator import Evaluator, Measurement, prepare
from graph_init.engine.runtime import bindings
from graph_init.errors import UnsupportedModelError, printable
from graph_init.frontends import batch, writing
from graph_init.frontends.call import Call, resolve_call
from graph_init.frontends.resolve import ResolvedModel
from graph_init.init import initial_state
from graph_init.init.initial_state import InitialState
from graph_init.model import branches, scales_file
from graph_init.model.load import load
from graph_init.model.scaled import SCALED_TYPES, Scaled
from graph_init.options import CheckOptions, InitialWeights, Options, Tuner
from graph_init.options.keywords import (
    ArtifactKeywords,
    CheckKeywords,
    CompareKeywords,
    InitializeKeywords,
    InspectKeywords,
    MeasureKeywords,
)
from graph_init.problem import forward_graph, streams
from graph_init.problem.data_files import Data
from graph_init.problem.fitting import fitted
from graph_init.problem.signature import signature
from graph_init.problem.workload import build
from graph_init.results import Applied, CheckResult, Initialized, Inspection
from graph_init.training import artifacts
from graph_init.tuning import dtype_limits, registry
from graph_init.tuning.loop import OnProgress, OnStep
from graph_init.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Unpack


def inspect(model: Any, **options: Unpack[InspectKeywords]) -> Inspection:
    """Every initializer of ``model``: what it is, and why.

    Args:
        model: here and in the other functions a path, a ModelProto, an onnx_ir.Model, or a model
            of a framework that has a frontend.
        args: an example of what a framework's model is called with; shapes count, values do not.
        kwargs: the same by keyword.
        export: options of the framework's frontend.
        trainable: regular expressions; tensors in whose name one is found are parameters.
        freeze: the same for tensors that are not.
        dims: sizes of open axes, by their name or as ``input[axis]``; the others are solved: they
            are what every node of the model fits, near what the axis seems to be.
        input: values of inputs that only steer (a rate, a length, a flag), by name; others that
            branches or sizes follow from get the first value under which the model is valid.

    Raises:
        ModelFileError: The file is missing, unreadable or not valid ONNX.
        UsageError: An expression is wrong, or is found in no name.
    """
    call = resolve_call(model, options, InspectKeywords)
    try:
        return Inspection(call.parameters, signature(call.loaded, call.options))
    except UnsupportedModelError as error:  # the tensors are there all the same
        return Inspection(call.parameters, None, [str(error)])


def measure(model: Any, **options: Unpack[MeasureKeywords]) -> Measurement:
    """Gradient deviation of ``model`` as it is, on one batch (all rows of ``data`` if given).

    The definition is that of MetaInit (Dauphin and Schoenholz, NeurIPS 2019), there called gradient
    quotient, with ε = 1e-5. ``model``, ``args``, ``kwargs``, ``export``, ``trainable`` and
    ``freeze`` are those of :func:`inspect`.

    Args:
        data: arrays by input name, and ``target``: a mapping, an ``.npz`` file, a folder of
            ``.npy`` files; or batches. All that have rows have as many. None: random batches.
        batch_size: rows of a random batch; 16 unless the model fixes it.
        seed: of what is random.
        loss: ``auto`` (by evidence, see ``loss_reason``), ``cross-entropy`` (targets: integers of
            the output's shape without the class axis), ``binary-cross-entropy`` or ``mse``
            (targets: floats of the output's shape). Each is a mean over the target's elements.
        output_name: the output that the loss reads; of several the losses are added. Without it
            the first, and others with trainable tensors of their own (``docs/how-to/own-loss.md``).
        dims, input: those of :func:`inspect`.
        batch_norm: ``eval``: running statistics; ``train``: the batch's own.
        method: ``taylor``: Hg exactly; ``finite-difference``: (g(θ) − g(θ − h·g))/h in its place.
        difference_step: h; by default h·‖g‖ is 0.0001 of ‖θ‖.
        micro_batch: rows computed at a time, a divisor of the batch; the result is the batch's.
        device: ``cpu``, ``cuda``, ``mps``; ``auto``: the accelerator that is there, else the CPU.
        memory_limit: such as ``"8GB"``, by default what is available. A batch that needs more is
            done in slices or, where its size was left open, made smaller (the result's ``notes``).
        engine: ``onnxruntime``: operators of the standard; ``onnxruntime-training``: gradients by
            that build's own builder; ``torch``: PyTorch; ``auto``: the onnxruntime that is
            installed, with the operators that it has; ``torch`` where it lacks the device.
        scale_gradient: also ∂GD/∂log s of every scalable tensor, ``log_scale_gradient`` in its row.

    Raises:
        UsageError: An option or the data are wrong.
        ModelFileError: The file is missing, unreadable or not valid ONNX.
        UnsupportedModelError: A node cannot be differentiated, or memory does not suffice.
        NumericalError: The loss or the deviation is not finite.
        EngineError: Neither onnxruntime nor PyTorch is installed, or not what ``engine`` names.
    """
    call = resolve_call(model, options, MeasureKeywords, whole_file=True)
    values = forward_graph.initial_values(call.loaded)

    def attempt(options: Options) -> Evaluator:
        return prepare(build(call.loaded, call.parameters, values, options), values)

    run, notes = fitted(call.loaded, call.options, attempt)
    ones = np.ones(len(run.scaled))
    found = run.measure(run.source.search, 1, ones, call.options.scale_gradient)
    return replace(found, notes=[*found.notes, *notes, *run.problem.objective.notes])


def check(model: Any, *, fix: bool = False, **options: Unpack[CheckKeywords]) -> CheckResult:
    """Which weights of ``model`` are wrong, by how much, and on what evidence.

    The other arguments are those of :func:`measure`; batch norms use the batch's statistics unless
    ``batch_norm`` is ``eval``. ``docs/rules.md`` explains every rule.

    Args:
        fix: multiply the weights of a framework's model by the factors that findings name; it is
            the result's ``updated``. A file with them is written by the result's ``save``.
        ignore: identifiers of rules that are not asked, such as ``GI304``.

    Raises:
        UsageError: An option or the data are wrong.
        ModelFileError: The file is missing, unreadable or not valid ONNX.
    """
    chosen = CheckOptions.of(options)
    given = {"batch_norm": "train", **options}
    call = resolve_call(model, given, CheckKeywords, whole_file=True)
    verdict = judge(call.loaded, call.parameters, call.options, chosen.ignore)
    new = writing.write(call.subject, verdict.factors, {}) if fix else None
    told = call.options.to_json()
    return CheckResult(
        findings=verdict.findings,
        tensors=len(verdict.evidence.judged),
        is_trained=verdict.evidence.is_trained,
        signal=verdict.evidence.signal,
        gradient=verdict.evidence.gradient,
        notes=verdict.notes,
        factors=verdict.factors,
        updated=None if new is None else new.updated,
        _subject=call.subject,
        _parameters=call.parameters,
        _settings={k: told[k] for k in ("data", "batch_size", "seed", "loss", "batch_norm")},
    )


def initialize(
    model: Any,
    *,
    tuner: str | Tuner = all_options.DEFAULT_TUNER,
    on_step: OnStep | None = None,
    on_progress: OnProgress | None = None,
    **options: Unpack[InitializeKeywords],
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
        tuner: ``restore`` restores the forward signal and tries which state learns best;
            ``metainit`` is the published algorithm, which lowers gradient deviation. Or one with
            its settings, such as ``graph_init.MetaInit(steps=100)``.
        updates: of ``restore``'s trials (30); with 0 the scales stay 1.
        steps: of ``metainit``'s descent (500); with 0 the scales stay 1.
        free_batch: the model that is written takes batches of any size, where the file fixes one
            and every node keeps rows apart (``docs/how-to/sizes.md``).
        on_step: receives each entry of the history: one for each state that ``restore`` tries, one
            for each step of ``metainit``.
        on_progress: receives what is being done, how much of it is done (trials of ``restore``,
            steps of ``metainit``), and how much there is.
    """
    start = time.perf_counter()
    chosen = all_options.tuner(tuner, all_options.tuner_settings(options))
    weights = InitialWeights.of(options)
    call = resolve_call(model, options, InitializeKeywords, scale_gradient=chosen.scale_gradient)

    def attempt(options: Options) -> tuple[InitialState, Evaluator, registry.PreparedTuner]:
        state = _initial_state(call, weights, options)
        run = prepare(state.workload, state.values)
        _require_scalable(run, call.parameters)
        prepared = registry.prepare(chosen, run, state.workload, call.parameters)
        prepared.ready()
        return state, run, prepared

    (state, run, prepared), notes = fitted(call.loaded, call.options, attempt)
    held_out = (run.source.report, streams.REPORTED)
    strict = not chosen.accepts_nonfinite
    before = run.measure(*held_out, np.ones(len(run.scaled)), False, strict=strict)
    found = prepared(state.values, run.source, on_step, on_progress)
    scales = dict(zip(run.scaled, found.scales.tolist(), strict=True))
    factors, clamped = dtype_limits.clamped(scales, state.values, call.parameters)
    after = run.measure(*held_out, np.array(list(factors.values())), False)
    notes = [*before.notes, *notes, *call.notes]
    if found.history:
        notes += run.source.notes
    if before.problem:
        notes.append(f"at the start {before.problem}")
    elif chosen.accepts_nonfinite and after.signs.count > before.signs.count:
        # Such a tuner mends states; it chose on another batch, and this one has the last word.
        notes.append(
            "the scales that were found are not used, and the weights stay as they are: with "
            "these scales, " + "; ".join(after.signs.sentences)
        )
        factors, clamped, after = dict.fromkeys(factors, 1.0), [], before
        found = replace(found, best_step=0)
    factors |= {
        p.name: factors[p.tied_to] for p in call.parameters if p.trainable and p.tied_to in factors
    }
    new = writing.write(call.subject, factors, state.filled)
    return Initialized(
        before=before,
        after=after,
        steps=len(found.history),
        seconds=time.perf_counter() - start,
        history=found.history,
        scales=factors,
        provenance=_provenance(call, run, weights, chosen),
        interrupted=found.interrupted,
        settings=_settings(call, run, weights, chosen),
        best_step=found.best_step,
        notes=[*notes, *run.problem.objective.notes, *clamped],
        updated=new.updated,
        tensors=new.tensors,
        _subject=call.subject,
        _values=new.values,
        _parameters=call.parameters,
    )


def compare(
    model: Any,
    data: Data,
    *,
    test: Data | None = None,
    plan: Plan | None = None,
    on_progress: Progress | None = None,
    **options: Unpack[CompareKeywords],
) -> Comparison:
    """Train ``model`` on ``data`` for a short while from several initial states.

    The other arguments, and the errors, are those of :func:`measure`.

    Args:
        data: rows to train on, as in :func:`measure`.
        test: rows to score on; by default a share of ``data`` is held out.
        plan: which states, optimisers, learning rates and seeds, and for how many updates.
        on_progress: receives what is being done, how much of it is done, and how much there is.
    """
    call = resolve_call(
        model, {"batch_norm": "train", **options}, CompareKeywords, data=data, scale_gradient=True
    )
    test = call.subject.data(test)
    own = (call.loaded, call.parameters, call.options)
    return comparison.compare(*own, plan or Plan(), test=test, on_progress=on_progress)


def write_artifacts(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    optimizer: str = "adamw",
    **options: Unpack[ArtifactKeywords],
) -> None:
    """Write what ``onnxruntime.training.api`` needs to train ``model`` into ``folder``.

    These are ``training_model.onnx``, ``eval_model.onnx``, ``optimizer_model.onnx`` (``adamw`` or
    ``sgd``) and ``checkpoint``, with static shapes. Targets are an input after the model's own.
    They need the extra ``training``; EngineError without it.
    """
    bindings()  # refused now, not after the work
    call = resolve_call(model, options, ArtifactKeywords)
    state = _initial_state(call, InitialWeights.of(options), call.options)
    artifacts.write(state.workload.problem, state.values, optimizer, Path(folder))


def _initial_state(call: Call, weights: InitialWeights, options: Options) -> InitialState:
    return initial_state.fill(
        call.loaded,
        call.parameters,
        weights,
        seed=call.options.seed,
        prepare=lambda values: build(call.loaded, call.parameters, values, options),
    )


def _require_scalable(run: Evaluator, parameters: list[Parameter]) -> None:
    if not run.scaled:
        p = max((p for p in parameters if p.trainable), key=lambda p: int(np.prod(p.shape)))
        raise UnsupportedModelError(
            f"no parameter is scalable ('{p.name}': {p.reason}); see `graph-init inspect`, and "
            "--trainable"
        )


def _provenance(
    call: Call, run: Evaluator, weights: InitialWeights, tuner: Tuner
) -> dict[str, str]:
    """What the file's ``metadata_props`` will say."""
    content = {
        "version": __version__,
        "scheme": weights.scheme,
        "tuner": tuner.name,
        **tuner.to_json(),
        "method": call.options.method,
        "seed": call.options.seed,
        "loss": run.problem.objective.kind,
        "source_sha256": call.loaded.digest(),
    }
    return {f"graph_init.{k}": str(v) for k, v in content.items()}


def _settings(call: Call, run: Evaluator, weights: InitialWeights, tuner: Tuner) -> dict[str, Any]:
    """The options as they took effect."""
    return {
        **weights.to_json(),
        "tuner": tuner.name,
        **tuner.to_json(),
        **run.workload.options.to_json(),
        "engine": run.workload.engine.version,
        "data": call.options.to_json()["data"],
        "loss": run.problem.objective.kind,
        "batch_size": run.workload.batch_size,
    }


def apply(
    scales: str | os.PathLike[str] | Mapping[str, Any], model: Any, *, free_batch: bool = False
) -> Applied:
    """Multiply the tensors of ``model`` by the factors of a scales file (or its content).

    ``free_batch`` is that of :func:`initialize`.

    Raises:
        ModelFileError: One of the files cannot be read, or is no scales file.
        UnsupportedModelError: The model lacks a tensor that the scales name.
        NumericalError: A product does not fit the tensor's type.
    """
    read = scales_file.read(scales)
    factors = read.factors
    loaded = load(model)
    if free_batch:
        loaded = batch.freed(ResolvedModel(loaded), Options(), write=True).loaded
    loaded = branches.with_constants(loaded, factors)
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
            "the weights in the model file; they may not suit other weights"
        )
    return Applied(
        scales=factors, provenance=provenance, notes=notes, _loaded=loaded, _values=values
    )
