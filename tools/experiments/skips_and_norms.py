"""Skip connections × batch norm × tuned or not: all eight cells.

    python tools/experiments/skips_and_norms.py [--seeds 3] [--first-seed 100] [--quick] [--write]

A CNN of 20 convolutions with and without skips, with and without batch norm, from He weights whose
scales are off by random factors, and from PyTorch's default. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page

CELLS = {
    ("no", "no"): "plain-cnn",
    ("no", "yes"): "plain-cnn-bn",
    ("yes", "no"): "residual-cnn",
    ("yes", "yes"): "residual-cnn-bn",
}
STARTS = ("default", "off")
TREATMENTS = ("start", "restore")


def experiment(given: argparse.Namespace) -> Page:
    depth = {"depth": 6} if given.quick else {}
    found = study.train(
        Case(
            label=n,
            network=NETWORKS[n].but(**depth),
            start=start,
            treatment=treatment,
            seed=seed,
            updates=given.updates,
        )
        for n in CELLS.values()
        for start in STARTS
        for treatment in TREATMENTS
        for seed in given.seeds
    )
    lines = list(study.CAPTION)
    lines += study.table(
        ["start", "skips", "batch norm", "not tuned", "tuned", "tuned over not tuned", ""],
        (
            [
                start,
                *cell,
                *(found.shown(n, start, t) for t in TREATMENTS),
                study.ratio(d := found.differences((n, start, "restore"), (n, start, "start"))),
                study.verdict(d),
            ]
            for start in STARTS
            for cell, n in CELLS.items()
        ),
    )
    return Page(lines)


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment)
