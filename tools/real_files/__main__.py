"""Fetch the files of the list, try them all, and write docs/real-files.md.

    python -m tools.real_files                        # goes on where it was; hours for all
    python -m tools.real_files --package silero-vad   # some; the page is not written
    python -m tools.real_files --add PACKAGE==VERSION # look into a package, and list its files
    python -m tools.real_files --zoo                  # the same files in one zoo run
    python -m tools.real_files --page                 # the page from what has been tried
    python -m tools.real_files --page --reveal        # at the end, with what has been set aside

Archives, and results by the program's state and the file's digest, are kept in --cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from tools.real_files import catalog, fetch, page, runs
from tools.real_files.catalog import RealFile
from tools.real_files.runs import Outcome

ROOT = runs.ROOT


def program() -> str:
    """What tells one state of the program from another: git's id of its folder, and changes."""
    tree = _git("rev-parse", "--short", "HEAD:graph_init").strip()
    changes = _git("diff", "HEAD", "--", "graph_init")
    return tree + (f"+{sha256(changes.encode()).hexdigest()[:7]}" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def outcome_file(cache: Path, file: RealFile) -> Path:
    """Where what came of ``file`` is kept, for the program as it is now."""
    return cache / "results" / program() / f"{file.sha256}.json"


def kept(cache: Path, files: Sequence[RealFile]) -> Iterator[tuple[RealFile, Outcome]]:
    """What has been tried of ``files``."""
    for file in files:
        stored = outcome_file(cache, file)
        if stored.exists():
            yield file, runs.from_json(json.loads(stored.read_text("utf-8")))


def try_all(cache: Path, files: Sequence[RealFile], jobs: int) -> None:
    """Try what has not been tried; results are kept one by one.

    In the order of the digests: what has been done at any moment is a fair part of the whole.
    """

    def one(file: RealFile) -> None:
        stored = outcome_file(cache, file)
        if stored.exists():
            return
        try:
            path = fetch.fetched(cache, file)
        except fetch.Missing as error:
            print(f"{file.name}: {error}", file=sys.stderr, flush=True)
            return
        outcome = runs.tried(path)
        stored.parent.mkdir(parents=True, exist_ok=True)
        scratch = stored.with_suffix(".new")
        scratch.write_text(json.dumps(runs.to_json(outcome)), "utf-8")
        os.replace(scratch, stored)
        told = "set aside" if file.aside else outcome.failure or "initialised"
        print(f"{file.name}: {told}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, sorted(files, key=lambda f: f.sha256)))


def run_zoo(cache: Path, files: Sequence[RealFile]) -> dict[str, Any]:
    """All files in one run, which goes on where an earlier one was ended."""
    stored = cache / "results" / program() / "zoo"
    stored.mkdir(parents=True, exist_ok=True)
    models = [{"source": str(fetch.fetched(cache, f)), "name": f.name} for f in files]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "models.json"
        content = {"format": "graph-init/zoo", "version": 1, "models": models}
        manifest.write_text(json.dumps(content), "utf-8")
        command = [sys.executable, "-m", "graph_init", "zoo", str(manifest), "-o", str(stored)]
        command += ["--resume", "--json", "--updates", runs.UPDATES]
        command += ["--time-limit", f"{runs.TIME}s", "--memory-limit", str(runs.MEMORY)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    try:
        content = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"the zoo ended with status {done.returncode} and no overview")
    rows = {r["name"]: (r["error"] or {}).get("message", "") for r in content["rows"]}
    summary = {
        "rows": rows,
        "done": content["done"],
        "failed": content["failed"],
        "seconds": time.perf_counter() - start,
    }
    stored.with_suffix(".json").write_text(json.dumps(summary), "utf-8")
    return summary


def add(cache: Path, requirement: str) -> None:
    """Append a package's files to the list."""
    package, _, version = requirement.partition("==")
    known = catalog.read()
    files = catalog.added(known, fetch.contents(cache, package, version or None))
    catalog.write(files)
    print(f"{package}: {len(files) - len(known)} files added")


def write_page(cache: Path, files: Sequence[RealFile], revealed: bool = False) -> None:
    """The page from what has been tried."""
    stored = cache / "results" / program() / "zoo.json"
    zoo = json.loads(stored.read_text("utf-8")) if stored.exists() else None
    results = list(kept(cache, files))
    setting = page.Setting(program(), len(files) - len(results), zoo, revealed)
    page.PAGE.write_text(page.text(results, setting), "utf-8")


def main() -> None:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, default=Path(base) / "graph-init" / "real-files")
    parser.add_argument("--add", action="append", metavar="PACKAGE[==VERSION]")
    parser.add_argument("--package", action="append", metavar="NAME", help="these alone")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("--zoo", action="store_true")
    parser.add_argument("--page", action="store_true", help="try nothing, write the page")
    parser.add_argument("--reveal", action="store_true", help="also what came of what is set aside")
    given = parser.parse_args()
    try:
        for requirement in given.add or ():
            add(given.cache, requirement)
    except fetch.Missing as error:
        sys.exit(f"error: {error}")
    if given.add:
        return
    files = [f for f in catalog.read() if not given.package or f.package in given.package]
    if given.zoo:
        run_zoo(given.cache, files)
    elif not given.page:
        try_all(given.cache, files, given.jobs)
    if not given.package:
        write_page(given.cache, files, given.reveal)


if __name__ == "__main__":
    main()
