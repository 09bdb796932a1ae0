"""Whether graph-init leaves another package's onnxruntime alone, in a new virtual environment.

    python tools/coexistence.py [--package magika] [--onnxruntime 1.32.0] [--write]

The other package is installed with that onnxruntime and used; then `graph-init[cpu]` from this
repository is installed and used; then the other package is used again. It has to say the same, and
onnxruntime has to be the same. `--write` puts the table into docs/engines.md. Needs the package
registry.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- tools/coexistence.py --write -->", "<!-- end of coexistence -->"

#: How a package is used, by a program that prints what it finds.
USES = {
    "magika": """
from magika import Magika
for text in (b"import os\\nprint(os.name)\\n", b"<html><body>x</body></html>"):
    print(Magika().identify_bytes(text).output.label)
""",
}
_OURS = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
import graph_init
rng, nodes, weights, at = np.random.default_rng(0), [], [], "x"
for k in range(4):
    weights.append(numpy_helper.from_array(rng.normal(size=(8, 8)).astype("f") * 0.1, f"w{k}"))
    nodes += [helper.make_node("MatMul", [at, f"w{k}"], [f"m{k}"]),
              helper.make_node("Relu", [f"m{k}"], [f"r{k}"])]
    at = f"r{k}"
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in ("x", at)]
graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
found = graph_init.initialize("m.onnx", loss="mse", updates=10)
found.save("new.onnx")
assert len(found.scales) == 4
print(found.after.engine)
"""


def rows(package: str, version: str) -> list[tuple[str, str]]:
    """What was done and what came of it; the first thing that fails ends the program."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [python, *arguments], capture_output=True, text=True, check=False, cwd=folder
            )
            if done.returncode:
                raise SystemExit(f"{arguments}:\n{done.stdout}\n{done.stderr[-3000:]}")
            return ", ".join(done.stdout.split("\n")).strip(", ")

        def used() -> str:
            return run("-c", USES[package])

        asked = "from importlib.metadata import version; print(version('onnxruntime'))"
        run("-m", "pip", "install", "--quiet", f"onnxruntime=={version}", package)
        named = run("-c", f"from importlib.metadata import version; print(version('{package}'))")
        before, said = run("-c", asked), used()
        run("-m", "pip", "install", "--quiet", f"{ROOT}[cpu]")
        ours = run("-c", _OURS)
        after, again = run("-c", asked), used()
        run("-m", "pip", "check")
        if (before, said) != (after, again):
            raise SystemExit(f"before: {before}, {said}; afterwards: {after}, {again}")
        return [
            (f"{package} {named} with onnxruntime {before}", said),
            ("then graph-init[cpu], which initializes a model on", ours),
            (f"then {package} again, with onnxruntime {after}", again),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--package", default="magika", choices=sorted(USES))
    parser.add_argument("--onnxruntime", default="1.32.0", metavar="VERSION")
    parser.add_argument("--write", action="store_true", help="into docs/engines.md")
    given = parser.parse_args()
    found = rows(given.package, given.onnxruntime)
    table = "\n".join(
        ["| what is run | it says |", "|---|---|", *(f"| {a} | {b} |" for a, b in found)]
    )
    print(table)
    if given.write:
        head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        tail = rest.split(END)[1]
        PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
