"""Gradient deviation and its derivative, as graphs and as the evaluator that runs them."""
