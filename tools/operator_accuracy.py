"""How exact each operator's derivatives are on each engine, against an independent oracle.

    python tools/operator_accuracy.py [--python OTHER/bin/python …]

The oracle are PyTorch's own functions in float64 under autograd, and where there are none numeric
differentiation (`tests/accuracy.py`). Engines of one environment exclude each other: `--python`
names the interpreters of others, in which graph-init's dependencies are installed. The errors go to
docs/accuracy.json, which `tools/operator_table.py` reads, and an overview into docs/engines.md.
About two minutes an engine, and four for the oracle, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "accuracy.json"
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- tools/operator_accuracy.py -->\n", "<!-- end of accuracy -->\n"
ORDERS = ("gradient", "Hessian-vector product", "mixed third derivative")
#: What an engine is called in the table, by ``--engine`` and whether it computes in float64.
KINDS = {
    ("torch", True): "float64",
    ("torch", False): "float32",
    ("auto", False): "float32",
    ("onnxruntime", False): "float32, operators of the standard alone",
    ("onnxruntime-training", False): "float32, gradients by the training build",
}


def measured(pythons: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What tests.accuracy gives, for every engine that is there in each environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(python: str, *arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        done.check_returncode()
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        oracle, out = Path(folder) / "oracle.npz", Path(folder) / "out.json"
        run(pythons[0], "-m", "tests.accuracy", "oracle", str(oracle))
        seen = set()
        for python in pythons:
            asked = (
                "from tests.engines import missing; import sys; print(missing(sys.argv[1]) or '')"
            )
            for (engine, double), how in KINDS.items():
                if run(python, "-c", asked, engine).strip():
                    continue
                options = ["--double"] if double else []
                run(python, "-m", "tests.accuracy", engine, str(oracle), str(out), *options)
                row = {"how": how, **json.loads(out.read_text("utf-8"))}
                if (how, row["engine"]) not in seen:  # PyTorch may be in several
                    seen.add((how, row["engine"]))
                    yield row


def short(error: float) -> str:
    """One digit and the exponent."""
    return f"{error:.0e}".replace("e-0", "e-")


def overview(rows: Sequence[dict[str, Any]]) -> str:
    """A row an engine: over its operators the median and the largest error of each order."""
    lines = [
        f"| engine | in | operators | cases | {' | '.join(ORDERS)} |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        operators = row["operators"]
        cells = []
        for order in range(len(ORDERS)):
            by = {name: o["errors"][order] for name, o in operators.items()}
            worst = max(by, key=by.__getitem__)
            middle = short(statistics.median(by.values()))
            cells.append(f"{middle}, at most {short(by[worst])} ({worst.rpartition('.')[2]})")
        cases = sum(o["PyTorch"] + o["numeric"] for o in operators.values())
        lines.append(
            f"| {row['engine']} | {row['how']} | {len(operators)} | {cases} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def written(page: str, rows: Sequence[dict[str, Any]]) -> str:
    """``page`` with the overview of ``rows`` between its marks."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n" + overview(rows) + "\n" + END + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", nargs="*", default=[], help="interpreters beside this one")
    rows = []
    for row in measured([sys.executable, *parser.parse_args().python]):
        print(row["engine"], row["how"], len(row["operators"]), flush=True)
        rows.append(row)
    DATA.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    PAGE.write_text(written(PAGE.read_text("utf-8"), rows), "utf-8")


if __name__ == "__main__":
    main()
