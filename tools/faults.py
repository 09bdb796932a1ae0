"""Faults put into the writing of outputs, and commands killed at random moments.

    python tools/faults.py [--kills 160] [--only COMMAND] [--seed 0]

Prints two tables. In the first, every call of the system that writes fails once (the disk is full),
and the process is killed once at each; in the second, whole commands are ended by a signal, after a
time drawn over their course, half of them over its last third, in which they write. After each the
output must be the old one or the new one, and a later run must remove what was left. The exit
status is 1 if anything was lost. Needs a system with fork.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init import cli
from graph_init.comparison import pictures  # noqa: F401 (imported once, before all forks)
from graph_init.engine.runtime import onnxruntime
from graph_init.model import scales_file
from tests.faults import CASES, fail_everywhere, kill_everywhere, listing, strays
from tests.small_models import plain_cnn

#: Every third command is asked to end, the others are killed.
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Command:
    """Its words but for the seed, and what of its outputs must be of one run."""

    words: Callable[[Path], list[str]]
    outputs: tuple[str, ...]
    #: Beside the old and the new outputs: the first so many may be new alone.
    parted: int = 0

    def state(self, folder: Path) -> dict[str, bytes | None]:
        files = listing(folder)
        found = {n: c for n, c in files.items() if n.split("/")[0] in self.outputs}
        for name in self.outputs:
            if name.endswith(".onnx"):
                weights = onnx.load(folder / name).graph.initializer  # with its external data
                found[name] = b"".join(t.raw_data for t in weights)
        return found


def _model(name: str, *words: str) -> Callable[[Path], list[str]]:
    return lambda at: [w.format(at=at) for w in (name, *words)]


COMMANDS = {
    "initialize, with scales": Command(
        _model(
            "initialize",
            "{at}/in.onnx",
            "-o",
            "{at}/out.onnx",
            "--save-scales",
            "{at}/scales",
            "--updates",
            "3",
        ),
        ("scales", "out.onnx"),
        parted=1,
    ),
    "initialize, external data": Command(
        _model("initialize", "{at}/ext.onnx", "-o", "{at}/out.onnx", "--updates", "3"),
        ("out.onnx",),
    ),
    "apply, external data": Command(
        _model("apply", "{at}/given{{seed}}", "{at}/ext.onnx", "-o", "{at}/out.onnx"), ("out.onnx",)
    ),
    "artifacts": Command(_model("artifacts", "{at}/in.onnx", "-o", "{at}/training"), ("training",)),
    "compare": Command(
        _model(
            "compare",
            "{at}/in.onnx",
            "--data",
            "{at}/d.npz",
            "-o",
            "{at}/compared",
            "--no-tune",
            "--updates",
            "3",
            "--seeds",
            "1",
            "--scheme",
            "he",
        ),
        ("compared",),
    ),
}


def prepare(at: Path) -> None:
    """The inputs of all commands."""
    rng = np.random.default_rng(0)
    onnx.save(plain_cnn(3), at / "in.onnx")
    onnx.save(
        plain_cnn(3),
        at / "ext.onnx",
        save_as_external_data=True,
        location="ext.data",
        size_threshold=0,
    )
    x = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(at / "d.npz", x=x, target=rng.integers(0, 10, 40))
    for seed in range(2):
        factors = {n: 2.0 + seed for n in ("w0", "w1", "w2", "head")}
        (at / f"given{seed}").write_bytes(scales_file.content(factors, {}))


def start(words: list[str], seed: int) -> int:
    """The command in a child process; its number."""
    words = [w.replace("{seed}", str(seed)) for w in words]
    if words[0] != "apply":
        words += ["--seed", str(seed)]
    if words[0] in ("artifacts", "initialize"):
        words += ["--scheme", "he"]  # else the seed changes nothing
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(null, number)
        sys.argv = ["graph-init", *words]
        cli.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(status)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(words: list[str], seed: int) -> float:
    """Seconds of a run that is left alone."""
    began = time.monotonic()
    status = finish(start(words, seed))
    if status:
        sys.exit(f"{' '.join(words)} ended with status {status}")
    return time.monotonic() - began


def kill_commands(command: Command, kills: int, rng: random.Random) -> Counter[str]:
    """``kills`` runs over an old output, each ended at some moment."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="graph-init-faults-") as folder:
        at = Path(folder)
        prepare(at)
        words = command.words(at)
        states: list[dict[str, Any]] = []
        seconds = 0.0
        for seed in range(2):
            seconds = max(seconds, run(words, seed))
            states.append(command.state(at))
        assert states[0] != states[1], "the seeds make the same output"
        current = 1
        for k in range(kills):
            old, new = states[current], states[1 - current]
            share = rng.random() if k % 2 else 1 - rng.random() / 3
            child = start(words, 1 - current)
            time.sleep(share * seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, SIGNALS[k % len(SIGNALS)])
            status = finish(child)
            found["ended"] += status != 0
            found["left"] += any(".graph-init." in n for n in listing(at))
            state = command.state(at)
            mixed = {**old, **{n: new[n] for n in command.outputs[: command.parted]}}
            if state == new:
                found["new"] += 1
                current = 1 - current
            elif state == old:
                found["old"] += 1
            elif command.parted and state == mixed:
                found["parted"] += 1
            else:
                found["lost"] += 1
        run(words, 0)  # a later run cleans
        found["stray"] = len(strays(at))
        found["lost"] += command.state(at) != states[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=160, help="of whole commands, in all")
    parser.add_argument("--only", choices=COMMANDS, help="kill this command only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    onnxruntime()  # loaded once
    lost = 0
    print("| output | calls that failed | kills, one a call | between | lost | left |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="graph-init-faults-") as folder:
        for name, case in () if options.only else CASES.items():
            failed = fail_everywhere(case, Path(folder) / "w")
            killed = kill_everywhere(case, Path(folder) / "w")
            bad, left = failed.lost + killed.lost + failed.unclear, failed.left + killed.left
            lost += bad + left
            cells = (name, failed.faults, killed.faults, killed.between, bad, left)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print()
    print(
        "| command | signals | ended by them | old | new | parted | lost | with files left "
        "| after a later run |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rng = random.Random(options.seed)
    chosen = {options.only: COMMANDS[options.only]} if options.only else COMMANDS
    each = -(-options.kills // len(chosen))
    for name, command in chosen.items():
        c = kill_commands(command, each, rng)
        lost += c["lost"] + c["stray"]
        print(
            f"| {name} | {each} | {c['ended']} | {c['old']} | {c['new']} | {c['parted']} "
            f"| {c['lost']} | {c['left']} | {c['stray']} |",
            flush=True,
        )
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
