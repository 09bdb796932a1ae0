"""The axis of the batch, followed through a graph that fixes its size, and freed.

Along which axis of a value its rows are is known from the inputs on; a rule for each operator says
what it does to them, and which constants (shapes, initial states) hold their number. Where no rule
keeps rows apart, the node is named that holds the batch.
"""

from graph_init.rows.free import Freed, Obstacle, fixed, free, is_open

__all__ = ["Freed", "Obstacle", "fixed", "free", "is_open"]
