"""What a run itself costs: seconds of the runner's processor a model, and its memory, over many.

    python tools/zoo/scale.py --models 10000 --initialised 300 --write

Two runs in this process, which is the runner, with its scheduler and worker. First as many models
as are asked for, each of one node and nothing to scale: everything happens but the initialisation
(a process, digest, reading, a refusal, a line of the journal, a row). Then real ones of one layer,
which are initialised. Then both again with --resume, when nothing is left to do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

import onnx
import psutil
from onnx import TensorProto, helper

from graph_init import zoo
from tests.small_models import model, one_layer
from tools.zoo import page


@dataclass
class Watch:
    """The runner's memory (MB) after each tenth of the models."""

    every: int = 1
    done: int = 0
    memory: list[float] = field(default_factory=list)

    def begins(self, models: int) -> None:
        self.every = max(1, models // 10)

    def news(self, name: str, what: str) -> None: ...

    def finished(self, row: zoo.Row, kept: bool) -> None:
        self.done += 1
        if self.done % self.every == 0:
            self.memory.append(psutil.Process().memory_info().rss / 1e6)


def nothing_to_scale() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "xy")
    return model([helper.make_node("Relu", ["x"], ["y"])], [x], [y], [])


def fill(folder: Path, count: int, content: bytes) -> Path:
    """``count`` files, a thousand a folder."""
    for k in range(count):
        path = folder / f"{k // 1000:03d}" / f"{k % 1000:03d}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def measured(what: str, source: Path, output: Path, resume: bool = False) -> str:
    watch = Watch()
    wall, own = time.perf_counter(), time.process_time()
    found = zoo.run([str(source)], str(output), resume=resume, updates=0, workers=2, view=watch)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    count = found.summary["models"]
    memory = [watch.memory[k] for k in (0, len(watch.memory) // 2, -1)]
    line = (
        f"| {what} | {count:,} | {found.summary['done']:,} | {1e3 * own / count:.1f} | "
        f"{1e3 * wall / count:.1f} | {' · '.join(f'{m:.0f}' for m in memory)} |"
    )
    print(line, flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--initialised", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="into docs/zoo.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        light = fill(folder / "light", given.models, nothing_to_scale().SerializeToString())
        real = fill(folder / "real", given.initialised, one_layer().SerializeToString())
        lines = [
            measured("initialised, `--updates 0`", real, folder / "b"),
            measured("refused: nothing to scale", light, folder / "a"),
            measured("`--resume`, nothing to do", light, folder / "a", resume=True),
        ]
    text = f"""### The runner's own cost

`python tools/zoo/scale.py --models {given.models} --initialised {given.initialised} --write`, two
workers ({page.machine()}): models of one node, and of one layer. The runner's own time is
that of its processor, its scheduler's and its worker's; the wall clock has the models' processes
beside it, and whatever else the machine did. Memory is the runner's, after a tenth, half and all.

| models | how many | done | runner, ms a model | wall, ms a model | runner's memory, MB |
|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    if given.write:
        page.write("scale", text)


if __name__ == "__main__":
    main()
