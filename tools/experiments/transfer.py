"""Do scales that were learnt once transfer to other data, and to wider networks?

    python tools/experiments/transfer.py [--seeds 2] [--first-seed 100] [--quick] [--write]

Data: from He weights that are off by random factors, `restore` finds scales on random batches and
on each of three data sets of 8×8 (digits, MNIST-1D drawn out to 64 points, clusters); the networks
are then trained on each of the data sets. Width: scales found for a narrow network are applied to
copies two and four times as wide, whose layers are off by the same factors. Needs the ``dev``
extra.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory, study
from tools.experiments.networks import NETWORKS, Network
from tools.experiments.study import Case, Page, Row, Study

NAMES = ("residual-cnn", "mlp-relu", "mlp-tanh")
TASKS = ("digits", "waves", "clusters")
SOURCES = ("random", *TASKS)
START = "off"
NARROW, TIMES = 8, (1, 2, 4)
_OWN, _NARROWS = "its own scales", "the narrow one's scales"

Job = tuple[str, Network, int, int]


def across_data(job: Job) -> list[Row]:
    """Train on every task from the start, and with the scales from every source."""
    name, network, seed, updates = job
    subjects = {t: laboratory.subject(network.but(task=t), updates) for t in TASKS}
    any_of = subjects[TASKS[0]]
    values = any_of.start(START, seed)
    states = {"start": values}
    for source in SOURCES:
        s = subjects.get(source, any_of)
        found = s.random(seed) if source == "random" else s.workload.source
        states[source] = s.scaled(values, s.scales("restore", values, found))
    return [
        study.row(
            Case(label=name, network=network, start=task, treatment=source, seed=seed),
            s.outcome(state, seed),
        )
        for task, s in subjects.items()
        for source, state in states.items()
    ]


def across_widths(job: Job) -> list[Row]:
    """Train narrow and wide copies with the scales of the narrowest, and with their own."""
    name, network, seed, updates = job
    learnt: dict[str, float] = {}
    rows = []
    for times in TIMES:
        wide = network.but(width=NARROW * times)
        s = laboratory.subject(wide, updates)
        values = s.start(START, seed)
        own = s.scales("restore", values, s.random(seed))
        learnt = learnt or own
        for treatment, scales in (("start", {}), (_OWN, own), (_NARROWS, learnt)):
            state = s.scaled(values, scales)
            rows.append(
                study.row(
                    Case(
                        label=name, network=wide, start=f"×{times}", treatment=treatment, seed=seed
                    ),
                    s.outcome(state, seed),
                )
            )
    return rows


def experiment(given: argparse.Namespace) -> Page:
    names = ["mlp-tanh"] if given.quick else list(NAMES)
    depth = {"depth": 8} if given.quick else {}
    jobs = [
        (n, NETWORKS[n].but(**depth), seed, given.updates) for n in names for seed in given.seeds
    ]
    data = Study([r for rows in study.parallel(across_data, jobs) for r in rows])
    widths = Study([r for rows in study.parallel(across_widths, jobs) for r in rows])
    lines = [
        "Training loss over that from the start, geometric mean over "
        + ", ".join(names)
        + " and seeds, with its 95% interval. Rows: trained on; columns: "
        "scales found on.",
        "",
    ]
    lines += study.table(
        ["trained on", *SOURCES],
        ([t, *(_over(data, names, t, s, base="start") for s in SOURCES)] for t in TASKS),
    )
    lines += ["Width: training loss over that from the start.", ""]
    lines += study.table(
        ["width", _OWN, _NARROWS, "the narrow one's over its own"],
        (
            [
                f"×{k}",
                *(_over(widths, names, f"×{k}", t, base="start") for t in (_OWN, _NARROWS)),
                _over(widths, names, f"×{k}", _NARROWS, base=_OWN),
            ]
            for k in TIMES
        ),
    )
    return Page(lines)


def _over(found: Study, names: Sequence[str], start: str, state: str, base: str) -> str:
    return study.ratio(
        [d for n in names for d in found.differences((n, start, state), (n, start, base))]
    )


if __name__ == "__main__":
    study.main(__file__, __doc__, experiment, seeds=2)
