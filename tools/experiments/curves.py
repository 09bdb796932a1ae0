"""Training error against the number of updates.

    python tools/experiments/curves.py [--seeds 2] [--first-seed 100] [--quick] [--write]

Four networks, from He weights that are off by random factors: from there, after each tuner, and
from the schemes he and lsuv; SGD with momentum at the learning rate whose loss ends lowest. Needs
the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory, study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page

NAMES = ("plain-cnn", "residual-cnn-bn", "mlp-tanh", "lstm")
START, OPTIMIZER = "off", "sgd"
TREATMENTS = ("start", "restore", "metainit", "he", "lsuv")
_WINDOW = 10
#: Shares of the updates at which the table looks.
_SHARES = (0.1, 0.25, 0.5, 1.0)


def job(cases: Sequence[Case]) -> list[tuple[Case, Any]]:
    """The smoothed curves of cases."""
    found = []
    for c in cases:
        s = laboratory.subject(c.network, c.updates)
        values = s.treated(c.treatment, s.start(c.start, c.seed), c.seed)
        losses = s.outcome(values, c.seed, [OPTIMIZER]).best_curve(OPTIMIZER)
        whole = np.full(c.updates, laboratory.CHANCE)  # what a run that diverged counts as
        if len(losses) == c.updates:
            whole = np.minimum(losses, 10 * laboratory.CHANCE)
        found.append((c, whole.reshape(-1, _WINDOW).mean(1)))
    return found


def experiment(given: argparse.Namespace) -> Page:
    names = ["mlp-tanh"] if given.quick else list(NAMES)
    treatments = [t for t in TREATMENTS if t != "metainit" or not given.quick]
    updates = given.updates // _WINDOW * _WINDOW
    jobs = [
        [
            Case(label=n, network=NETWORKS[n], start=START, treatment=t, seed=seed, updates=updates)
            for t in treatments
        ]
        for n in names
        for seed in given.seeds
    ]
    curves: dict[tuple[str, str], list[Any]] = {}
    for results in study.parallel(job, jobs):
        for c, curve in results:
            curves.setdefault((c.label, c.treatment), []).append(curve)
    ends = [max(0, round(share * given.updates / _WINDOW) - 1) for share in _SHARES]
    lines = [f"Median training loss, over {_WINDOW} updates each, that end at the update:", ""]
    lines += study.table(
        ["network", "state", *(str((e + 1) * _WINDOW) for e in ends)],
        (
            [n, t, *(f"{np.median([c[e] for c in curves[n, t]]):.2g}" for e in ends)]
            for n in names
            for t in treatments
        ),
    )
    figure, axes = study.figure(len(names), width=3.4)
    for axis, n in zip(axes, names, strict=True):
        for k, t in enumerate(treatments):
            found = np.stack(curves[n, t])
            at = (np.arange(found.shape[1]) + 0.5) * _WINDOW
            axis.plot(at, np.median(found, 0), color=f"C{k}", label=t)
            axis.fill_between(at, found.min(0), found.max(0), color=f"C{k}", alpha=0.15)
        axis.set(title=n, yscale="log", xlabel="updates")
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[-1].legend(fontsize="small")
    return Page(lines, {"curves.png": figure})


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment, seeds=2, updates=250)
