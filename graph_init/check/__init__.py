"""What is wrong with a model's weights, by how much and on what evidence.

Rules (:mod:`graph_init.check.rules`) judge evidence: statistics of every tensor, the signal of one
forward pass, and the gradient with the curvature that it meets.
"""

from graph_init.check.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding
from graph_init.check.rules import RULES, Rule
from graph_init.check.verdict import Verdict, judge

__all__ = ["ERROR", "NOTE", "RULES", "SEVERITIES", "WARNING", "Finding", "Rule", "Verdict", "judge"]
