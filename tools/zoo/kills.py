"""kill -9 at random moments, of the runner and of what it started; then compare every byte.

    python tools/zoo/kills.py --kills 20 --write

One run is left alone. Another one is begun again with --resume after each kill: of the runner, of
the process that forks, or of one that works on a model, at a moment drawn at random from the time
that an uninterrupted run takes. At the end the files of both are compared.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

import psutil

from tests.zoo_runs import contents, journal, model_processes, run, small_zoo, start
from tools.zoo import page

OPTIONS = ("--updates", "3", "--workers", "2")
WHOM = ("runner", "forking process", "model's process")


def victim(runner: int, whom: str) -> psutil.Process | None:
    if whom == "runner":
        return psutil.Process(runner)
    found = model_processes(runner) if whom == WHOM[2] else psutil.Process(runner).children()
    return random.choice(found) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="into docs/zoo.md")
    given = parser.parse_args()
    random.seed(given.seed)
    kills: Counter[str] = Counter()
    runs = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = small_zoo(folder / "in", given.models)
        began = time.perf_counter()
        status, _, errors = run(source, "-o", folder / "whole", *OPTIONS)
        whole = time.perf_counter() - began
        assert status == 0, errors
        expected = contents(folder / "whole")
        # A finished run has nothing left to kill: there are as many outputs as that takes.
        while sum(kills.values()) < given.kills:
            output = folder / f"killed{runs}"
            done = False
            while not done:
                runs += 1
                runner = start(source, "-o", output, *OPTIONS, "--resume")
                end = time.monotonic() + random.uniform(0, whole)
                while time.monotonic() < end and runner.poll() is None:
                    time.sleep(0.01)
                whom = WHOM[sum(kills.values()) % len(WHOM)]
                found = victim(runner.pid, whom) if runner.poll() is None else None
                if found is not None and sum(kills.values()) < given.kills:
                    found.kill()
                    kills[whom] += 1
                    line = f"kill {sum(kills.values())}: {whom}, {len(journal(output))} lines"
                    print(line, flush=True)
                runner.communicate()
                done = runner.returncode == 0
            assert contents(output) == expected, output
    many = ", ".join(f"{kills[w]} of the {w}" for w in WHOM)
    text = f"""### Kills

`python tools/zoo/kills.py --kills {given.kills} --models {given.models} --write`
({page.machine()}): {sum(kills.values())} kills at random moments ({many}), in {runs} runs
over {given.models} models. After each output's last run, its {len(expected)} files that do not tell
times were those of an uninterrupted run, byte for byte.
"""
    print(text)
    if given.write:
        page.write("kills", text)


if __name__ == "__main__":
    main()
