"""Which versions of Python and of the libraries graph-init works with.

    python tools/compatibility.py [--rows 3.10-cpu-oldest 3.12-training-newest …] [--write]

For each row a new virtual environment outside the repository, with the extra and the versions that
the row says: the oldest ones that pyproject.toml allows and that have wheels, the newest that the
registry has, or those of constraints.txt. There `graph-init doctor`, and all tests that need no
framework. `--write` puts each row into the table of docs/compatibility.md as soon as it is done,
where others stay. Needs the package registry, and the Pythons as ``python3.10`` and so on, or under
pyenv.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
MARK = "<!-- tools/compatibility.py --write -->"
#: Not installed here: tests that import them, themselves or through others, are left out.
FRAMEWORKS = frozenset(
    "torch jax flax equinox keras tensorflow transformers sklearn mnist1d lsuv safetensors".split()
)
SHOWN = ("numpy", "onnx", "onnx-ir", "networkx", "click", "rich")
#: The distribution that runs the graphs, by the extra that brings it.
ENGINES = {"cpu": "onnxruntime", "training": "onnxruntime-training-cpu"}
#: Options of uv by what a row says.
_RESOLUTIONS = {
    "oldest": ("--resolution", "lowest-direct"),
    "newest": (),
    "pinned": ("--constraint", str(ROOT / "constraints.txt")),
}
_TESTING = ("pytest", "pytest-xdist", "hypothesis")


@dataclass(frozen=True)
class Row:
    python: str
    extra: str  # a key of ENGINES
    versions: str  # a key of _RESOLUTIONS

    @property
    def name(self) -> str:
        return f"{self.python}-{self.extra}-{self.versions}"


#: The training build has wheels for Python 3.10 to 3.12; constraints.txt is for one Python.
ROWS = [
    *(
        Row(python, extra, versions)
        for extra, pythons in (("cpu", range(10, 14)), ("training", range(10, 13)))
        for python in (f"3.{minor}" for minor in pythons)
        for versions in ("oldest", "newest")
    ),
    Row("3.11", "training", "pinned"),
]


def interpreter(version: str) -> str:
    found = shutil.which(f"python{version}")
    under = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if under:
        return str(under[-1])
    if found is None:
        raise SystemExit(f"there is no python{version}; install it, or leave its rows out")
    return found


def without_frameworks() -> list[str]:
    """Test modules that import none of :data:`FRAMEWORKS` at their top, found by reading them.

    Tests that import one themselves skip, and say so, where it is not installed.
    """

    def imports(path: Path) -> set[str]:
        names = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        return names

    def needs(path: Path, seen: set[Path]) -> bool:
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        if any(re.search(rf"(?m)^\S.*importorskip\(.{f}", text) for f in FRAMEWORKS):
            return True
        for name in imports(path):
            if name.split(".")[0] in FRAMEWORKS | {"graph_init_torch", "graph_init_keras"}:
                return True
            other = ROOT / (name.replace(".", "/") + ".py")
            if other.exists() and other not in seen and needs(other, seen):
                return True
        return False

    tests = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(t.relative_to(ROOT)) for t in tests if not needs(t, set())]


def attempt(row: Row) -> str:
    """One line of the table."""
    head = f"| {row.python} | `[{row.extra}]` | {row.versions}"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter(row.python), "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "frontends")}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [python, *arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                env=environment,
            )

        def install(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run("-m", "uv", "pip", "install", "--quiet", "--python", python, *arguments)

        run("-m", "pip", "install", "--quiet", "uv").check_returncode()
        extras = [f"--extra={e}" for e in (row.extra, "report", "zoo")]
        wheels = ("--only-binary", ":all:", "--requirement", str(ROOT / "pyproject.toml"))
        done = install(*_RESOLUTIONS[row.versions], *wheels, *extras)
        if done.returncode:
            said = " ".join(done.stderr.split())
            why = said.partition("Because ")[2].partition(" and graph-init")[0] or said
            return f"{head} |{' |' * len(SHOWN)} | not installable: {why} |"
        install("--no-deps", str(ROOT)).check_returncode()
        install(*_TESTING).check_returncode()
        shown = [
            run("-c", f"from importlib.metadata import version; print(version('{p}'))")
            for p in (ENGINES[row.extra], *SHOWN)
        ]
        healthy = run("-m", "graph_init", "doctor").returncode == 0
        tested = run(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            "auto",
            "--dist",
            "worksteal",
            "-m",
            "not long",
            *without_frameworks(),
        )
        if tested.returncode:
            print(tested.stdout[-6000:], file=sys.stderr)
        last = re.sub(r" in .*|, \d+ warnings?", "", tested.stdout.strip().splitlines()[-1])
        cells = " | ".join(s.stdout.strip() for s in shown)
        verdict = "" if healthy else "doctor: bad; "
        return f"{head} | {cells} | {verdict}{last.strip('= ')} |"


def main() -> None:
    names = [r.name for r in ROWS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="*", default=names, choices=names)
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    given = parser.parse_args()
    head, found, page = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert found, f"{PAGE} has no line {MARK}"
    kept = {tuple(line.split(" | ")[:3]): line for line in page.splitlines() if line[:3] == "| 3"}
    keys = [(f"| {r.python}", f"`[{r.extra}]`", r.versions) for r in ROWS]
    for row, key in zip(ROWS, keys, strict=True):
        if row.name not in given.rows:
            continue
        kept[key] = attempt(row)
        print(kept[key], flush=True)
        lines = [
            f"| Python | extra | libraries | engine | {' | '.join(SHOWN)} | tests |",
            f"|---|---|---|---|{'---|' * len(SHOWN)}---|",
            *(kept[k] for k in keys if k in kept),
        ]
        if given.write:
            PAGE.write_text(f"{head}{MARK}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
