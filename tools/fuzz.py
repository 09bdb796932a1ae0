"""Feed hostile files to graph-init and look for what must not happen.

python tools/fuzz.py --count 100000 --jobs 2     that many mutants
python tools/fuzz.py --seconds 60 --seed 7       as many as there is time for
python tools/fuzz.py --replay 1234 --seed 7      one of them, with its traceback; its files are kept
python tools/fuzz.py --command initialize        another command, or part of zoo: see below

Mutants are made from the models of the onnx package and some of our own, from an archive of data
and a scales file. Each is inspected; of those that load, a share is saved with scaled tensors and a
smaller one is measured. With --command (tools/fuzz_commands.py has them) each is given to that one
command instead, and mutants are of its kind: models for most, a manifest, a journal. They run in
worker processes with limits of time and memory. A finding is a worker that dies or hangs, an
exception that is no GraphInitError, a file that is written outside of the output folder or read
outside of the model's, and memory that grows by more than a limit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

#: Shares of the mutants that load.
SAVED, MEASURED = 0.3, 0.04
#: Seconds (on the wall) after which a mutant hangs; a measurement is given more.
HANGS = {"inspect": 60.0, "measure": 240.0}
#: Seconds of computing that inspecting or saving a small model may take.
SLOW = 20.0
#: Bytes of address space of a worker, and what resident memory may grow by in one mutant.
ADDRESS_SPACE, GROWTH = 8 << 30, 3 << 30
#: Where commands differ: those that tune and train take longer than a small model's SLOW.
UNHURRIED = ("measure", "initialize", "compare", "check")
#: A worker is replaced after so many mutants.
GENERATION = 4000


@dataclass
class Run:
    """What came out."""

    outcomes: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    peak: int = 0

    @property
    def tried(self) -> int:
        return sum(n for (_, what), n in self.outcomes.items() if not what.startswith(" "))

    def add(self, result: dict[str, Any]) -> None:
        self.outcomes[result["kind"], result["outcome"]] += 1
        for extra in result.get("extra", ()):
            self.outcomes[result["kind"], f" {extra}"] += 1
        for stage, seconds in result.get("seconds", {}).items():
            self.slowest[stage] = max(self.slowest.get(stage, 0.0), seconds)
        self.peak = max(self.peak, result.get("peak", 0))
        if result.get("finding"):
            self.findings.append(result)


# -- the worker --------------------------------------------------------------------------------


class _Watch:
    """Notes files that Python opens, makes, moves or removes where it should not."""

    _CHANGES = frozenset(
        "os.mkdir os.rename os.remove os.rmdir os.link os.symlink os.truncate os.chmod "
        "shutil.copyfile shutil.move".split()
    )

    def __init__(self) -> None:
        self.output: str | None = None
        self.model: str | None = None
        self.outside: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.model is None or self.output is None:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            flags = args[2] if isinstance(args[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            path = os.path.realpath(os.fsdecode(args[0]))
            if writes and path != os.devnull and not path.startswith(self.output + os.sep):
                self.outside.append(f"written: {path}")
            base = os.path.dirname(self.model)
            allowed = (self.model + os.sep, self.output + os.sep)
            if path.startswith(base + os.sep) and not f"{path}/".startswith(allowed):
                self.outside.append(f"opened: {path}")
        elif event in self._CHANGES:
            for arg in args[:2]:
                if isinstance(arg, str | bytes):
                    parent = os.path.realpath(os.path.dirname(os.fsdecode(arg)))
                    if not f"{parent}/".startswith(self.output + os.sep):
                        self.outside.append(f"{event}: {os.fsdecode(arg)}")


def mutant(seed: int, number: int, command: str | None = None) -> Any:
    """Mutant ``number`` of the run with ``seed``, of the kind that ``command`` reads."""
    from tools import fuzz_commands, mutations

    if command is None:
        return mutations.mutant(seed, number)
    return fuzz_commands.mutant(command, seed, number)


def work(seed: int, numbers: Iterator[int], stream: IO[str], command: str | None = None) -> None:
    """Try the mutants with these numbers; a line before and a line after each."""
    import graph_init
    from graph_init.engine.runtime import onnxruntime
    from graph_init.problem import data_files  # noqa: F401  imported before memory is limited
    from tools import mutations

    onnxruntime()
    mutations.seeds()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    watch = _Watch()
    with tempfile.TemporaryDirectory(prefix="graph-init-fuzz-") as folder:
        base = Path(os.path.realpath(folder))
        (base / "in").mkdir()
        mutations.lay_out(base / "in")
        for number in islice(numbers, GENERATION):
            stream.write(f"start {number}\n")
            stream.flush()
            made = mutant(seed, number, command)
            result = {"number": number, "kind": made.kind, "seed": made.seed}
            result.update(_try(graph_init, made, seed, base, watch=watch, command=command))
            stream.write(json.dumps(result) + "\n")
            stream.flush()


def _try(
    graph_init: Any,
    made: Any,
    seed: int,
    base: Path,
    watch: _Watch,
    command: str | None = None,
) -> dict[str, Any]:
    """Give the mutant to ``command``; without one inspect it, and by chance save and measure it."""
    import numpy as np

    from tools import fuzz_commands

    folder, out = base / "in", base / "out"
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    out.mkdir(exist_ok=True)
    # What was written is noted there; a note is no finding.
    os.environ["XDG_STATE_HOME"] = str(out / "state")
    rng = np.random.default_rng([seed, made_number(made), 1])
    before = _resident()
    watch.model, watch.output, watch.outside = str(folder), str(out), []
    result: dict[str, Any] = {"seconds": {}, "extra": []}
    try:
        if command is not None:
            run = fuzz_commands.COMMANDS[command].run
            result["outcome"] = _stage(result, command, lambda: run(folder, out))
        else:
            _several(graph_init, made, result, folder, out=out, rng=rng)
    except Exception as error:
        result["outcome"] = f"finding: {type(error).__name__}"
        result["finding"] = "".join(traceback.format_exception(error))[-3000:]
    finally:
        watch.model = None
    if watch.outside:
        result["outcome"] = "finding: outside"
        result["finding"] = "; ".join(watch.outside)
    grown = _resident() - before
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if grown > GROWTH:
        result["outcome"], result["finding"] = "finding: memory", f"grew by {grown:,} bytes"
    for stage, seconds in result["seconds"].items():
        if stage not in UNHURRIED and seconds > SLOW and not made.seed.startswith("light"):
            result["outcome"], result["finding"] = "finding: slow", f"{stage}: {seconds:.1f} s"
    for name in made.files:
        (folder / name).unlink(missing_ok=True)
    if any(out.iterdir()):
        shutil.rmtree(out)
    (folder / "out.onnx").write_bytes(bytes(4096))
    return result


def _several(
    graph_init: Any, made: Any, result: dict[str, Any], folder: Path, out: Path, rng: Any
) -> None:
    """Inspect the mutant; then, by chance, save and measure it."""
    result["outcome"] = _stage(result, "inspect", lambda: _first(graph_init, made, folder, out))
    if result["outcome"] != "read" or not made.kind.startswith("model"):
        return
    draw = rng.random()
    if draw < SAVED:
        saved = _stage(result, "save", lambda: _save(graph_init, folder, out, rng))
        result["extra"].append(f"save: {saved}")
    if draw < MEASURED and not made.seed.startswith("light"):
        measured = _stage(result, "measure", lambda: _measure(graph_init, folder))
        result["extra"].append(f"measure: {measured}")


def made_number(made: Any) -> int:
    """A number of the mutant's content, for what is drawn after it is made."""
    import zlib

    return zlib.crc32(b"".join(made.files.values()))


def _stage(result: dict[str, Any], stage: str, call: Any) -> str:
    """What came of ``call``: what it returns, or the class of the error."""
    from graph_init.errors import GraphInitError

    begun = time.process_time()
    try:
        return str(call())
    except GraphInitError as error:
        _check_words(str(error))
        return f"{type(error).__name__} ({error.exit_status})"
    finally:
        result["seconds"][stage] = time.process_time() - begun


def _check_words(words: str) -> None:
    """Messages are shown to people: they must be short enough to read."""
    if len(words) > 5000:
        raise AssertionError(f"a message of {len(words)} characters: {words[:200]}")


def _first(graph_init: Any, made: Any, folder: Path, out: Path) -> str:
    """The first call: inspect a model, read data, or apply scales."""
    if made.kind == "npz":
        graph_init.measure(folder / "m.onnx", data=folder / "d.npz")
    elif made.kind == "scales":
        graph_init.apply(folder / "s.json", folder / "m.onnx").save(out / "out.onnx")
    else:
        json.dumps(graph_init.inspect(folder / "m.onnx").to_json())
    return "read"


def _save(graph_init: Any, folder: Path, out: Path, rng: Any) -> str:
    """Scale all weights, write, and read the result again."""
    found = graph_init.inspect(folder / "m.onnx").parameters
    floats = ("float16", "bfloat16", "float32", "float64")
    scales = {p.name: float(rng.uniform(0.5, 2)) for p in found if p.dtype in floats}
    content = {"format": "graph-init/scales", "version": 1, "scales": scales}
    graph_init.apply(content, folder / "m.onnx").save(out / "out.onnx")
    again = graph_init.inspect(out / "out.onnx").parameters
    # Their order may change: what was computed becomes an initializer at the end.
    if {p.name: p.shape for p in found} != {p.name: p.shape for p in again if p.name in scales} | {
        p.name: p.shape for p in found if p.name not in scales
    }:
        raise AssertionError("the saved model has other tensors")
    return "done"


def _measure(graph_init: Any, folder: Path) -> str:
    graph_init.measure(folder / "m.onnx", batch_size=None, memory_limit="1GB", scale_gradient=True)
    return "done"


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- the parent --------------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process that tries the mutants start, start + step, … until it is replaced."""

    seed: int
    next: int
    step: int
    stop: int
    command: str | None = None
    at: int | None = None
    since: float = 0.0
    left: int = 0
    process: subprocess.Popen[bytes] | None = None
    unread: bytes = b""

    def spawn(self) -> None:
        command = [
            sys.executable,
            __file__,
            "--worker",
            str(self.next),
            str(self.step),
            str(self.stop),
            "--seed",
            str(self.seed),
            *(("--command", self.command) if self.command else ()),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment
        )
        self.since, self.at, self.left, self.unread = time.monotonic(), None, GENERATION, b""

    def lines(self) -> list[str] | None:
        """What can be read now; None at the end."""
        assert self.process is not None and self.process.stdout is not None
        content = os.read(self.process.stdout.fileno(), 1 << 20)
        *whole, self.unread = (self.unread + content).split(b"\n")
        return [line.decode() for line in whole] if content else None

    def end(self) -> int:
        assert self.process is not None
        self.process.kill()
        return self.process.wait()


def fuzz(
    seed: int,
    count: int | None,
    seconds: float | None,
    jobs: int,
    first: int = 0,
    show: Any = None,
    command: str | None = None,
) -> Run:
    """Try ``count`` mutants, or as many as ``seconds`` allow."""
    from tools import mutations

    with tempfile.TemporaryDirectory(prefix="graph-init-seeds-") as folder:
        path = Path(folder) / "seeds.json"
        mutations.write_seeds(path)
        os.environ[mutations.SEEDS_FILE] = str(path)
        try:
            return _fuzz(seed, count, seconds, jobs, first=first, show=show, command=command)
        finally:
            del os.environ[mutations.SEEDS_FILE]


def _fuzz(
    seed: int,
    count: int | None,
    seconds: float | None,
    jobs: int,
    first: int,
    show: Any,
    command: str | None,
) -> Run:
    run, begun = Run(), time.monotonic()
    stop = first + (count if count is not None else 10**12)
    selector = selectors.DefaultSelector()
    workers = [_Worker(seed, first + j, jobs, stop, command=command) for j in range(jobs)]
    for worker in workers:
        _start(worker, selector)
    try:
        while selector.get_map():
            for key, _ in selector.select(timeout=1.0):
                _receive(key.data, run, selector)
            for key in list(selector.get_map().values()):
                worker = key.data
                limit = HANGS["measure"]
                if worker.at is not None and time.monotonic() - worker.since > limit:
                    _lost(worker, run, f"hang: {limit:.0f} s", selector)
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            if show is not None:
                show(run)
    finally:
        for worker in workers:
            if worker.process is not None:
                worker.end()
    return run


def _start(worker: _Worker, selector: selectors.BaseSelector) -> None:
    if worker.next >= worker.stop:
        return
    worker.spawn()
    assert worker.process is not None and worker.process.stdout is not None
    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)


def _receive(worker: _Worker, run: Run, selector: selectors.BaseSelector) -> None:
    assert worker.process is not None and worker.process.stdout is not None
    lines = worker.lines()
    for line in lines or ():
        if line.startswith("start "):
            worker.at, worker.since = int(line.split()[1]), time.monotonic()
            worker.next = worker.at + worker.step
        else:
            run.add(json.loads(line))
            worker.at, worker.left = None, worker.left - 1
    if lines is None and worker.at is not None:
        _lost(worker, run, "died", selector)
    elif lines is None:
        if worker.next < worker.stop and worker.left > 0:
            raise SystemExit("a worker does not start: run tools/fuzz.py --worker 0 1 1")
        _replace(worker, selector)


def _replace(worker: _Worker, selector: selectors.BaseSelector) -> None:
    assert worker.process is not None and worker.process.stdout is not None
    selector.unregister(worker.process.stdout)
    worker.end()
    _start(worker, selector)


def _lost(worker: _Worker, run: Run, how: str, selector: selectors.BaseSelector) -> None:
    assert worker.at is not None and worker.process is not None
    if how == "died":
        status = worker.process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    made = mutant(worker.seed, worker.at, worker.command)
    run.add(
        {
            "number": worker.at,
            "kind": made.kind,
            "seed": made.seed,
            "outcome": f"finding: {how}",
            "finding": how,
        }
    )
    _replace(worker, selector)


def table(run: Run) -> str:
    """What came out, as a table in Markdown."""
    kinds = sorted({kind for kind, _ in run.outcomes})
    rows = sorted({what for _, what in run.outcomes}, key=lambda what: (what[0] == " ", what))
    lines = [f"| outcome | {' | '.join(kinds)} | all |", "| --- |" + " ---: |" * (len(kinds) + 1)]
    for what in rows:
        counts = [run.outcomes[kind, what] for kind in kinds]
        cells = " | ".join(f"{n:,}" for n in [*counts, sum(counts)])
        lines.append(f"| {what.strip()} | {cells} |")
    totals = [
        sum(n for (k, what), n in run.outcomes.items() if k == kind and what[0] != " ")
        for kind in kinds
    ]
    lines.append(f"| tried | {' | '.join(f'{n:,}' for n in [*totals, sum(totals)])} |")
    return "\n".join(lines)


def replay(seed: int, number: int, command: str | None) -> None:
    """One mutant in this process, its files kept."""
    import graph_init
    from tools import mutations

    made = mutant(seed, number, command)
    folder = Path(tempfile.mkdtemp(prefix=f"graph-init-mutant-{number}-"))
    print(f"{made.kind} of {made.seed}: {folder}", flush=True)
    (folder / "base" / "in").mkdir(parents=True)
    mutations.lay_out(folder / "base" / "in")
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    result = _try(graph_init, made, seed, base=folder / "base", watch=_Watch(), command=command)
    print(result.pop("finding", "no finding"))
    print(result)


def main() -> None:
    from tools import fuzz_commands

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="mutants to try [10000]")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--log", type=Path, help="write findings there, a line of JSON each")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one mutant, in this process")
    parser.add_argument("--command", choices=sorted(fuzz_commands.COMMANDS))
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        stream = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work(
            options.seed,
            iter(range(options.worker[0], options.worker[2], options.worker[1])),
            stream,
            options.command,
        )
        return
    if options.replay is not None:
        return replay(options.seed, options.replay, options.command)
    count = options.count or (None if options.seconds else 10_000)
    begun, written, shown = time.monotonic(), 0, 0

    def show(run: Run) -> None:
        nonlocal written, shown
        if run.tried >= shown + 5000:
            shown = run.tried
            print(f"{shown:,} after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        for finding in run.findings[written:]:
            written += 1
            words = finding["finding"].strip().splitlines()[-1][:200]
            print(
                f"{finding['number']}: {finding['outcome']}, {finding['seed']}: {words}",
                file=sys.stderr,
                flush=True,
            )
            if options.log:
                with options.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(finding) + "\n")

    run = fuzz(
        options.seed,
        count,
        options.seconds,
        options.jobs,
        first=options.first,
        show=show,
        command=options.command,
    )
    with contextlib.suppress(BrokenPipeError):
        show(run)
        print(table(run))
        slowest = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in run.slowest.items())
        print(
            f"\n{run.tried:,} mutants, seed {options.seed}, in {time.monotonic() - begun:.0f} s: "
            f"{len(run.findings)} findings. Slowest: {slowest}. Most memory of a worker: "
            f"{run.peak / 1e9:.2f} GB."
        )
    sys.exit(1 if run.findings else 0)


if __name__ == "__main__":
    main()
