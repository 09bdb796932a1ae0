"""A short run of the fuzzer, and that it would notice what it looks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graph_init
from tools import fuzz, fuzz_commands, mutations


def test_mutants_are_known_by_their_number() -> None:
    made = [mutations.mutant(5, number) for number in range(30)]
    again = [mutations.mutant(5, number) for number in range(30)]
    assert [m.files for m in made] == [m.files for m in again]
    assert len({json.dumps(sorted(m.files)) + str(m.files) for m in made}) == 30


@pytest.fixture
def bench(tmp_path: Path) -> tuple[Path, fuzz._Watch]:
    (tmp_path / "in").mkdir()
    mutations.lay_out(tmp_path / "in")
    return tmp_path, fuzz._Watch()


def test_no_mutant_is_a_finding(bench: tuple[Path, fuzz._Watch]) -> None:
    base, watch = bench
    run = fuzz.Run()
    for number in range(400):
        made = mutations.mutant(20261124, number)
        result = {"number": number, "kind": made.kind, "seed": made.seed}
        run.add({**result, **fuzz._try(graph_init, made, seed=0, base=base, watch=watch)})
    assert not run.findings, run.findings[0]
    assert run.tried == 400
    outcomes = {what for _, what in run.outcomes}
    assert {"read", "ModelFileError (3)", "UsageError (2)", " save: done"} <= outcomes
    assert "| tried |" in fuzz.table(run)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (lambda path: 1 / 0, "finding: ZeroDivisionError"),
        (lambda path: (path.parent.parent / "stray").write_text("x"), "finding: outside"),
        (lambda path: (path.parent.parent / "secret.bin").read_bytes(), "finding: outside"),
    ],
)
def test_the_fuzzer_notices(
    bench: tuple[Path, fuzz._Watch], monkeypatch: pytest.MonkeyPatch, fault: Any, outcome: str
) -> None:
    base, watch = bench
    monkeypatch.setattr(graph_init, "inspect", fault)
    made = mutations.Mutant("model, bytes", "none", {"m.onnx": b""})
    assert fuzz._try(graph_init, made, seed=0, base=base, watch=watch)["outcome"] == outcome


@pytest.mark.parametrize(("how", "outcome"), [("os.abort()", "SIGABRT"), ("while True: 0", "hang")])
def test_a_process_that_ends_or_hangs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, outcome: str
) -> None:
    """In place of the worker a script that says which mutant it tries, and then fails."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\n"
        "number = int(sys.argv[2])\n"
        "print(f'start {number}', flush=True)\n"
        f"if number == 0:\n    {how}\n"
        'print(\'{"kind": "model, bytes", "outcome": "read", "seed": "s"}\', flush=True)\n'
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    monkeypatch.setitem(fuzz.HANGS, "measure", 2.0)
    run = fuzz.fuzz(0, 2, None, 1)
    assert [f["number"] for f in run.findings] == [0]
    assert outcome in run.findings[0]["outcome"]
    assert run.tried == 2


@pytest.mark.parametrize("command", fuzz_commands.COMMANDS)
def test_no_mutant_is_a_finding_of_a_command(bench: tuple[Path, fuzz._Watch], command: str) -> None:
    base, watch = bench
    run = fuzz.Run()
    count = 60 if command in ("manifest", "journal", "overview") else 12
    for number in range(count):
        made = fuzz.mutant(20261125, number, command)
        result = {"number": number, "kind": made.kind, "seed": made.seed}
        tried = fuzz._try(graph_init, made, seed=0, base=base, watch=watch, command=command)
        run.add({**result, **tried})
    assert not run.findings, run.findings[0]
    assert run.tried == count
    if count == 60:
        assert ("read" in {what for _, what in run.outcomes}) and len(run.outcomes) > 1


@pytest.mark.parametrize("command", fuzz_commands.COMMANDS)
def test_what_is_mutated_is_sound(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that follows the first check would never be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz_commands, "_changed", lambda tree, rng: json.dumps(tree).encode())
    sound = mutations.Mutant("model", "own-plain", {"m.onnx": mutations._sound_model()})
    monkeypatch.setattr(fuzz_commands, "_model", lambda kind, rng: sound)
    (tmp_path / "out").mkdir()
    made = fuzz_commands.COMMANDS[command].make("model", np.random.default_rng(0))
    for name, content in {**made.files, **sound.files}.items():
        (tmp_path / name).write_bytes(content)
    found = fuzz_commands.COMMANDS[command].run(tmp_path, tmp_path / "out")
    assert found in ("done", "read")
