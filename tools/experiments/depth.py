"""How deep a plain network still trains, tuned and not.

    python tools/experiments/depth.py [--seeds 2] [--first-seed 100] [--quick] [--write]

ReLU and tanh MLPs and a CNN without skips and norms, from PyTorch's default weights and from He's,
both as they are and after `restore`, and from orthogonal and LSUV. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page, Study

DEPTHS = {"mlp-relu": (10, 30, 100), "mlp-tanh": (10, 30, 100), "plain-cnn": (10, 30, 50)}
#: What is shown → start and treatment.
STATES = {
    "default": ("default", "start"),
    "default, tuned": ("default", "restore"),
    "he": ("he", "start"),
    "he, tuned": ("he", "restore"),
    "orthogonal": ("default", "orthogonal"),
    "lsuv": ("default", "lsuv"),
}


def experiment(given: argparse.Namespace) -> Page:
    depths = {"mlp-relu": (4, 30)} if given.quick else DEPTHS
    found = study.train(
        Case(_label(n, d), NETWORKS[n].but(depth=d), *state, seed=seed, updates=given.updates)
        for n, ds in depths.items()
        for d in ds
        for state in STATES.values()
        for seed in given.seeds
    )
    lines = list(study.CAPTION)
    lines += study.table(
        ["network", "layers", *STATES],
        (
            [n, str(d), *(found.shown(_label(n, d), *state) for state in STATES.values())]
            for n, ds in depths.items()
            for d in ds
        ),
    )
    figure, axes = study.figure(len(depths))
    for axis, (n, ds) in zip(axes, depths.items(), strict=True):
        for name, state in STATES.items():
            losses = [np.exp(_score(found, _label(n, d), state)) for d in ds]
            axis.plot(ds, losses, "o--" if "tuned" in name else "o-", label=name)
        axis.set(title=n, yscale="log", xlabel="layers")
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[-1].legend(fontsize="small")
    return Page(lines, {"depth.png": figure})


def _label(name: str, depth: int) -> str:
    return f"{name}, {depth} layers"


def _score(found: Study, label: str, state: tuple[str, str]) -> float:
    return float(np.median([r.score for r in found.of(label, *state)]))


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment, seeds=2)
