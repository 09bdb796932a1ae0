"""Passes over a model's graph while it is lowered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from graph_init.ir import Builder, Value


@dataclass(frozen=True)
class LoweredNode:
    """A node of the model that has just been lowered, and the graph up to there.

    ``values`` holds what each name of the model stands for so far; ``lower`` lowers nodes of the
    model again, which read what their inputs stand for by then, and names their outputs anew.
    """

    node: onnx.NodeProto
    builder: Builder
    values: dict[str, Value | None]
    lower: Callable[[Sequence[onnx.NodeProto]], None]


class GraphPass(ABC):
    """What goes over a model's nodes, in order, each as soon as it is lowered.

    A pass says in its docstring what it needs, whether it changes the graph, and what it leaves in
    its attributes. One object goes over one graph once. With ``inside`` it goes over the nodes in
    bodies of Loop and Scan, too, in each iteration, and then over the Loop itself.
    """

    inside: bool = False

    @abstractmethod
    def after(self, lowered: LoweredNode) -> None:
        """Look at a node; to change what a name stands for, set it in ``lowered.values``."""
