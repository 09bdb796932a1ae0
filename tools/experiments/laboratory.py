"""A network on its task, made ready for many training runs: starts, tuners, learning rates.

Everything runs through graph-init's own training graphs, on one thread a process.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.analysis import analyze
from graph_init.deviation import evaluator as evaluation
from graph_init.init import initial_state
from graph_init.model.load import LoadedModel, load
from graph_init.options import TUNERS, InitialWeights, Options, Restore, Tuner, tuner
from graph_init.problem import batches, streams, workload
from graph_init.problem.forward_graph import initial_values
from graph_init.training import runner
from graph_init.training.optimizers import OPTIMIZERS
from graph_init.tuning import registry
from graph_init.tuning.restore import Restorer
from tools.experiments.networks import CLASSES, Network
from tools.experiments.tasks import TASKS

Values = dict[str, Any]
logging.getLogger("torch.onnx").setLevel(logging.ERROR)

#: The loss of guessing; that of a run that diverged, or rose above it.
CHANCE = float(np.log(CLASSES))
#: Below this share of :data:`CHANCE` a run has trained.
TRAINED = 0.9
#: A run's loss is the mean over this share of its updates, the last ones.
_FINAL = 0.1
BATCH = 16

#: Starts by name: the scheme that fills the weights, and what then multiplies them.
STARTS = ("default", "he", "off", "small", "large")
_OFF, _SMALL, _LARGE = 1.0, 0.4, 2.0


@dataclass(frozen=True)
class Outcome:
    """How training went from one state, by optimiser: losses by learning rate, and by update."""

    losses: dict[str, dict[float, float]]
    curves: dict[str, dict[float, Any]]

    def best(self, optimizer: str) -> float:
        """The lowest loss over the learning rates."""
        return min(self.losses[optimizer].values())

    def best_curve(self, optimizer: str) -> Any:
        """Losses by update of the run that ends lowest."""
        found = self.losses[optimizer]
        return self.curves[optimizer][min(found, key=lambda rate: found[rate])]

    def trained(self, optimizer: str) -> bool:
        return self.best(optimizer) < TRAINED * CHANCE

    def largest_rate(self, optimizer: str) -> float:
        """The largest learning rate that trains; NaN if none does."""
        rates = [r for r, x in self.losses[optimizer].items() if x < TRAINED * CHANCE]
        return max(rates, default=float("nan"))


class Subject:
    """A network with its data."""

    def __init__(self, network: Network, *, batch_norm: str = "train", updates: int = 150) -> None:
        self.network, self.updates, self.batch_norm = network, updates, batch_norm
        self.data = TASKS[network.task]()
        self.loaded = self._export(0)
        self.parameters = analyze(self.loaded.ir)
        self.base = initial_values(self.loaded)
        self.workload = self.load()
        self.problem = self.workload.problem
        self._tuners: dict[Tuner, registry.PreparedTuner] = {}
        self.scalable = [p.name for p in self.problem.parameters if p.scalable]

    def load(self, data: Any = None, *, batch: int = BATCH, seed: int = 0) -> workload.Workload:
        options = Options(
            data=self.data if data is None else data,
            batch_size=batch,
            seed=seed,
            loss="cross-entropy",
            batch_norm=self.batch_norm,
            scale_gradient=True,
        )
        return workload.build(self.loaded, self.parameters, self.base, options)

    def _export(self, seed: int) -> LoadedModel:
        torch.manual_seed(seed)
        module: nn.Module = self.network.build().eval()
        example = torch.from_numpy(self.data["x"][:4])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=["x"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            assert program is not None
            program.save(str(path))
            return load(path)

    @cached_property
    def _trainers(self) -> dict[str, runner.Trainer]:
        return {o: runner.Trainer(self.problem, o) for o in OPTIMIZERS}

    @cached_property
    def evaluator(self) -> evaluation.Evaluator:
        """That of gradient deviation, on batches of the task."""
        return evaluation.prepare(self.workload, self.base)

    def random(self, seed: int, load: workload.Workload | None = None) -> streams.Source:
        """Random batches."""
        ranges = batches.index_ranges(self.problem.builder, self.problem.inputs)
        return streams.random((load or self.workload).layout, ranges, seed)

    def start(self, name: str, seed: int) -> Values:
        """The weights of a start, or of a scheme."""
        default = self._default(seed)
        if name == "default":
            return default
        rng = np.random.default_rng([seed, 7])
        scheme = name if name not in STARTS else "he"
        values = self.scheme(scheme, seed, default)
        for n in self.scalable:
            factor = {
                "off": np.exp(rng.uniform(-_OFF, _OFF)),
                "small": _SMALL,
                "large": _LARGE,
            }.get(name, 1.0)
            values[n] = values[n] * np.float32(factor)
        return values

    def _default(self, seed: int) -> Values:
        """The weights that PyTorch gives the network."""
        torch.manual_seed(seed)
        drawn = self.network.build().state_dict()
        own = {p.name for p in self.problem.parameters}
        if own <= drawn.keys():
            return {**self.base, **{n: drawn[n].numpy() for n in own}}
        loaded = self._export(seed)  # the exporter has renamed some
        return initial_values(loaded)

    def treated(self, treatment: str, values: Mapping[str, Any], seed: int) -> Values:
        """``values`` left alone (``start``), filled by a scheme, or tuned."""
        if treatment == "start":
            return dict(values)
        if treatment in TUNERS:
            return self.tuned(treatment, values, seed)
        return self.scheme(treatment, seed, values)

    def scheme(self, name: str, seed: int, base: Mapping[str, Any]) -> Values:
        """The scheme's weights in place of those of ``base``."""
        state = initial_state.fill(
            self.loaded,
            self.parameters,
            InitialWeights(name),
            seed=seed,
            base=base,
            prepare=lambda values: replace(self.workload, source=self.random(seed)),
        )
        return {**base, **state.filled}

    def tuned(self, name: str, values: Mapping[str, Any], seed: int) -> Values:
        """What a tuner makes of ``values``."""
        return self.scaled(values, self.scales(name, values, self.random(seed)))

    def scales(
        self, name: str, values: Mapping[str, Any], source: streams.Source
    ) -> dict[str, float]:
        """What a tuner finds for ``values`` with its default steps, on batches of ``source``."""
        own = self.own(values)
        self.evaluator.step.set_parameters(own)
        return self.named(self.tuner(tuner(name))(own, source).scales)

    def trial(self, values: Mapping[str, Any], seed: int) -> float:
        """The loss that the tuner ``restore`` judges the state by."""
        ones = np.ones(len(self.evaluator.scaled))
        return self.restorer().trial(self.own(values), ones, self.random(seed)).last

    def restorer(self, settings: Restore | None = None) -> Restorer:
        """The default tuner."""
        found = self.tuner(settings or Restore())
        assert isinstance(found, Restorer)
        return found

    def named(self, scales: Any) -> dict[str, float]:
        """A tuner's vector of scales, by the tensors' names."""
        return dict(zip(self.evaluator.scaled, np.asarray(scales).tolist(), strict=True))

    def tuner(self, settings: Tuner) -> registry.PreparedTuner:
        if settings not in self._tuners:
            self._tuners[settings] = registry.prepare(
                settings, self.evaluator, self.workload, self.parameters
            )
        return self._tuners[settings]

    def own(self, values: Mapping[str, Any]) -> Values:
        return {p.name: values[p.name] for p in self.problem.parameters}

    def digest(self, values: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(runner.pack(self.problem, values).tobytes()).digest()

    def scaled(self, values: Mapping[str, Any], scales: Mapping[str, float]) -> Values:
        return {n: v * np.float32(scales[n]) if n in scales else v for n, v in values.items()}

    def curve(
        self, values: Mapping[str, Any], optimizer: str, rate: float, seed: int
    ) -> runner.Curve:
        """One run."""
        rows = self.workload.rows
        assert rows is not None
        order = runner.epochs(rows, BATCH, seed)
        start = runner.pack(self.problem, values)
        return self._trainers[optimizer](start, order, self.updates, rate)

    def outcome(
        self, values: Mapping[str, Any], seed: int, optimizers: Sequence[str] = tuple(OPTIMIZERS)
    ) -> Outcome:
        """Training over the grids of learning rates."""
        found: dict[str, dict[float, float]] = {o: {} for o in optimizers}
        curves: dict[str, dict[float, Any]] = {o: {} for o in optimizers}
        last = max(1, round(_FINAL * self.updates))
        for o in optimizers:
            for rate in OPTIMIZERS[o].rates:
                curve = self.curve(values, o, rate, seed)
                final = CHANCE if curve.diverged else float(np.mean(curve.losses[-last:]))
                found[o][rate] = min(final, CHANCE)
                curves[o][rate] = curve.losses
        return Outcome(found, curves)


@lru_cache(maxsize=3)
def subject(network: Network, updates: int = 150) -> Subject:
    """The network made ready, once a process."""
    return Subject(network, updates=updates)
