"""Moments of values of a static graph."""

from __future__ import annotations

from collections.abc import Sequence

from graph_init.ir.builder import Builder
from graph_init.ir.values import Value


def variance(b: Builder, value: Value, axes: Sequence[int], *, keepdims: bool = True) -> Value:
    """The mean square distance from the mean, over ``axes``."""
    centred = b.sub(value, b.mean(value, axes))
    return b.mean(b.mul(centred, centred), axes, keepdims=keepdims)
