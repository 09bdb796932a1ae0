"""The oracle: gradient deviation and its scale derivative by PyTorch's triple backprop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class OracleResult:
    loss: float
    gradient_deviation: float
    log_scale_gradient: dict[str, float]


def deviation(
    loss: Callable[[], torch.Tensor], parameters: Mapping[str, torch.Tensor], epsilon: float = 1e-5
) -> OracleResult:
    """GD = mean |(g − Hg)/(g + e) − 1| and d GD / d log s for each tensor θ = s·d.

    ``parameters`` must require gradients; run in float64.
    """
    names, tensors = list(parameters), list(parameters.values())
    value = loss()
    gradient = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
    gradient = [
        torch.zeros_like(t) if g is None else g for g, t in zip(gradient, tensors, strict=True)
    ]
    dot = sum((g * g).sum() / 2 for g in gradient)
    product = torch.autograd.grad(dot, tensors, create_graph=True, allow_unused=True)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for g, hg, t in zip(gradient, product, tensors, strict=True):
        hg = torch.zeros_like(t) if hg is None else hg
        e = torch.where(g.detach() >= 0, epsilon, -epsilon)
        total = total + ((g - hg) / (g + e) - 1).abs().sum()
        count += t.numel()
    gd = total / count
    slopes = torch.autograd.grad(gd, tensors, allow_unused=True)
    return OracleResult(
        float(value),
        float(gd),
        {
            n: 0.0 if s is None else float((s * t).sum())
            for n, s, t in zip(names, slopes, tensors, strict=True)
        },
    )
