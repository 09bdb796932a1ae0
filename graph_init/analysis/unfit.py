"""Refuses models in which nothing can be tuned, before sizes or operators are looked at.

Quantized files are one kind (``quantized.py``); others end in operators of classical machine
learning, trees and tables of labels, behind a network or without one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graph_init.analysis import quantized
from graph_init.analysis.graph import Depends, dependencies, label, walk
from graph_init.analysis.parameters import Parameter
from graph_init.errors import UnsupportedModelError, printable

#: Operators of trees, supports, scalers and labels; what their outputs hold may be no tensor.
_CLASSICAL = "ai.onnx.ml"
#: Those of them that have a derivative: features less their means, over their deviations.
_DIFFERENTIABLE = frozenset({"Scaler"})


def require_network(model: ir.Model, parameters: Sequence[Parameter], file: str | None) -> None:
    """UnsupportedModelError, which names the ``file`` if there is one, if nothing can be tuned."""
    reason = quantized.refusal(model, parameters) or _classical(model)
    if reason is not None:
        where = "" if file is None else f"{printable(file)}: "
        raise UnsupportedModelError(where + reason)


def _classical(model: ir.Model) -> str | None:
    """Why an operator of classical machine learning is in the way, and the output before it."""
    nodes = [
        node
        for node, _ in walk(model.graph)
        if node.domain == _CLASSICAL and node.op_type not in _DIFFERENTIABLE
    ]
    if not nodes:
        return None
    depends = dependencies(model)
    learnt = Depends.WEIGHT | Depends.DATA
    for node in nodes:
        for value in node.inputs:
            if value is None or learnt not in depends.get(id(value), Depends.NOTHING):
                continue
            return (
                f"node {_shown(node)} comes after the network and has no gradient; measure the "
                f"value that it reads with --output-name '{printable(value.name or '')}'"
            )
    if any(Depends.WEIGHT in depends.get(id(v), Depends.NOTHING) for v in model.graph.outputs):
        return (
            f"node {_shown(nodes[0])} prepares the input and cannot be differentiated; export "
            "the network without it"
        )
    return (
        f"the model has no layer with weights to tune; its node {_shown(nodes[0])} is an operator "
        "of classical machine learning, not a layer of a network"
    )


def _shown(node: ir.Node) -> str:
    return f"'{printable(label(node))}' ({_CLASSICAL} {printable(node.op_type)})"
