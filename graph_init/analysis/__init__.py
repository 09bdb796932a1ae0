"""The graph analyzer: what each initializer is, whether it is trained and scaled, and why."""

from graph_init.analysis.graph import to_networkx
from graph_init.analysis.parameters import Parameter, analyze

__all__ = ["Parameter", "analyze", "to_networkx"]
