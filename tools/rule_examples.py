"""A minimal example of what each rule finds: the code that docs/rules.md shows, and a test runs.

Each makes ``model``, and ``x`` where it is not called with ``ROWS``. The names that it may use are
those of this file. The rule's first finding is of the rule's severity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

ROWS = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(0, 50, (8, 6), generator=torch.Generator().manual_seed(0))


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers of one shape."""
    layers: list[nn.Module] = [nn.Linear(24, 32), activation()]
    for _ in range(4):
        layers += [nn.Linear(32, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 5))


def funnel() -> nn.Sequential:
    """Layers of different shapes."""
    widths = (24, 96, 80, 64, 48, 32)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 5))


def normed() -> nn.Sequential:
    """A batch norm behind its first layer."""
    return nn.Sequential(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Times(nn.Module):
    """``factor * x``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Attention(nn.Module):
    """One head over the places of a sequence, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.head = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(24)
        return self.head(scores.softmax(-1) @ x)


class Tied(nn.Module):
    """A language model whose head is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 256)
        self.hidden, self.norm = nn.Linear(256, 256), nn.LayerNorm(256)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.table(words)
        return self.norm(x + self.hidden(x)) @ self.table.weight.T


#: What the page shows once, for all examples.
PARTS = (network, funnel, normed, Residual, Times, Attention, Tied)
#: By rule.
EXAMPLES: Mapping[str, str] = {
    "GI101": 'model = network()\nmodel[2].weight[0, 0] = float("nan")',
    "GI102": "model = network()\nmodel[2].weight.fill_(1e-40)",
    "GI103": "model = network()\nmodel[2].weight.fill_(0.1)",
    "GI104": "model = network()\nmodel[2].weight.zero_()\nmodel[2].bias.zero_()",
    "GI105": "model = network()\nmodel[4].weight.copy_(model[2].weight)",
    "GI106": "model = network()\nmodel[2].weight[1:] = model[2].weight[0]",
    "GI107": "model = network()\n"
    "model[2].weight.copy_(torch.randn(32, 4) @ torch.randn(4, 32) / 10)",
    "GI108": "model = network()\n"
    "model[2].weight.copy_(torch.clamp(0.2 * torch.randn(32, 32), -0.2, 0.2))",
    "GI109": "model = normed()\nmodel[1].running_var.zero_()",
    "GI110": "model = normed()\nmodel[1].weight.fill_(50)",
    "GI120": "model = network()",
    "GI121": "model = network()\nmodel[4].weight.mul_(4)",
    "GI122": "model = funnel()\nmodel[4].weight.mul_(4)",
    "GI123": "model = funnel()\n"
    "for number, layer in enumerate(model[::2]):\n"
    "    nn.init.normal_(layer.weight, std=(0.8 + number / 10) / layer.in_features**0.5)\n"
    "model[4].weight.mul_(8)",
    "GI124": "model = funnel()\n"
    "for layer in model[::2]:\n"
    "    nn.init.kaiming_normal_(layer.weight)\n"
    "model[4].reset_parameters()",
    "GI125": "model = funnel()\n"
    "for layer in model[::2]:\n"
    "    nn.init.xavier_normal_(layer.weight, gain=0.25)",
    "GI201": "model = network()\nfor layer in model[2::2]:\n    layer.weight.mul_(0.001)",
    "GI202": "model = network()\nfor layer in model[2::2]:\n    layer.weight.mul_(100)",
    "GI203": "model = nn.Sequential(nn.Linear(24, 32), *(Residual(32) for _ in range(16)))\n"
    "for block in model[1:]:\n"
    "    nn.init.kaiming_normal_(block.branch[0].weight)\n"
    "    nn.init.kaiming_normal_(block.branch[2].weight)",
    "GI204": "model = network()\nmodel[2].bias[:24] = -100",
    "GI205": "model = network(nn.Tanh)\nmodel[2].weight.mul_(300)",
    "GI206": "model, x = Attention(), torch.randn(8, 6, 24)\nmodel.query.weight.mul_(300)",
    "GI207": "model, x = Attention(), torch.randn(8, 6, 24)\n"
    "model.query.weight.mul_(1e-3)\nmodel.query.bias.zero_()",
    "GI208": "model = normed()\nmodel[1].running_var.uniform_(1000, 2000)",
    "GI209": "model = network()\nmodel[2].bias.normal_(std=10)",
    "GI210": "model, x = Tied(), WORDS",
    "GI301": "model = network()\nmodel[4].weight.zero_()",
    "GI302": "model = nn.Sequential(network(), Times(1e-4))",
    "GI303": "model = network()\nmodel[2].weight.mul_(1e-5)",
    "GI304": "model = network()",
    "GI305": "model = nn.Sequential(\n"
    "    nn.Linear(24, 900), nn.Tanh(), nn.Linear(900, 900), nn.Tanh(), nn.Linear(900, 5)\n"
    ")\nmodel[4].weight.mul_(30)",
    "GI306": "model = network()\nmodel[2].weight.mul_(1e30)\nmodel[4].weight.mul_(1e30)",
}


def built(rule: str) -> tuple[nn.Module, torch.Tensor]:
    """The model of a rule's example, and what it is called with."""
    torch.manual_seed(0)
    names: dict[str, Any] = {**globals(), "x": ROWS}
    with torch.no_grad():
        exec(EXAMPLES[rule], names)
    return names["model"], names["x"]
