"""Finds out how a model is quantized, and whether any of its weights can be tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from graph_init.analysis.graph import walk
from graph_init.analysis.kinds import QUANTIZED
from graph_init.analysis.parameters import Parameter

#: Forms by the operators that tell them, the most telling first: what a file of that form is.
_FORMS = (
    (
        "MatMulInteger ConvInteger MatMulIntegerToFloat DynamicQuantizeLinear "
        "DynamicQuantizeMatMul DynamicQuantizeLSTM QAttention",
        "quantized dynamically",
    ),
    ("QLinear", "quantized to integer operators (QOperator)"),
    ("MatMulNBits MatMulBnb4 GatherBlockQuantized", "quantized block by block to a few bits"),
    ("QuantizeLinear", "quantized (QDQ: integer weights, and activations that are rounded)"),
    ("DequantizeLinear", "quantized in its weights"),
)


def is_quantized(op: str) -> bool:
    """Whether an operator computes with quantized numbers, or makes or reads them."""
    return op in QUANTIZED or op.startswith("QLinear")


def form(model: ir.Model) -> str | None:
    """What a quantized file is, with its operators and how many there are; None for other files."""
    counts = Counter(node.op_type for node, _ in walk(model.graph) if is_quantized(node.op_type))
    for telling, words in _FORMS:
        names = telling.split()
        if any(op in names or ("QLinear" in names and op.startswith("QLinear")) for op in counts):
            most = ", ".join(f"{count} {op}" for op, count in counts.most_common(3))
            return f"{words}: {most}"
    return None


def refusal(model: ir.Model, parameters: Sequence[Parameter]) -> str | None:
    """Why a quantized model cannot be measured; None if some float weight of it can be tuned.

    A weight can where its numbers reach an output and no node on the way rounds them.
    """
    found = form(model)
    if found is None:
        return None
    graph = model.graph
    scalable = {p.name for p in parameters if p.trainable and p.scalable}
    live = {id(graph.initializers[name]) for name in scalable if name in graph.initializers}
    for node, _ in walk(graph):
        if not is_quantized(node.op_type) and any(id(v) in live for v in node.inputs if v):
            live.update(id(v) for v in node.outputs)
    if any(id(v) in live for v in graph.outputs):
        return None
    return (
        f"the model is {found}; rounded numbers have no gradient, and every weight is rounded "
        "on its way to the outputs. Initialise the float model that it was made from, and "
        "quantize the result"
    )
