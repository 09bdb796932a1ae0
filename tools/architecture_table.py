"""Write docs/architectures.md: every architecture of tests/architectures.py, measured.

Takes about ten minutes; needs the ``dev`` extra (PyTorch, transformers).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch
import transformers

from tests.architecture_report import Result, evaluate
from tests.architectures import ARCHITECTURES

TABLE = ROOT / "docs" / "architectures.md"


def _line(r: Result) -> str:
    a = r.architecture
    if r.status != "measured":
        return f"| {a.name} | {a.kind} | {r.status} | | | | | {r.why} |"
    error = "" if r.error is None else f"{r.error:.0e}"
    return (
        f"| {a.name} | {a.kind} | measured | {r.elements:,} | {r.nodes:,} | {r.deviation:.3g} | "
        f"{error} | {r.why} |"
    )


def main() -> None:
    results = []
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(evaluate(architecture, Path(folder)))
        print(_line(results[-1]), flush=True)
    exported = [r for r in results if r.status != "not exported"]
    measured = [r for r in exported if r.status == "measured"]
    checked = [r.error for r in measured if r.error is not None]
    lines = [
        "# Architectures",
        "",
        "Written by `python tools/architecture_table.py`; do not edit. PyTorch "
        f"{torch.__version__.partition('+')[0]}, transformers {transformers.__version__}.",
        "",
        f"Of {len(results)} architectures with small random configurations PyTorch's exporter "
        f"exports {len(exported)}, and `measure` handles {len(measured)} of these "
        f"({100 * len(measured) / len(exported):.0f}%). For {len(checked)} gradient deviation is "
        "compared with PyTorch's triple backprop in float64 on the same batch; the largest "
        f"relative difference is {max(checked):.0e}, "
        f"the median {sorted(checked)[len(checked) // 2]:.0e}.",
        "",
        "| architecture | kind | | elements | nodes | GD | against the oracle | note |",
        "|---|---|---|---:|---:|---:|---:|---|",
        *(_line(r) for r in results),
    ]
    TABLE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
