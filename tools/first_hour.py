"""A newcomer's walk: a clone, an empty home, a new environment, and docs/tutorial.md to its end.

    python tools/first_hour.py

Every block of the page is run as it stands, in order, with nothing else installed and no cache;
prints the seconds that each took. Only the two installations differ from the page: the first is of
the clone, as the page says for clones, and both are held to constraints.txt (for PyTorch's CPU
build). Needs the package registry, and about 2 GB for a while.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests import docs_pages
from tests.docs_pages import Block, unlike

PAGE = "docs/tutorial.md"
#: What stands in place of the page's own lines, where there is a clone.
INSTEAD = {
    "pip install 'graph-init[training]' scikit-learn": (
        "pip install --quiet -c {clone}/constraints.txt -e '{clone}[training]' scikit-learn"
    ),
    "pip install torch": "pip install --quiet -c {clone}/constraints.txt torch",
}


def run(code: str, folder: Path, home: Path) -> tuple[str, float]:
    """What bash prints for ``code`` in the activated environment, and the seconds it took."""
    activate = folder / ".venv" / "bin" / "activate"
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    path = [p for p in os.environ["PATH"].split(os.pathsep) if "venv" not in p]
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"[ ! -e {activate} ] || . {activate}\n{code}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={
            **kept,
            "HOME": str(home),
            "PATH": os.pathsep.join(path),
            "COLUMNS": "100",
            "TERM": "dumb",
            "PIP_NO_CACHE_DIR": "1",
        },
    )
    if done.returncode:
        raise SystemExit(f"{code}\nends with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout, time.perf_counter() - start


def step(block: Block, folder: Path, home: Path, clone: Path) -> None:
    """Run a block, and print a row of the table."""
    if block.file is not None:
        docs_pages.save(block, folder)
        return
    if block.language != "sh":
        return
    code = block.code
    for line, other in INSTEAD.items():
        code = code.replace(line, other.format(clone=clone))
    printed, seconds = run(code, folder, home)
    difference = unlike(block.output, printed) if block.output else ""
    verdict = difference or ("as shown" if block.output else "")
    first = " ".join(code.strip().split("\n")[-1].replace(str(clone), "CLONE").split())
    print(f"| `{first}` | {seconds:.0f} | {verdict} |", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        home, clone, folder = at / "home", at / "graph-init", at / "tutorial"
        home.mkdir(), folder.mkdir()
        start = time.perf_counter()
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", clone], check=True
        )
        print("| the block's last line | seconds | output |\n|---|---:|---|")
        print(f"| `git clone` | {time.perf_counter() - start:.0f} | |", flush=True)
        for block in docs_pages.blocks(PAGE):
            step(block, folder, home, clone)
        print(f"| all | {time.perf_counter() - start:.0f} | |")


if __name__ == "__main__":
    main()
