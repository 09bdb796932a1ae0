"""The documentation's install commands, each in an empty environment, and one line of use after it.

    python tools/empty_environment.py [cpu,jax] [cpu,keras,jax] …

For each argument: a new virtual environment outside the repository, one `pip install` of this
repository with these extras and nothing else, `pip check`, `graph-init doctor`, how many ONNX
Runtimes there are, and an initialisation through the framework. Needs the package registry; an
environment takes up to several GB while it is there. PyTorch without a pinned version brings its
CUDA build, so the extras with torch take ``--constraint``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: What is run after the installation, by the extra that it is for.
USES = {
    "jax": """
import jax, jax.numpy as jnp, numpy as np
import graph_init_jax
keys = jax.random.split(jax.random.key(0), 6)
params = {f"w{k}": 0.1 * jax.random.normal(key, (16, 16)) for k, key in enumerate(keys)}
def function(params, x):
    for name in sorted(params):
        x = jax.nn.relu(x @ params[name])
    return x
found = graph_init_jax.initialize(function, params, (jnp.ones((8, 16)),), loss="mse")
assert set(found.updated) == set(params) and len(found.scales) == 6
""",
    "keras": """
import keras, graph_init_keras
model = keras.Sequential([keras.Input((16,)), *(keras.layers.Dense(16, "relu") for _ in range(5)),
                          keras.layers.Dense(10)])
found = graph_init_keras.initialize_(model, loss="cross-entropy")
assert len(found.scales) == 6
""",
    "tensorflow": """
import tempfile, tensorflow as tf, graph_init_tensorflow
class Module(tf.Module):
    def __init__(self):
        self.w = [tf.Variable(0.1 * tf.random.normal((16, 16))) for _ in range(6)]
    @tf.function(input_signature=[tf.TensorSpec((None, 16), tf.float32)])
    def __call__(self, x):
        for w in self.w:
            x = tf.nn.relu(x @ w)
        return x
folder = tempfile.mkdtemp()
tf.saved_model.save(Module(), folder + "/saved")
found = graph_init_tensorflow.initialize(folder + "/saved", output=folder + "/new", loss="mse")
assert len(found.scales) == 6
""",
    "torch": """
import torch, graph_init_torch
layers = [m for _ in range(5) for m in (torch.nn.Linear(16, 16), torch.nn.ReLU())]
module = torch.nn.Sequential(*layers, torch.nn.Linear(16, 10))
found = graph_init_torch.initialize_(module, (torch.randn(8, 16),), loss="cross-entropy")
assert len(found.scales) == 6
""",
}


def attempt(extras: str, constraint: Path | None) -> str:
    """One line of the table; the first thing that fails ends the program."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [python, *arguments], capture_output=True, text=True, check=False, cwd=folder
            )
            if done.returncode:
                raise SystemExit(f"[{extras}] {arguments}:\n{done.stdout}\n{done.stderr[-3000:]}")
            return done.stdout

        begun = time.perf_counter()
        pinned = ["--constraint", str(constraint)] if constraint else []
        run("-m", "pip", "install", "--quiet", *pinned, f"{ROOT}[{extras}]")
        seconds = time.perf_counter() - begun
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        run("-m", "pip", "check")
        run("-m", "graph_init", "doctor")
        packages = json.loads(run("-m", "pip", "list", "--format", "json"))
        engines = [p["name"] for p in packages if p["name"].startswith("onnxruntime")]
        backend = next((b for b in ("torch", "jax", "tensorflow") if b in extras), None)
        framework = "keras" if "keras" in extras else backend
        if framework is not None:
            line = f"import os; os.environ['KERAS_BACKEND'] = '{backend}'\n"
            run("-c", line + USES[framework])
        return f"| {extras} | {seconds:.0f} | {size / 1e9:.1f} | {', '.join(engines)} | yes |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("extras", nargs="*", default=["cpu,jax", "cpu,keras,jax"])
    parser.add_argument("--constraint", type=Path, help="such as constraints.txt")
    given = parser.parse_args()
    print("| extras | seconds to install | GB | ONNX Runtimes | initialises |")
    print("|---|---:|---:|---|---|")
    for extras in given.extras:
        print(attempt(extras, given.constraint and given.constraint.absolute()), flush=True)


if __name__ == "__main__":
    main()
