"""What the tests of reports show: small results, and names that are meant to do harm."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graph_init
from tests.small_models import model

Content = dict[str, Any]

#: Each would run, end its element or mislead if it were written as it is.
HOSTILE = (
    "<script>window.pwned=1</script>",
    "</script><img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "{{ 7 * 7 }}{% raw %}",
    '=HYPERLINK("http://example.invalid")',
    "evil\u202etxt.onnx\u2066\x1b[31m\x07\x85\u2028",
    "javascript:window.pwned=1//--><!--",
    "&lt;b&gt;&#0;\\u003cb\\u003e",
)


def residual(names: list[str], name: str = "residual", width: int = 8) -> onnx.ModelProto:
    """x + relu(x @ w) for each name of a weight, then a head; nodes have the weights' names."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for k, weight in enumerate(names):
        drawn = rng.standard_normal((width, width)).astype(np.float32) / 3
        weights.append(numpy_helper.from_array(drawn, weight))
        nodes += [
            helper.make_node("MatMul", [at, weight], [f"m{k}"], weight),
            helper.make_node("Relu", [f"m{k}"], [f"r{k}"], f"relu {weight}"),
            helper.make_node("Add", [at, f"r{k}"], [f"a{k}"], f"add {weight}"),
        ]
        at = f"a{k}"
    head = rng.standard_normal((width, 3)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes.append(helper.make_node("MatMul", [at, "head"], ["y"], "classifier"))
    found = model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        weights,
    )
    found.graph.name = name
    return found


def initialized(names: list[str], name: str = "residual", **options: Any) -> Content:
    if "tuner" not in options:
        options["updates"] = 3
    options = {"scheme": "he", "loss": "cross-entropy", **options}
    return graph_init.initialize(residual(names, name), **options).report_content()


def checked(names: list[str], name: str = "residual") -> Content:
    """Of a network whose first weight is a hundred times too large."""
    proto = residual(names, name)
    tensor = proto.graph.initializer[0]
    values = 100 * numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return graph_init.check(proto, loss="cross-entropy").report_content()


def compared(names: list[str]) -> Content:
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((80, 8), np.float32), "target": rng.integers(0, 3, 80)}
    plan = graph_init.Plan(
        schemes=("keep", "he"),
        seeds=2,
        updates=20,
        tuner=graph_init.Restore(updates=2),
        learning_rates=(0.01, 0.1, 1e30),
    )
    found = graph_init.compare(residual(names), data, plan=plan, loss="cross-entropy")
    return found.report_content()


def zoo(
    count: int, content: Content, names: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], dict[str, Callable[[], Content]]]:
    """Rows and contents of ``count`` models, of which every fifth has failed, and of ``names``."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    contents: dict[str, Callable[[], Content]] = {}
    for k in range(count + len(names)):
        name = f"family{k % 3}/model-{k}.onnx" if k < count else names[k - count]
        if k % 5 == 4 and k < count:
            reason = f"ModelFileError: {'truncated' if k % 2 else 'missing data'}"
            message = f"{name} is not a valid ONNX model"
            row = {"status": "failed", "seconds": 0.1, "reason": reason, "message": message}
        else:
            contents[name] = lambda: copy.deepcopy(content)
            row = {
                "status": "done",
                "elements": 100 * k,
                "collapsed": k % 2 == 0,
                "seconds": draw.uniform(0.1, 300),
                "peak_memory": 2**28 + k,
                "gradient_deviation_before": 10 ** draw.uniform(-1, 3),
                "gradient_deviation_after": 10 ** draw.uniform(-1, 2),
                "vanished_before": draw.random(),
                "vanished_after": draw.random(),
            }
        rows.append({"name": name, **row})
    return rows, contents
