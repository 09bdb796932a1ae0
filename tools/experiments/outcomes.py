"""What an initial state is worth: training from it, against training from the start.

    python tools/experiments/outcomes.py [--seeds 5] [--networks NAME…] [--quick] [--write]

Nine networks, five starts (PyTorch's default, He, He with every tensor's scale off by a random
factor within [1/e, e], at 0.4 and at 2 times He). From each start, and from what every tuner makes
of it on random batches, and from every scheme: SGD with momentum and Adam, each at five learning
rates, 200 updates with batches of 16. A state's loss is the mean training loss over the last 20
updates at the best rate. Differences are of its logarithm, paired by seed, with a 95% t-interval;
losses below 0.001 count as 0.001. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process is a core
ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory  # noqa: E402
from tools.experiments.networks import NETWORKS  # noqa: E402

SCHEMES = ("he", "xavier", "orthogonal", "delta-orthogonal", "lsuv")
TUNERS = ("signal", "sign")
#: The published tuner takes as long as everything else together.
PUBLISHED_SEEDS = 2
FLOOR = 1e-3
PAGE = ROOT / "docs" / "tuning.md"
MARK = "<!-- tools/experiments/outcomes.py --write -->"


@dataclass(frozen=True)
class Row:
    network: str
    start: str  # empty for a scheme
    state: str
    seed: int
    losses: dict[str, float]
    rates: dict[str, float | None]


@cache
def _subject(name: str, updates: int) -> laboratory.Subject:
    return laboratory.subject(name, updates=updates)


def job(network: str, seed: int, published: bool, updates: int) -> list[Row]:
    """All rows of a network under a seed."""
    s = _subject(network, updates)
    rows = []

    def train(start: str, state: str, values: laboratory.Values) -> None:
        found = s.outcome(values, seed)
        rows.append(
            Row(
                network, start, state, seed,
                {o: found.best(o) for o in found.losses},
                {o: found.largest_rate(o) for o in found.losses},
            )
        )  # fmt: skip

    for scheme in SCHEMES:
        train("", scheme, s.scheme(scheme, seed, s.start("default", seed)))
    for start in laboratory.STARTS:
        values = s.start(start, seed)
        train(start, "start", values)
        for tuner in TUNERS if published else TUNERS[:1]:
            train(start, tuner, s.tuned(tuner, values, seed))
    return rows


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95% t-interval."""
    from scipy import stats

    n = len(differences)
    if n < 2:
        return float(np.mean(differences)), float("inf")
    width = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n)
    return float(np.mean(differences)), float(width)


def logarithm(loss: float) -> float:
    return float(np.log(max(loss, FLOOR)))


def paired(rows: Sequence[Row], network: str, start: str, state: str, base: str) -> list[float]:
    """Differences of the log loss, state minus base, for every seed and optimiser's mean."""
    found: dict[tuple[str, int], Row] = {}
    for r in rows:
        if r.network == network and r.start in (start, ""):
            found[r.state, r.seed] = r
    return [
        float(np.mean([logarithm(a.losses[o]) - logarithm(b.losses[o]) for o in a.losses]))
        for (name, seed), a in found.items()
        if name == state and (b := found.get((base, seed))) is not None
    ]


def verdict(mean: float, width: float) -> str:
    return "better" if mean + width < 0 else "worse" if mean - width > 0 else "–"


def report(rows: Sequence[Row]) -> list[str]:
    """Tables in Markdown."""
    losses: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for r in rows:
        losses[r.network, r.start, r.state].append([r.losses[o] for o in sorted(r.losses)])
    networks = list(dict.fromkeys(r.network for r in rows))

    def shown(network: str, start: str, state: str) -> str:
        found = losses.get((network, start, state))
        return "–" if found is None else " / ".join(f"{x:.2g}" for x in np.median(found, axis=0))

    lines = [
        "Median training loss, Adam / SGD:", "",
        "| network | start | from the start | `signal` | `sign` | `signal` over the start | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    verdicts = defaultdict(list)
    for network in networks:
        for start in laboratory.STARTS:
            mean, width = interval(paired(rows, network, start, "signal", "start"))
            said = verdict(mean, width)
            verdicts[start].append(said)
            lines.append(
                f"| {network} | {start} | {shown(network, start, 'start')} | "
                f"{shown(network, start, 'signal')} | {shown(network, start, 'sign')} | "
                f"×{np.exp(mean):.2f} [{np.exp(mean - width):.2f}, {np.exp(mean + width):.2f}] | "
                f"{said} |"
            )
    lines += ["", "| network | " + " | ".join(SCHEMES) + " |", "|---|" + "---:|" * len(SCHEMES)]
    for network in networks:
        lines.append(f"| {network} | " + " | ".join(shown(network, "", s) for s in SCHEMES) + " |")
    bad = [v for s in ("off", "small", "large") for v in verdicts[s]]
    everything = [v for vs in verdicts.values() for v in vs]
    lines += [
        "",
        f"- `signal` is significantly worse than the start in {everything.count('worse')} of "
        f"{len(everything)} cases, better in {everything.count('better')}; from starts that are "
        f"off, too small or too large better in {bad.count('better')} of {len(bad)}.",
    ]
    cases = [(n, s) for n in networks for s in laboratory.STARTS]
    for tuner in TUNERS:
        found = [paired(rows, n, s, tuner, "start") for n, s in cases]
        differences = [float(np.mean(d)) for d in found if d]
        if differences:
            lines.append(
                f"- Loss after `{tuner}` over that from the start, median over cases: "
                f"×{np.exp(np.median(differences)):.2f}."
            )
    for scheme in SCHEMES:
        differences = [float(np.mean(paired(rows, n, s, "signal", scheme))) for n, s in cases]
        lines.append(
            f"- Loss after `signal` over that of the scheme {scheme}, median over cases: "
            f"×{np.exp(np.median(differences)):.2f}."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--published-seeds", type=int, default=PUBLISHED_SEEDS)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="two networks, two seeds, 30 updates")
    parser.add_argument("--write", action="store_true", help="into docs/tuning.md")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.updates, given.networks = 2, 30, ["mlp-relu", "mlp-tanh"]
        given.published_seeds = 0
    begun = time.perf_counter()
    tasks = [
        (n, seed, seed < given.published_seeds, given.updates)
        for n in given.networks for seed in range(given.seeds)
    ]  # fmt: skip
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for done, found in enumerate(pool.map(job, *zip(*tasks, strict=True))):
            rows += found
            print(f"{done + 1} of {len(tasks)}: {found[0].network}", file=sys.stderr, flush=True)
    minutes = (time.perf_counter() - begun) / 60
    lines = [
        f"{len(rows)} states, {given.seeds} seeds ({given.published_seeds} for `sign`), "
        f"{given.updates} updates: {minutes:.0f} minutes.", "", *report(rows),
    ]  # fmt: skip
    print("\n".join(lines))
    if given.write:
        head = PAGE.read_text(encoding="utf-8").split(MARK)[0] + MARK
        PAGE.write_text(head + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
