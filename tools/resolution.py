"""On which Pythons and systems graph-init can be installed from wheels alone, by the resolver.

    python tools/resolution.py [--extras cpu training] [--write]

For each of 20 cells (five Pythons on four systems) uv resolves the requirements of this repository
without building anything; nothing is installed but uv. `--write` puts the table into
docs/compatibility.md. Needs the package registry.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- tools/resolution.py --write -->", "<!-- end of resolution -->"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: uv's names of systems, by ours.
SYSTEMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux arm64": "aarch64-manylinux_2_28",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}
#: The oldest macOS that wheels may be for; uv's own is 13, for which the newest have none.
MACOS = "14.0"
#: What of a resolution is shown: the extra's engine.
ENGINE = re.compile(r"^(onnxruntime[\w-]*|torch)==(\S+)", re.MULTILINE)


def cell(uv: str, extra: str, python: str, system: str) -> str:
    """The version of the engine that would be installed, or a dash."""
    macos = MACOS if "macOS" in system else None
    done = subprocess.run(
        [
            uv,
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--no-config",
            "--only-binary",
            ":all:",
            "--python-version",
            python,
            "--python-platform",
            SYSTEMS[system],
            "--extra",
            extra,
            str(ROOT / "pyproject.toml"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **({"MACOSX_DEPLOYMENT_TARGET": macos} if macos else {})},
    )
    found = ENGINE.search(done.stdout)
    return found.group(2) if done.returncode == 0 and found else "–"


def table(extras: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        uv = str(Path(folder) / "bin" / "uv")
        lines = [f"| extra | system | {' | '.join(PYTHONS)} |", f"|---|---|{'---|' * len(PYTHONS)}"]
        for extra in extras:
            for system in SYSTEMS:
                cells = [cell(uv, extra, p, system) for p in PYTHONS]
                lines.append(f"| `[{extra}]` | {system} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--extras", nargs="+", default=["cpu", "training"])
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    given = parser.parse_args()
    found = table(given.extras)
    if given.write:
        head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        tail = rest.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n\n{found}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
