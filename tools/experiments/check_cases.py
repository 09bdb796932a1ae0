"""Faults that projects shipped or caught in review, rebuilt from what their pages say of them.

The numbers and places are those of the pages; networks and code are small ones of our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tools.experiments import check_models


@dataclass(frozen=True)
class Public:
    """``build``: the model as it was, or mended, with an example of its input.

    ``found``: the rules and tensors of findings that name the fault; an empty tensor is the whole
    network.
    """

    where: str
    what: str
    build: Callable[[bool], tuple[nn.Module, torch.Tensor]]
    found: Sequence[tuple[str, str]]


class _Encoder(nn.Module):
    """A transformer's encoder over patches, with positions and a projection of its own."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 16, width))
        layers: list[nn.Module] = []
        for _ in range(blocks):
            attention, feed = check_models.Attention(width), check_models.feed(width)
            layers += [check_models.Residual(nn.LayerNorm(width), attention)]
            layers += [check_models.Residual(nn.LayerNorm(width), feed)]
        self.blocks = nn.Sequential(*layers, nn.LayerNorm(width))
        self.projection = nn.Parameter(torch.empty(width, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(x).mean(1) @ self.projection)


def _encoder() -> tuple[_Encoder, torch.Tensor]:
    """All drawn with 0.02."""
    torch.manual_seed(0)
    model = _Encoder()
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.trunc_normal_(p, std=0.02)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
    return model, torch.randn(4, 3, 16, 16)


def forgotten(mended: bool) -> tuple[nn.Module, torch.Tensor]:
    """A projection that is a parameter of its own, which the initialisation does not know."""
    model, example = _encoder()
    if not mended:
        # What torch.empty finds in memory differs; often it is this.
        rng = torch.Generator().manual_seed(1)
        found = 10.0 ** (torch.rand(model.projection.shape, generator=rng, dtype=torch.float64))
        with torch.no_grad():
            model.projection.copy_(found * 1e-41)
    return model, example


def positions(mended: bool) -> tuple[nn.Module, torch.Tensor]:
    """Positions that stay N(0, 1) where all else has 0.02."""
    model, example = _encoder()
    if not mended:
        nn.init.normal_(model.positions)
    return model, example


def chess(mended: bool) -> tuple[nn.Module, torch.Tensor]:
    """Kernels of 3 × 3: √(2/(3 + 3 + in + out)) for √(2/(9·in + 9·out))."""
    torch.manual_seed(0)
    width = 64
    layers: list[nn.Module] = [nn.Conv2d(16, width, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(4):
        branch = [
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        ]
        layers += [check_models.Residual(*branch), nn.BatchNorm2d(width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 64, 20))
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            total = m.in_channels + m.out_channels
            nn.init.normal_(m.weight, std=math.sqrt(2 / (9 * total if mended else 6 + total)))
        elif isinstance(m, nn.Linear):
            nn.init.xavier_normal_(m.weight)
    return model, torch.randn(4, 16, 8, 8)


def review(mended: bool) -> tuple[nn.Module, torch.Tensor]:
    """A layer of a language model 1.66 times too large."""
    torch.manual_seed(0)
    model, example = check_models.pre_norm()
    check_models.draw(model, "0.02", seed=1)
    if not mended:
        with torch.no_grad():
            model.get_submodule("3.branch.1.query").weight.mul_(1.66)
    return model, example


def width_multiplier(mended: bool) -> tuple[nn.Module, torch.Tensor]:
    """Weights divided by the factor of the width, and not by its root: its square in variance."""
    torch.manual_seed(0)
    wider = 4
    model, example = check_models.pre_norm(depth=3, width=128)
    check_models.draw(model, "xavier-uniform", seed=1, scaled=False)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".branch." in name and p.ndim > 1:
                # The network of the base width has weights √wider times as large.
                p.mul_(math.sqrt(wider) / (math.sqrt(wider) if mended else wider))
    return model, example


CASES: Sequence[Public] = (
    Public(
        "[transformers, pull request 38987](https://github.com/huggingface/transformers/pull/38987)",
        "modules that no initialisation reaches, in ten models",
        forgotten,
        [("GI102", "projection")],
    ),
    Public(
        "[transformers, pull request 19341](https://github.com/huggingface/transformers/pull/19341)",
        "a ViT's positions, which the initialisation left out",
        positions,
        [("GI124", "positions")],
    ),
    Public(
        "[lczero-training, pull request 43]"
        "(https://github.com/LeelaChessZero/lczero-training/pull/43)",
        "convolutions whose fans lack the kernel's area: 0.062 for 0.021",
        chess,
        [("GI125", "")],
    ),
    Public(
        "[tt-metal, pull request 48716](https://github.com/tenstorrent/tt-metal/pull/48716)",
        "a deviation 1.66 times too large",
        review,
        [("GI121", "3.branch.1.query.weight")],
    ),
    Public(
        "[gpt-neox, pull request 1087](https://github.com/EleutherAI/gpt-neox/pull/1087)",
        "µP: weights divided by the width's factor, and not by its root",
        width_multiplier,
        [("GI125", "")],
    ),
)
