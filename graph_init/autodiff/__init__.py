"""Derivatives of lowered graphs: the gradient, and tangents of any order."""
