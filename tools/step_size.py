"""Write docs/taylor-and-finite-differences.md: both methods as the step h shrinks.

    python tools/step_size.py

For a deep ReLU network, the same with GELU, and a transformer. Needs the ``dev`` extra.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "taylor-and-finite-differences.md"

#: Lengths of the step h·g as shares of the length of the weights.
STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7)


def networks() -> dict[str, Callable[[], Any]]:
    import torch
    from torch import nn

    from tools.benchmark_models import ViT

    def plain(activation: type[nn.Module]) -> tuple[nn.Module, torch.Tensor]:
        layers: list[nn.Module] = []
        for k in range(18):
            layers += [nn.Conv2d(16 if k else 3, 16, 3, padding=1), activation()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        return model, torch.randn(16, 3, 16, 16)

    return {
        "18 convolutions, ReLU": lambda: plain(nn.ReLU),
        "18 convolutions, GELU": lambda: plain(nn.GELU),
        "18 convolutions, tanh": lambda: plain(nn.Tanh),
        "ViT of 4 layers, GELU": lambda: (ViT(96, 4, 16, 4), torch.randn(16, 3, 16, 16)),
    }


def column(make: Callable[[], Any], folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """The Taylor deviation, and for every step the finite difference's and the cosine between
    the two methods' derivatives in the log-scales."""
    import numpy as np
    import torch

    import graph_init

    torch.manual_seed(0)
    model, x = make()
    program = torch.onnx.export(model.eval(), (x,), dynamo=True, optimize=False, verbose=False)
    assert program is not None
    program.save(str(folder / "model.onnx"))

    def measured(**options: Any) -> tuple[Any, np.ndarray]:
        found = graph_init.measure(
            folder / "model.onnx", loss="cross-entropy", scale_gradient=True, **options
        )
        slopes = [r.log_scale_gradient for r in found.parameters if r.scalable]
        return found, np.array(slopes)

    exact, slope = measured()
    length = np.sqrt(sum(r.norm**2 for r in exact.parameters))
    rows = []
    for share in STEPS:
        found, other = measured(
            method="finite-difference", difference_step=float(share * length / exact.gradient_norm)
        )
        cosine = slope @ other / np.linalg.norm(slope) / np.linalg.norm(other)
        rows.append((found.gradient_deviation, float(cosine)))
    return exact.gradient_deviation, rows


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    for name, make in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = column(make, Path(folder))
        print(name, found[name][0], found[name][1], flush=True)
    names = list(found)
    lines = [
        "# Taylor and finite differences",
        "",
        "Written by `python tools/step_size.py`; do not edit.",
        "",
        "Gradient deviation says how much the gradient changes over one gradient step. There are "
        "two readings of that. **Taylor** (`--method taylor`, the default) takes the change to "
        "first order, Hg, exactly. **Finite differences** (`--method finite-difference`) compare "
        "two gradients, (g(θ) − g(θ − h·g))/h, and take the derivative in the scales from three "
        "more. They need one derivative of every operator instead of three, and three copies of "
        "the weights' size and no more.",
        "",
        "Below, both on the same random batch of 16, with h·‖g‖ as a share of ‖θ‖ "
        "(`--difference-step` sets h itself; by default the share is 0.0001). Beside each value "
        "stands the cosine between its derivative in the log-scales and Taylor's.",
        "",
        "| share of ‖θ‖ | " + " | ".join(names) + " |",
        "|---:|" + "---:|" * len(names),
    ]
    for k, share in enumerate(STEPS):
        cells = [f"{found[n][1][k][0]:.4g} ({found[n][1][k][1]:+.2f})" for n in names]
        lines.append(f"| {share:g} | " + " | ".join(cells) + " |")
    lines += [
        "| Taylor | " + " | ".join(f"**{found[n][0]:.4g}**" for n in names) + " |",
        "",
        "Where the network is smooth the differences tend to the Taylor value as h shrinks, until "
        "float32 rounding takes over: the change of the gradient is a difference of numbers known "
        "to seven digits. A ReLU network is linear between kinks, and any step crosses some of "
        "them; each adds a jump to the change of the gradient, and the mean of ratios, which rests "
        "on the largest, goes on growing as h shrinks. Taylor sees no kinks at all. Neither number "
        "is the wrong one: they answer different questions, and a value of one method must not be "
        "compared with a value of the other.",
    ]
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
