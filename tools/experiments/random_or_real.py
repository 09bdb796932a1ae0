"""Random against real data for finding the scales.

    python tools/experiments/random_or_real.py [--seeds 3] [--first-seed 100] [--quick] [--write]

From He weights that are off by random factors, and from PyTorch's default, `restore` finds scales
on random inputs with random labels (its default), on real inputs with random labels, and on real
inputs with their own. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.problem.streams import Source, Stream
from tools.experiments import laboratory, study
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page, Row, Study

NAMES = ("residual-cnn", "mlp-tanh", "transformer-post", "lstm")
STARTS = ("default", "off")
SOURCES = ("random inputs and labels", "real inputs, random labels", "real inputs and labels")


@dataclass(frozen=True)
class Shuffled:
    """The batches of a stream, with labels drawn anew."""

    stream: Stream
    seed: int

    def batch(self, number: int) -> dict[str, Any]:
        found = dict(self.stream.batch(number))
        rng = np.random.default_rng([self.seed, number, 3])
        target = next(n for n in found if n != "x")
        found[target] = rng.permutation(found[target])
        return found


def job(cases: list[Case]) -> list[Row]:
    """One start under one seed: from it, and from the scales of every source."""
    rows = []
    for c in cases:
        s = laboratory.subject(c.network, c.updates)
        values = s.start(c.start, c.seed)
        if c.treatment in SOURCES:
            real = s.workload.source
            shuffled = Source(
                *(Shuffled(stream, c.seed) for stream in (real.search, real.select, real.report))
            )
            source = (s.random(c.seed), shuffled, real)[SOURCES.index(c.treatment)]
            values = s.scaled(values, s.scales("restore", values, source))
        rows.append(study.row(c, s.outcome(values, c.seed)))
    return rows


def experiment(given: argparse.Namespace) -> Page:
    names = ["mlp-tanh"] if given.quick else list(NAMES)
    jobs = [
        [
            Case(
                label=n,
                network=NETWORKS[n],
                start=start,
                treatment=t,
                seed=seed,
                updates=given.updates,
            )
            for t in ("start", *SOURCES)
        ]
        for n in names
        for seed in given.seeds
        for start in STARTS
    ]
    found = Study([r for rows in study.parallel(job, jobs) for r in rows])
    lines = list(study.CAPTION)
    lines += study.table(
        ["network", "start", "from the start", *SOURCES, "all real over all random", ""],
        (
            [
                n,
                start,
                *(found.shown(n, start, t) for t in ("start", *SOURCES)),
                study.ratio(d := found.differences((n, start, SOURCES[2]), (n, start, SOURCES[0]))),
                study.verdict(d),
            ]
            for n in names
            for start in STARTS
        ),
    )
    for number in (1, 2):
        every = [
            d
            for n in names
            for start in STARTS
            for d in found.differences((n, start, SOURCES[number]), (n, start, SOURCES[0]))
        ]
        lines.append(f"- {SOURCES[number]} over {SOURCES[0]}, all cases: {study.ratio(every)}.")
    return Page(lines)


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment)
