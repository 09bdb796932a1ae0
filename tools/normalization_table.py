"""Gradient deviation with and without normalisation, batch norm read in both ways.

    python tools/normalization_table.py

Ten convolutions of 16 channels, each followed by nothing, batch norm or layer norm and by ReLU, at
He weights; scikit-learn's digits, batch 64. Batch norm has the running statistics that a new model
has (mean 0, variance 1), and those of the data (``trained``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import graph_init
from graph_init.ir import Array

DEPTH, WIDTH = 10, 16


def network(norm: str, statistics: Sequence[tuple[Array, Array]] | None) -> onnx.ModelProto:
    """Outputs ``y``, and ``c0`` to ``c9`` before each norm."""
    rng = np.random.default_rng(0)
    nodes, weights, at, channels = [], [], "x", 1
    for k in range(DEPTH):
        kernel = rng.standard_normal((WIDTH, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [at, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1]))
        at = f"c{k}"
        if norm != "none":
            shape = (WIDTH,) if norm == "batch" else (WIDTH, 8, 8)
            new = [np.ones(shape), np.zeros(shape)]
            names = [f"gain{k}", f"shift{k}"]
            if norm == "batch":
                mean, variance = statistics[k] if statistics else (np.zeros(WIDTH), np.ones(WIDTH))
                new += [mean, variance]
                names += [f"mean{k}", f"variance{k}"]
            for n, a in zip(names, new, strict=True):
                weights.append(numpy_helper.from_array(a.astype(np.float32), n))
            op = {"batch": "BatchNormalization", "layer": "LayerNormalization"}[norm]
            attributes = {"axis": 1} if norm == "layer" else {}
            nodes.append(helper.make_node(op, [at, *names], [f"n{k}"], **attributes))
            at = f"n{k}"
        nodes.append(helper.make_node("Relu", [at], [f"r{k}"]))
        at, channels = f"r{k}", WIDTH
    head = rng.standard_normal((WIDTH, 10)) * np.sqrt(1 / WIDTH)
    weights.append(numpy_helper.from_array(head.astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    outputs += [
        helper.make_tensor_value_info(f"c{k}", TensorProto.FLOAT, ["n", WIDTH, 8, 8])
        for k in range(DEPTH)
    ]
    graph = helper.make_graph(nodes, norm, [x], outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_the_data(x: Array) -> list[tuple[Array, Array]]:
    """Running statistics that equal the batch's own, found layer by layer."""
    import onnxruntime

    found: list[tuple[Array, Array]] = [(np.zeros(WIDTH), np.ones(WIDTH))] * DEPTH
    for k in range(DEPTH):
        session = onnxruntime.InferenceSession(network("batch", found).SerializeToString())
        (c,) = session.run([f"c{k}"], {"x": x})
        found[k] = (c.mean((0, 2, 3)), c.var((0, 2, 3)))
    return found


def main() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:64] / 8 - 1).astype(np.float32)[:, None]
    data = {"x": x, "target": digits.target[:64]}
    rows = [
        ("none", "eval", network("none", None)),
        ("layer norm", "eval", network("layer", None)),
        ("batch norm, new", "eval", network("batch", None)),
        ("batch norm, trained", "eval", network("batch", of_the_data(x))),
        ("batch norm, either", "train", network("batch", None)),
    ]
    print("| normalisation | `--batch-norm` | GD | gradient norm | vanished | loss |")
    print("|---|---|---:|---:|---:|---:|")
    for name, mode, model in rows:
        m = graph_init.measure(model, data=data, batch_norm=mode, output_name="y")
        print(
            f"| {name} | {mode} | {m.gradient_deviation:.4g} | {m.gradient_norm:.4g} | "
            f"{m.vanished_fraction:.3f} | {m.loss:.4g} |"
        )


if __name__ == "__main__":
    main()
