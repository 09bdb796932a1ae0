"""The commands on one file, each in a process of its own, and the check of what was written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parent.parent.parent
#: Seconds of a processor's time, and bytes, that a command may take.
TIME, MEMORY = 120, 8 << 30
#: So many times its seconds may pass by the clock: other programs may keep the machine busy.
PATIENCE = 5
#: Seconds between two looks at the memory.
_LOOK = 0.2
UPDATES = "5"


@dataclass(frozen=True)
class Run:
    """A command: exit status (None: ended by us), wall and processor seconds, peak bytes."""

    status: int | None
    error: str
    seconds: float
    processor: float
    peak: int

    @property
    def ok(self) -> bool:
        return self.status == 0


@dataclass(frozen=True)
class Facts:
    """What the file says of itself."""

    producer: str = ""
    opset: int = 0
    nodes: int = 0
    inputs: Mapping[str, Sequence[int | str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """All that came of one file; ``differences`` are what the check of the written file found."""

    facts: Facts
    inspect: Run
    measure: Run
    initialize: Run | None = None
    elements: int | None = None
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    differences: Sequence[str] = ()
    ran: str = ""

    @property
    def measured(self) -> bool:
        return self.measure.ok

    @property
    def initialized(self) -> bool:
        return self.initialize is not None and self.initialize.ok and not self.differences

    @property
    def failure(self) -> str:
        """The line of the first command that failed, or of the check; "" if all went well."""
        for run in (self.inspect, self.measure, self.initialize):
            if run is not None and not run.ok:
                return run.error
        return f"written wrongly: {self.differences[0]}" if self.differences else ""


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON has it."""
    return asdict(outcome)


def from_json(content: Mapping[str, Any]) -> Outcome:
    """The outcome of :func:`to_json`."""
    runs = {k: content[k] and Run(**content[k]) for k in ("inspect", "measure", "initialize")}
    return Outcome(**{**content, **runs, "facts": Facts(**content["facts"])})


def tried(path: Path) -> Outcome:
    """``inspect``, ``measure`` and ``initialize`` of the file, and the check of what they wrote.

    Lines name the file without its folder, which is somebody's cache.
    """
    facts = _facts(path)
    inspected, _ = command(path, "inspect")
    measured, content = command(path, "measure")
    if not measured.ok:
        return Outcome(facts, inspected, measured)
    dims = content.get("dims") or {}
    sizes = {n: {a: d["size"] for a, d in axes.items()} for n, axes in dims.items()}
    with tempfile.TemporaryDirectory() as folder:
        written, scales = Path(folder) / "written.onnx", Path(folder) / "scales.json"
        options = ["--updates", UPDATES, "-o", str(written), "--save-scales", str(scales)]
        made, _ = command(path, "initialize", *options)
        differences, ran = [], ""
        if made.ok:
            differences, ran = _verified(path, written, scales, _shapes(facts, sizes))
    return Outcome(
        facts=facts,
        inspect=inspected,
        measure=measured,
        initialize=made,
        elements=content["elements"],
        sizes=sizes,
        differences=differences,
        ran=ran,
    )


def _facts(path: Path) -> Facts:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # of many kinds; what the commands say of it is in their lines
        return Facts()
    held = {t.name for t in model.graph.initializer}
    inputs = {
        v.name: [
            d.dim_value if d.HasField("dim_value") else d.dim_param
            for d in v.type.tensor_type.shape.dim
        ]
        for v in model.graph.input
        if v.name not in held
    }
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return Facts(producer, opset, sum(1 for _ in _nodes(model.graph)), inputs)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, also those of branches and bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for part in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(part)


def _shapes(facts: Facts, sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """``--shape`` of the inputs all of whose sizes are known."""
    found = []
    for name, dims in facts.inputs.items():
        solved = sizes.get(name, {})
        shape = [solved.get(str(axis), d) for axis, d in enumerate(dims)]
        if all(isinstance(d, int) and d > 0 for d in shape):
            found += ["--shape", f"{name}=" + ",".join(map(str, shape))]
    return found


def _verified(
    path: Path, written: Path, scales: Path, shapes: Sequence[str]
) -> tuple[list[str], str]:
    tool = [sys.executable, str(ROOT / "tools" / "verify_written.py")]
    files = [str(path), str(written), str(scales)]
    run, output = process([*tool, *files, *shapes, "--json"])
    try:
        content = json.loads(output)
    except ValueError:
        return [f"it could not be checked: {run.error}"], ""
    return content["differences"], content["ran"]


def command(path: Path, verb: str, *options: str) -> tuple[Run, dict[str, Any]]:
    """``graph-init`` with ``verb`` on the file with ``--json``, and what it printed."""
    run, output = process([sys.executable, "-m", "graph_init", verb, str(path), *options, "--json"])
    run = replace(run, error=run.error.replace(f"{path.parent}{os.sep}", ""))
    try:
        return run, json.loads(output) if run.ok else {}
    except ValueError:
        return replace(run, status=1, error="no JSON was printed"), {}


def process(arguments: Sequence[str]) -> tuple[Run, str]:
    """A process under the limits of time and memory, and its standard output."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "1000"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=errors,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        watch = _Watch(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.stop()
        output.seek(0)
        errors.seek(0)
        printed, lines = output.read(), errors.read().strip().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    numbers = (
        time.perf_counter() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * unit,
    )
    if watch.reason:
        return Run(None, watch.reason, *numbers), printed
    error = _plain(lines[-1]) if child.returncode and lines else ""
    if child.returncode and not error:
        error = f"exit status {child.returncode}"
    return Run(child.returncode, error, *numbers), printed


def _plain(line: str) -> str:
    """The line without colours and the word error."""
    return re.sub(r"\x1b\[[0-9;]*m", "", line).strip().removeprefix("error: ")


class _Watch:
    """Ends a process, and those that it has started, that takes more than its limits."""

    def __init__(self, pid: int) -> None:
        self.reason = ""
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        start = time.monotonic()
        while not self._done.wait(_LOOK):
            if _processor(self._pid) > TIME:
                self.reason = f"ended after {TIME} s of a processor's time"
            elif time.monotonic() - start > PATIENCE * TIME:
                self.reason = f"ended after {PATIENCE * TIME} s"
            elif _resident(self._pid) > MEMORY:
                self.reason = f"ended at {MEMORY >> 30} GiB"
            if self.reason:
                os.killpg(self._pid, signal.SIGKILL)
                return


def _processor(pid: int) -> float:
    """Seconds that its threads have run; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _resident(pid: int) -> int:
    """Bytes in memory; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
