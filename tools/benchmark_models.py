"""The networks of tools/benchmark.py, in PyTorch, each with a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from tools.experiments.networks import NETWORKS, Network
from tools.experiments.tasks import TASKS

Case = tuple[nn.Module, torch.Tensor, torch.Tensor]


def plain_cnn() -> Case:
    """18 convolutions without skips or norms, 11 M parameters, batch 16 of 32×32."""
    layers: list[nn.Module] = []
    width = 3
    for stage, channels in enumerate((64, 128, 256, 512)):
        for k in range(5 if stage == 1 else 4):
            layers += [
                nn.Conv2d(width, channels, 3, stride=2 if stage and not k else 1, padding=1),
                nn.ReLU(),
            ]
            width = channels
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return _initialised(model), torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))


class Basic(nn.Module):
    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.skip = _skip(width, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class Bottleneck(nn.Module):
    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = channels // 4
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.skip = _skip(width, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def _skip(width: int, channels: int, stride: int) -> nn.Module:
    if width == channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


def _resnet(block: type[nn.Module], depths: tuple[int, ...], widths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    width = 64
    for stage, (depth, channels) in enumerate(zip(depths, widths, strict=True)):
        for k in range(depth):
            layers.append(block(width, channels, 2 if stage and not k else 1))
            width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def resnet18() -> Case:
    """11 M parameters, batch 16 of 32×32, norms in eval mode."""
    model = _resnet(Basic, (2, 2, 2, 2), (64, 128, 256, 512))
    return _initialised(model), torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))


def resnet50() -> Case:
    """Batch 4 of 64×64, norms in eval mode."""
    model = _resnet(Bottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048))
    return _initialised(model), torch.randn(4, 3, 64, 64), torch.randint(0, 10, (4,))


class Attention(nn.Module):
    """Written out: PyTorch's fused attention has no second derivative."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        packed = self.inner(x).reshape(rows, length, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        if self.causal:
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -1e4)
        mixed = scores.softmax(-1) @ v
        return self.outer(mixed.transpose(1, 2).reshape(rows, length, width))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int, depth: int, size: int, patch: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width, 3, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.layers(x)).mean(1))


def vit() -> Case:
    """6 layers of width 192, batch 16 of 32×32 in patches of 4."""
    return ViT(192, 6, 32, 4), torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))


class GPT(nn.Module):
    def __init__(self, width: int, depth: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(Layer(width, 4, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.layers(x)))


def gpt() -> Case:
    """4 layers of width 256, 8 sequences of 64 tokens out of 1,000."""
    return (
        GPT(256, 4, 64, 1000),
        torch.randint(0, 1000, (8, 64)),
        torch.randint(0, 1000, (8, 64)),
    )


def mlp() -> Case:
    """Depth 50, width 256, batch 64."""
    layers: list[nn.Module] = []
    for _ in range(49):
        layers += [nn.Linear(256, 256), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    return _initialised(model), torch.randn(64, 256), torch.randint(0, 10, (64,))


def _initialised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f for f in (plain_cnn, resnet18, resnet50, vit, gpt, mlp)
}


def _small(network: Network) -> Case:
    """A network of the experiments with random rows of its task's shape."""
    rows = TASKS[network.task]()["x"][:16]
    torch.manual_seed(0)
    return network.build().eval(), torch.from_numpy(rows), torch.randint(0, 10, (16,))


#: The small networks of the experiments, batch 16.
SMALL: dict[str, Callable[[], Case]] = {n: partial(_small, net) for n, net in NETWORKS.items()}
