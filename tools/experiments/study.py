"""What the experiments have in common: many states trained in parallel, paired statistics, pages.

A page is written by hand up to a marker; what follows it is the command's output.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process is a core
ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.experiments import laboratory
from tools.experiments.networks import Network

Job = TypeVar("Job")
Result = TypeVar("Result")

FOLDER = ROOT / "docs" / "evidence"
#: Above a table of what :meth:`Study.shown` shows.
CAPTION = ("Median training loss, SGD / Adam, and the share of seeds that train if not all do:", "")
#: What ``--quick`` sets.
QUICK = {"seeds": range(2), "updates": 30}
#: The tuner was chosen on seeds 0 to 4 (docs/research/alternatives.md), so the evidence has others.
FIRST_SEED = 100
#: Lower losses count as this one: all of them have learnt the data.
FLOOR = 1e-3


@dataclass(frozen=True)
class Case:
    """A state to train from: ``network`` under the name ``label``, its start, and the treatment.

    ``seed`` decides what is drawn and the order of the data.
    """

    label: str
    network: Network
    start: str
    treatment: str
    seed: int
    updates: int = 150


@dataclass(frozen=True)
class Row:
    """How training went, by optimiser: the loss at the best rate, and the largest that trains."""

    label: str
    start: str
    treatment: str
    seed: int
    losses: dict[str, float]
    rates: dict[str, float]  # NaN where none trains

    @property
    def key(self) -> tuple[str, str, str]:
        return self.label, self.start, self.treatment

    @property
    def score(self) -> float:
        """Mean over the optimisers of the loss's logarithm."""
        return float(np.mean([logarithm(x) for x in self.losses.values()]))

    @property
    def trained(self) -> bool:
        """Whether it trained with every optimiser."""
        return bool(np.isfinite(list(self.rates.values())).all())


@dataclass
class Study:
    """Rows by network, start and treatment, and there by seed."""

    rows: Sequence[Row]
    _by_key: dict[tuple[str, str, str], dict[int, Row]] = field(init=False)

    def __post_init__(self) -> None:
        self._by_key = {}
        for row in self.rows:
            self._by_key.setdefault(row.key, {})[row.seed] = row

    def of(self, label: str, start: str, treatment: str) -> list[Row]:
        return list(self._by_key.get((label, start, treatment), {}).values())

    def differences(self, state: tuple[str, str, str], base: tuple[str, str, str]) -> list[float]:
        """Score of ``state`` minus that of ``base``, for each seed that both have."""
        left, right = self._by_key.get(state, {}), self._by_key.get(base, {})
        return [left[s].score - right[s].score for s in sorted(left.keys() & right.keys())]

    def shown(self, label: str, start: str, treatment: str) -> str:
        """Median losses by optimiser, and the share of seeds that train unless it is all."""
        found = self.of(label, start, treatment)
        if not found:
            return "–"
        losses = [np.median([r.losses[o] for r in found]) for o in found[0].losses]
        share = sum(r.trained for r in found)
        lost = "" if share == len(found) else f" ({share}/{len(found)})"
        return " / ".join(f"{x:.2g}" for x in losses) + lost


def train(cases: Iterable[Case]) -> Study:
    """Train from every case's state."""
    order = sorted(cases, key=lambda c: (c.label, c.seed, c.start, c.treatment))
    groups = [list(g) for _, g in groupby(order, lambda c: (c.label, c.seed))]
    return Study([row for rows in parallel(_train, groups) for row in rows])


def _train(cases: Sequence[Case]) -> list[Row]:
    """Cases of one network and seed; states that are the same are trained from once."""
    rows = []
    known: dict[bytes, laboratory.Outcome] = {}
    for c in cases:
        s = laboratory.subject(c.network, c.updates)
        values = s.treated(c.treatment, s.start(c.start, c.seed), c.seed)
        key = s.digest(values)
        if key not in known:
            known[key] = s.outcome(values, c.seed)
        rows.append(row(c, known[key]))
    return rows


def row(case: Case, found: laboratory.Outcome) -> Row:
    return Row(
        label=case.label,
        start=case.start,
        treatment=case.treatment,
        seed=case.seed,
        losses={o: found.best(o) for o in found.losses},
        rates={o: found.largest_rate(o) for o in found.losses},
    )


_COLUMNS = ("network", "start", "treatment", "seed", "optimizer", "loss", "largest_rate")


def record(found: Study, path: Path) -> None:
    """Write all rows as CSV, a line an optimiser."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(_COLUMNS)
        for r in sorted(found.rows, key=lambda r: (*r.key, r.seed)):
            for o, loss in r.losses.items():
                rate = r.rates[o]
                shown = f"{rate:g}" if np.isfinite(rate) else ""
                out.writerow([*r.key, r.seed, o, f"{loss:.5g}", shown])


def read(path: Path) -> list[Row]:
    """What :func:`record` wrote."""
    rows: dict[tuple[str, str, str, int], Row] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line["network"], line["start"], line["treatment"], int(line["seed"])
            found = rows.setdefault(key, Row(*key, {}, {}))
            found.losses[line["optimizer"]] = float(line["loss"])
            found.rates[line["optimizer"]] = float(line["largest_rate"] or "nan")
    return list(rows.values())


def parallel(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """``function`` of every job, in order, on a process a core."""
    context = multiprocessing.get_context("spawn")
    found = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for done, result in enumerate(pool.map(function, jobs)):
            found.append(result)
            print(f"{done + 1} of {len(jobs)}", file=sys.stderr, flush=True)
    return found


def logarithm(loss: float) -> float:
    return float(np.log(max(loss, FLOOR)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95% t-interval; of one value it is infinite."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("inf")
    width = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values)), float(width)


def verdict(differences: Sequence[float]) -> str:
    """Whether the interval of the differences of the logarithm lies on one side of zero."""
    mean, width = interval(differences)
    return "better" if mean + width < 0 else "worse" if mean - width > 0 else "–"


def ratio(differences: Sequence[float]) -> str:
    """``×mean [low, high]`` of losses from differences of their logarithms."""
    if not differences:
        return "–"
    mean, width = interval(differences)
    if not np.isfinite(width):
        return f"×{np.exp(mean):.2f}"
    low, high = (f"{np.exp(x):.2f}" for x in (mean - width, mean + width))
    return f"×{np.exp(mean):.2f} [{low}, {high}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(r) + " |" for r in rows), ""]


@dataclass
class Page:
    """What an experiment finds: lines of Markdown, and pictures by file name."""

    lines: list[str]
    pictures: dict[str, Any] = field(default_factory=dict)


def main(
    module: str,
    document: str | None,
    experiment: Callable[[argparse.Namespace], Page],
    *,
    seeds: int = 3,
    updates: int = 120,
    first_seed: int = FIRST_SEED,
    path: Path | None = None,
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """The command line of an experiment; ``module`` is its file, ``document`` its docstring."""
    name = Path(module).stem
    parser = argparse.ArgumentParser(description=(document or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first-seed", type=int, default=first_seed)
    parser.add_argument("--updates", type=int, default=updates)
    parser.add_argument("--quick", action="store_true", help="a small part, in three minutes")
    page = path or FOLDER / f"{name.replace('_', '-')}.md"
    parser.add_argument("--write", action="store_true", help=f"into {page.relative_to(ROOT)}")
    arguments(parser)
    given = parser.parse_args()
    given.seeds = range(given.first_seed, given.first_seed + given.seeds)
    if given.quick:
        vars(given).update(QUICK)
    begun = time.perf_counter()
    found = experiment(given)
    minutes = (time.perf_counter() - begun) / 60
    lines = [
        f"Seeds {given.seeds[0]} to {given.seeds[-1]}, {given.updates} updates; "
        f"{_computed() / 60:.0f} minutes of computing on {os.cpu_count()} cores, "
        f"{minutes:.0f} by the clock.",
        "",
        *found.lines,
    ]
    print("\n".join(lines))
    if given.write:
        _write(page, f"<!-- tools/experiments/{name}.py --write -->", lines, found.pictures)


def _computed() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _write(page: Path, mark: str, lines: Sequence[str], pictures: dict[str, Any]) -> None:
    for name, figure in pictures.items():
        figure.savefig(page.parent / name, dpi=110)
    shown = [f"![{n}]({n})\n" for n in pictures]
    head, found, _ = page.read_text(encoding="utf-8").partition(mark)
    assert found, f"{page} has no line {mark}"
    page.write_text("\n".join([head + mark, "", *shown, *lines]).rstrip() + "\n", encoding="utf-8")


def figure(columns: int, *, width: float = 4.2, height: float = 3.6) -> tuple[Any, list[Any]]:
    """A figure with one row of axes."""
    from matplotlib.figure import Figure

    found = Figure(figsize=(width * columns + 0.6, height), layout="constrained")
    return found, list(np.atleast_1d(found.subplots(1, columns)))
