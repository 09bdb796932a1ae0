"""Recovery of plain deep networks from bad initialisation.

    python tools/experiments/recovery.py [--seeds 3] [--first-seed 100] [--quick] [--write]

Plain networks of 20 and 30 layers from PyTorch's default and from starts that are off, too small
and too large: trained from there, after the tuners, after each scheme (which forgets the start),
and with batch norm behind every layer instead. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page

PLAIN = {
    "CNN, 20 layers": NETWORKS["plain-cnn"],
    "CNN, 30 layers": NETWORKS["plain-cnn"].but(depth=30),
    "ReLU MLP, 30 layers": NETWORKS["mlp-relu"],
    "tanh MLP, 30 layers": NETWORKS["mlp-tanh"],
}
STARTS = ("default", "off", "small", "large")
SCHEMES = ("he", "xavier", "orthogonal", "delta-orthogonal", "lsuv")
TUNERS = ("restore", "metainit")
_NORM = " + batch norm"
_PUBLISHED_SEEDS = 1


def experiment(given: argparse.Namespace) -> Page:
    names = ["ReLU MLP, 30 layers"] if given.quick else list(PLAIN)
    cases = []
    for name in names:
        plain, normed = PLAIN[name], PLAIN[name].but(norm=True)
        for seed in given.seeds:
            case = partial(Case, seed=seed, updates=given.updates)
            for start in STARTS:
                cases.append(case(name + _NORM, normed, start, "start"))
                for treatment in ("start", *TUNERS):
                    if treatment != "metainit" or (
                        seed in given.seeds[:_PUBLISHED_SEEDS] and not given.quick
                    ):
                        cases.append(case(name, plain, start, treatment))
            cases += [case(name, plain, "default", scheme) for scheme in SCHEMES]
    found = study.train(cases)
    lines = list(study.CAPTION)
    lines += study.table(
        ["network", "start", "from the start", *(f"`{t}`" for t in TUNERS), "batch norm"],
        (
            [
                n,
                start,
                *(found.shown(n, start, t) for t in ("start", *TUNERS)),
                found.shown(n + _NORM, start, "start"),
            ]
            for n in names
            for start in STARTS
        ),
    )
    lines += study.table(
        ["network", *SCHEMES],
        ([n, *(found.shown(n, "default", s) for s in SCHEMES)] for n in names),
    )
    for name in names:
        best = min(SCHEMES, key=lambda s: np.mean([r.score for r in found.of(name, "default", s)]))
        over = [
            study.ratio(found.differences((name, start, "restore"), (name, "default", best)))
            for start in STARTS
        ]
        lines.append(
            f"- {name}: the best scheme is {best}; loss after `restore` over its loss, from "
            + ", ".join(f"{s} {r}" for s, r in zip(STARTS, over, strict=True))
            + "."
        )
    return Page(lines)


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment)
