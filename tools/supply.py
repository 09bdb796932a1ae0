"""What a release says of the packages that it needs: hashes, a bill of materials, advisories.

    python tools/supply.py [--extra cpu] [--to dist]
    python tools/supply.py --advisories

The first writes, for an extra, ``requirements-cpu.txt``: the versions of constraints.txt with the
SHA-256 of every file of them in the registry. It installs just these into an empty environment,
which fails if a file has another hash, and writes what is there as a software bill of materials
(CycloneDX 1.6, JSON). Both then ask the registry for known vulnerabilities of these versions, or
say that it tells none; with one, the exit status is 1. uv, cyclonedx-bom and pip-audit are
installed into a folder that is removed again. Needs the package registry.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

#: The oldest Python that the versions of constraints.txt are for.
PYTHON = "3.11"


class Tools:
    """The programs, in an environment of their own."""

    def __init__(self, folder: Path) -> None:
        #: Of an environment, the folder with its programs.
        self.folder = "Scripts" if sys.platform == "win32" else "bin"
        self._bin = folder / self.folder
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = ("uv", "cyclonedx-bom", "pip-audit")
        pip = [self._bin / "python", "-m", "pip", "install", "-qq", *packages]
        subprocess.run(pip, check=True)

    def run(self, name: str, *words: object, check: bool = True) -> str:
        """The program's standard output."""
        call = [str(self._bin / name), *map(str, words)]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)
        if check and done.returncode:
            sys.exit(f"{' '.join(call)} failed:\n{done.stderr}")
        return done.stdout


def hashed(tools: Tools, extra: str, at: Path) -> None:
    """Write the requirements of ``extra`` with their hashes to ``at``."""
    tools.run(
        "uv",
        *("pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate"),
        *("--generate-hashes", "--universal", "--python-version", PYTHON),
        *("--constraint", "constraints.txt", "--extra", extra, "--output-file", at),
        "pyproject.toml",
    )


def bill(tools: Tools, requirements: Path, at: Path) -> int:
    """Write the bill of materials of an installation of ``requirements``; how many are in it."""
    from graph_init.version import __version__

    with tempfile.TemporaryDirectory() as folder:
        tools.run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder)
        python = Path(folder) / tools.folder / "python"
        tools.run(
            "uv",
            *("pip", "install", "--quiet", "--no-config", "--python", python),
            *("--require-hashes", "-r", requirements),
        )
        told = tools.run(
            "cyclonedx-py",
            *("environment", "--pyproject", "pyproject.toml", "--output-reproducible"),
            *("--spec-version", "1.6", "--output-format", "JSON", python),
        )
    content = json.loads(told)
    # The version is dynamic in pyproject.toml, which is all that the program reads.
    content["metadata"]["component"]["version"] = __version__
    at.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return len(content["components"])


def advisories(told: str) -> tuple[int, list[str]]:
    """How many packages were looked up, of what pip-audit has told; and the advisories found."""
    packages: list[dict[str, Any]] = json.loads(told)["dependencies"] if told else []
    looked = [p for p in packages if "skip_reason" not in p]
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in looked for v in p["vulns"]]
    return len(looked), found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--extra", default="cpu")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--advisories", action="store_true", help="write no files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(Path(folder) / "tools")
        to = Path(folder) if given.advisories else given.to.absolute()
        to.mkdir(parents=True, exist_ok=True)
        requirements = to / f"requirements-{given.extra}.txt"
        hashed(tools, given.extra, requirements)
        if not given.advisories:
            materials = to / f"graph-init-{given.extra}.cdx.json"
            count = bill(tools, requirements, materials)
            print(f"{requirements}\n{materials}: {count} packages")
        words = ("--disable-pip", "--require-hashes", "--format", "json", "-r", requirements)
        looked, found = advisories(tools.run("pip-audit", *words, check=False))
    for line in found:
        print(line)
    if not looked:
        print("This package registry tells no advisories: nothing was looked up.")
    else:
        print(f"{looked} packages were looked up, {len(found)} advisories are known.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
