"""What an initial state is worth: training from it, against training from the start.

    python tools/experiments/outcomes.py [--networks NAME…] [--seeds 8] [--quick] [--write]

Nine networks, five starts (PyTorch's default, He, He with every tensor's scale off by a random
factor within [1/e, e], at 0.4 and at 2 times He). From each start, and from what every tuner makes
of it on random batches, and from every scheme: SGD with momentum and Adam, each at five learning
rates, batches of 16. A state's loss is the mean training loss over the last tenth of the updates at
the best rate. Differences are of its logarithm, paired by seed, with a 95% t-interval; losses below
0.001 count as 0.001. A network takes up to ten minutes on two cores: ``--write`` keeps its rows in
docs/evidence/outcomes.csv, and the tables are those of all that are there. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import study
from tools.experiments.laboratory import STARTS
from tools.experiments.networks import NETWORKS
from tools.experiments.study import Case, Page, Study

#: Scheme → the case that trains from it; PyTorch's default is one as well.
SCHEMES = {
    "default": ("default", "start"),
    "he": ("he", "start"),
    **{s: ("default", s) for s in ("xavier", "orthogonal", "delta-orthogonal", "lsuv")},
}
#: The published tuner takes as long as everything else together, so it gets fewer seeds and starts.
PUBLISHED_SEEDS = 2
PUBLISHED_STARTS = ("default", "off")
BAD_STARTS = ("off", "small", "large")
RECORD = study.FOLDER / "outcomes.csv"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))


def experiment(given: argparse.Namespace) -> Page:
    names = ["mlp-relu", "mlp-tanh"] if given.quick else given.networks
    cases = []
    for name in names:
        for seed in given.seeds:
            published = seed in given.seeds[:PUBLISHED_SEEDS] and not given.quick
            runs = [(s, t) for s in STARTS for t in ("start", "restore")]
            runs += [state for state in SCHEMES.values() if state not in runs]
            runs += [(s, "metainit") for s in PUBLISHED_STARTS if published]
            cases += [
                Case(
                    label=name,
                    network=NETWORKS[name],
                    start=start,
                    treatment=treatment,
                    seed=seed,
                    updates=given.updates,
                )
                for start, treatment in runs
            ]
    found = study.train(cases)
    if given.write:
        kept = study.read(RECORD) if RECORD.exists() else []
        found = Study([*(r for r in kept if r.label not in names), *found.rows])
        study.record(found, RECORD)
        names = [n for n in NETWORKS if any(r.label == n for r in found.rows)]
    return Page(report(found, names))


def report(found: Study, names: list[str]) -> list[str]:
    """Tables, and what follows from them."""
    cases = [(n, s) for n in names for s in STARTS]
    over_start = {c: found.differences((*c, "restore"), (*c, "start")) for c in cases}
    verdicts = {c: study.verdict(d) for c, d in over_start.items()}
    lines = list(study.CAPTION)
    lines += study.table(
        [
            "network",
            "start",
            "from the start",
            "`restore`",
            "`metainit`",
            "`restore` over the start",
            "",
        ],
        (
            [
                *c,
                *(found.shown(*c, t) for t in ("start", "restore", "metainit")),
                study.ratio(over_start[c]),
                verdicts[c],
            ]
            for c in cases
        ),
    )
    lines += study.table(
        ["network", *SCHEMES],
        ([n, *(found.shown(n, *state) for state in SCHEMES.values())] for n in names),
    )
    said = list(verdicts.values())
    bad = [v for (_, start), v in verdicts.items() if start in BAD_STARTS]
    lines.append(
        f"- Of {len(said)} cases `restore` is significantly better than the start in "
        f"{said.count('better')} and worse in {said.count('worse')}; of the {len(bad)} whose start "
        f"is off, too small or too large, better in {bad.count('better')}."
    )
    for tuner in ("restore", "metainit"):
        over = [d for c in cases if (d := found.differences((*c, tuner), (*c, "start")))]
        if over:
            means = [float(np.mean(d)) for d in over]
            said = [study.verdict(d) for d in over]
            lines.append(
                f"- Loss after `{tuner}` over that from the start, median over {len(over)} cases: "
                f"×{np.exp(np.median(means)):.2f}; it is lower in {sum(m < 0 for m in means)}, "
                f"significantly in {said.count('better')}, and significantly higher in "
                f"{said.count('worse')}."
            )
    lines += _over_schemes(found, names, cases)
    rates = [_rate_ratio(found, c) for c in cases]
    lines.append(
        "- Largest learning rate that trains, after `restore` over that of the start, geometric "
        f"mean over the cases in which both train: ×{np.exp(np.nanmean(rates)):.2f}."
    )
    return lines


def _over_schemes(found: Study, names: list[str], cases: list[tuple[str, str]]) -> list[str]:
    """Against every scheme, and against the best one of each network, chosen in hindsight."""

    def over(case: tuple[str, str], scheme: str) -> float:
        state = (case[0], *SCHEMES[scheme])
        return float(np.mean(found.differences((*case, "restore"), state)))

    def score(name: str, scheme: str) -> float:
        return float(np.mean([r.score for r in found.of(name, *SCHEMES[scheme])]))

    medians = {s: float(np.exp(np.median([over(c, s) for c in cases]))) for s in SCHEMES}
    single = min(SCHEMES, key=lambda s: np.mean([score(n, s) for n in names]))
    lines = [
        "- Loss after `restore` over that of a scheme, median over the cases: "
        + ", ".join(f"{s} ×{m:.2f}" for s, m in medians.items())
        + f". The best single scheme in hindsight, by the geometric mean of its losses over the "
        f"networks, is {single}."
    ]
    best = {n: min(SCHEMES, key=lambda s: score(n, s)) for n in names}
    median = np.median([over(c, best[c[0]]) for c in cases])
    lines.append(
        "- The best scheme of each network in hindsight: "
        + ", ".join(f"{n} {s}" for n, s in best.items())
        + f". Loss after `restore` over that, median over the cases: ×{np.exp(median):.2f}."
    )
    return lines


def _rate_ratio(found: Study, case: tuple[str, str]) -> float:
    """Mean log ratio of the largest rates that train, where both do."""
    logs = [
        np.log(a.rates[o] / b.rates[o])
        for a in found.of(*case, "restore")
        for b in found.of(*case, "start")
        for o in a.rates
        if a.seed == b.seed
    ]
    known = [float(x) for x in logs if np.isfinite(x)]
    return float(np.mean(known)) if known else float("nan")


if __name__ == "__main__":
    # Seeds 0 to 105 have shown what to change in the tuner, so they do not judge it.
    study.main(
        __file__, __doc__, experiment, seeds=8, updates=110, first_seed=200, arguments=arguments
    )
