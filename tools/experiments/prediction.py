"""Does gradient deviation predict how a network trains?

    python tools/experiments/prediction.py [--seeds 2] [--first-seed 100] [--quick] [--write]

Four architectures; for each, states from five starts, from three schemes, and from what both tuners
make of two starts, under every seed. Of each state: what can be measured before training (gradient
deviation and what else is known of the first step, on random and on real batches; the loss at the
end of the trials of the tuner `restore`), the training loss after the budget, and the largest
learning rate that trains. Rank correlations (Spearman's) are taken within an architecture; shown
are their mean over the architectures and, in brackets, the lowest and the highest. Needs the
``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory, study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page, Row

ARCHITECTURES = ("plain-cnn", "mlp-relu", "mlp-tanh", "transformer-post")
STATES = (
    *((start, "start") for start in laboratory.STARTS),
    *(("default", scheme) for scheme in ("xavier", "orthogonal", "lsuv")),
    *((start, "restore") for start in ("default", "off")),
    *((start, "metainit") for start in ("default", "off")),
)
TRIAL = "loss after the trials on a random batch"
#: Real batches that the numbers are averaged over.
_BATCHES = 4

Numbers = dict[str, float]


@dataclass(frozen=True)
class Measured:
    row: Row
    numbers: Numbers


def job(cases: Sequence[Case]) -> list[Measured]:
    """Cases of one network."""
    found = []
    for c in cases:
        s = laboratory.subject(c.network, c.updates)
        values = s.treated(c.treatment, s.start(c.start, c.seed), c.seed)
        numbers = before_training(s, values, c.seed)
        found.append(Measured(study.row(c, s.outcome(values, c.seed)), numbers))
    return found


def before_training(s: laboratory.Subject, values: laboratory.Values, seed: int) -> Numbers:
    """What is known without training on the data."""
    s.evaluator.step.set_parameters(s.own(values))
    ones = np.ones(len(s.evaluator.scaled))
    sizes = np.array([np.prod(p.shape) for p in s.problem.parameters])

    def numbers(batch: Any) -> Numbers:
        return _numbers(s.evaluator.step(batch, ones), sizes)

    random = [numbers(s.random(seed).report.batch(k)) for k in range(2)]
    real = [numbers(s.workload.source.search.batch(k)) for k in range(_BATCHES)]
    found = {f"{n}, random batch": _mean(random, n) for n in random[0]}
    found |= {f"{n}, real batch": _mean(real, n) for n in real[0]}
    return found | {TRIAL: s.trial(values, seed)}


def _numbers(found: Any, sizes: Any) -> Numbers:
    """Of one evaluation; a number that is not finite is the worst of its kind."""
    values = {
        "gradient deviation": found.gradient_deviation,
        "median over tensors of gradient deviation": np.median(found.deviation_sums / sizes),
        "loss": found.loss,
        "gradient norm": found.gradient_norm,
        "vanished fraction": found.vanished_fraction,
        "distance of the output's deviation from 1, in logarithms": abs(
            np.log(max(found.output_std, 1e-12))
        ),
    }
    return {n: float(v) if np.isfinite(v) else float("inf") for n, v in values.items()}


def _mean(rows: Sequence[Numbers], name: str) -> float:
    return float(np.mean([r[name] for r in rows]))


def experiment(given: argparse.Namespace) -> Page:
    names = ["mlp-relu", "mlp-tanh"] if given.quick else list(ARCHITECTURES)
    states = [s for s in STATES if s[1] != "metainit"] if given.quick else STATES
    jobs = [
        [
            Case(
                label=n,
                network=NETWORKS[n],
                start=start,
                treatment=treatment,
                seed=seed,
                updates=given.updates,
            )
            for start, treatment in states
        ]
        for n in names
        for seed in given.seeds
    ]
    found = [m for ms in study.parallel(job, jobs) for m in ms]
    return Page(report(found, names), {"prediction.png": picture(found, names)})


_NO_RATE = 1e-5
#: What is predicted → how well it went, the lower the better.
TARGETS: dict[str, Callable[[Row], float]] = {
    "training loss": lambda row: row.score,
    "largest learning rate": lambda row: (
        -float(np.mean([np.log(r if np.isfinite(r) else _NO_RATE) for r in row.rates.values()]))
    ),
}


def report(found: Sequence[Measured], names: Sequence[str]) -> list[str]:
    from scipy import stats

    def correlations(quantity: str, target: Callable[[Row], float]) -> str:
        values = []
        for n in names:
            own = [m for m in found if m.row.label == n]
            pair = [m.numbers[quantity] for m in own], [target(m.row) for m in own]
            values.append(float(stats.spearmanr(*pair).statistic))
        return f"{np.nanmean(values):+.2f} [{np.nanmin(values):+.2f}, {np.nanmax(values):+.2f}]"

    counts = {n: sum(m.row.label == n for m in found) for n in names}
    lines = [
        f"{len(found)} states: " + ", ".join(f"{c} of {n}" for n, c in counts.items()) + ". "
        "A positive correlation: the larger the number, the worse the training.",
        "",
    ]
    rows = [[q, *(correlations(q, t) for t in TARGETS.values())] for q in found[0].numbers]
    return lines + study.table(["measured before training", *TARGETS], rows)


def picture(found: Sequence[Measured], names: Sequence[str]) -> Any:
    quantities = ("gradient deviation, real batch", TRIAL)
    figure, axes = study.figure(len(quantities))
    for axis, quantity in zip(axes, quantities, strict=True):
        for n in names:
            own = [m for m in found if m.row.label == n]
            axis.scatter(
                [m.numbers[quantity] for m in own],
                [np.exp(m.row.score) for m in own],
                s=12,
                label=n,
            )
        axis.set(xscale="log", yscale="log", xlabel=quantity)
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[1].legend(fontsize="small")
    return figure


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment, seeds=2)
