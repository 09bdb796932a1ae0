"""What decides where a network has learnt the batch of the trials from every state.

    python tools/experiments/ties.py [--seeds 6] [--quick] [--write]

Five networks that are not of the benchmark and learn a batch easily: GRU, LSTM, and shallow MLPs
and a CNN. Starts that are off by random factors, and too large. Of the states that the tuner
`restore` tries: the start, the one that its trials alone would choose, the one with the lowest
gradient deviation, the one that the tuner chooses, and the best in hindsight. SGD with momentum and
Adam at five learning rates each. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory, study
from tools.experiments.networks import CLASSES, NETWORKS, Network
from tools.experiments.study import Case, Page, Row, Study


class Gated(nn.Module):
    """One layer of GRU over embedded symbols."""

    def __init__(self, width: int = 48, symbols: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.gru = nn.GRU(width, width, 1, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embed(x))[0][:, -1])


EASY = {
    "GRU": Network(Gated, "recall"),
    "LSTM, width 64": NETWORKS["lstm"].but(width=64),
    "tanh MLP, 5 layers": NETWORKS["mlp-tanh"].but(depth=5, width=64),
    "ReLU MLP, 3 layers": NETWORKS["mlp-relu"].but(depth=3, width=64),
    "CNN with norms, 4 layers": NETWORKS["plain-cnn-bn"].but(depth=4, width=24),
}
STARTS = ("off", "large")
WAYS = ("trials alone", "lowest deviation", "`restore`", "best in hindsight")


def job(cases: Sequence[Case]) -> list[Row]:
    """One start under one seed: its own row, and one for each way to choose."""
    (case,) = cases
    s = laboratory.subject(case.network, case.updates)
    tuner = s.restorer()
    values = s.start(case.start, case.seed)
    own, source = s.own(values), s.random(case.seed)
    s.evaluator.step.set_parameters(own)
    tried, rows = [], []
    for _, scales in tuner.candidates(own, source):
        tried.append(tuner.tried(own, scales, source)[0])
        state = s.scaled(values, s.named(scales))
        rows.append(study.row(case, s.outcome(state, case.seed)))
    places = {id(t): k for k, t in enumerate(tried)}
    chosen = {
        "start": rows[0],
        "trials alone": rows[places[id(tuner.choose(tried, saturates=False))]],
        "lowest deviation": rows[int(np.argmin([t.deviation for t in tried]))],
        "`restore`": rows[places[id(tuner.choose(tried))]],
        "best in hindsight": min(rows, key=lambda r: r.score),
    }
    return [replace(r, treatment=way) for way, r in chosen.items()]


def experiment(given: argparse.Namespace) -> Page:
    names = ["GRU"] if given.quick else list(EASY)
    jobs = [
        [
            Case(
                label=n,
                network=EASY[n],
                start=start,
                treatment="states",
                seed=seed,
                updates=given.updates,
            )
        ]
        for n in names
        for start in STARTS
        for seed in given.seeds
    ]
    found = Study([r for rows in study.parallel(job, jobs) for r in rows])
    lines = [
        "Training loss over that from the start: geometric mean over seeds and optimisers, with "
        "its 95% interval.",
        "",
    ]
    lines += study.table(
        ["network", "start", "from the start", *WAYS],
        (
            [
                n,
                start,
                found.shown(n, start, "start"),
                *(study.ratio(found.differences((n, start, w), (n, start, "start"))) for w in WAYS),
            ]
            for n in names
            for start in STARTS
        ),
    )
    return Page(lines)


if __name__ == "__main__":
    study.main(
        __file__,
        __doc__,
        experiment,
        seeds=6,
        updates=110,
        first_seed=400,
        path=ROOT / "docs" / "research" / "ties.md",
    )
