"""Inputs of a model: sizes for the axes that its file leaves open, and values that steer it.

A dry run goes through the graph with sizes alone. A size remembers which open axes it follows from;
where a node does not fit its inputs, one of these axes is changed until it does.
"""

from graph_init.sizes.signature import Axis, Request, Signature, inputs_of, solve

__all__ = ["Axis", "Request", "Signature", "inputs_of", "solve"]
