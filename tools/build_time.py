"""Time from file to ready session against the number of nodes.

    python tools/build_time.py [--nodes 1250 2500 5000 10000 20000]

The models are chains of blocks of 20 nodes (one layer with its bias, then views, arithmetic,
activations and a skip) in which the tensors are small, so that nothing but the graph costs time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.analysis import analyze
from graph_init.deviation.evaluator import Evaluator, prepare
from graph_init.model.load import load
from graph_init.options import Options
from graph_init.problem.forward_graph import initial_values
from graph_init.problem.workload import build

WIDTH, ROWS, BLOCK = 8, 2, 20


def chain(nodes: int) -> onnx.ModelProto:
    """A model with ``nodes`` nodes, rounded to whole blocks."""
    rng = np.random.default_rng(0)
    made, weights = (
        [],
        [
            numpy_helper.from_array(np.array([ROWS, 2, WIDTH // 2]), "split"),
            numpy_helper.from_array(np.array([ROWS, WIDTH]), "flat"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        ],
    )
    at = "x"
    for k in range(max(nodes // BLOCK, 1)):
        w = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * np.float32(WIDTH**-0.5)
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        weights.append(numpy_helper.from_array(np.zeros(WIDTH, np.float32), f"b{k}"))
        steps = [("MatMul", f"w{k}"), ("Add", f"b{k}"), ("Reshape", "split"), ("Transpose", None)]
        steps += [("Tanh", None), ("Mul", "half"), ("Sigmoid", None), ("Sub", "half")] * 3
        steps += [("Transpose", None), ("Reshape", "flat"), ("Erf", None), ("Add", at)]
        start = at
        for i, (op, other) in enumerate(steps):
            out = f"v{k}_{i}"
            inputs = [at, start if (op, i) == ("Add", len(steps) - 1) else other]
            attributes = {"perm": [0, 2, 1]} if op == "Transpose" else {}
            made.append(
                helper.make_node(op, [n for n in inputs if n], [out], f"n{k}_{i}", **attributes)
            )
            at = out
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, [ROWS, WIDTH])],
        initializer=weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ready(path: Path) -> Evaluator:
    """Everything that ``initialize`` does before its first step."""
    loaded = load(path)
    options = Options(scale_gradient=True)
    values = initial_values(loaded)
    return prepare(build(loaded, analyze(loaded.ir), values, options), values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1250, 2500, 5000, 10000, 20000])
    print("  nodes  seconds  ms a node")
    sizes = parser.parse_args().nodes
    for nodes in [BLOCK, *sizes]:  # the first, small one pays for the imports
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chain.onnx"
            onnx.save(chain(nodes), path)
            start = time.perf_counter()
            ready(path)
            seconds = time.perf_counter() - start
        print(f"{nodes:7d} {seconds:8.1f} {1000 * seconds / nodes:10.2f}", flush=True)


if __name__ == "__main__":
    main()
