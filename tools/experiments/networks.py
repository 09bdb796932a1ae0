"""The small networks of the experiments, as PyTorch modules, each with its task.

All are of a depth at which the scale of the initial weights matters, and narrow enough that an
update takes about a millisecond on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CLASSES = 10


class PlainCNN(nn.Module):
    """``depth`` convolutions of 3×3 with neither skips nor, unless asked for, norms."""

    def __init__(self, depth: int = 20, width: int = 16, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 1
        for k in range(depth):
            stride = 2 if k == 0 else 1
            layers.append(nn.Conv2d(inner, width, 3, stride=stride, padding=1, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            inner = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class ResidualBlock(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(x + y)


class ResidualCNN(nn.Module):
    """Blocks of two convolutions around skips."""

    def __init__(self, depth: int = 20, width: int = 16, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, norm) for _ in range(depth // 2)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class MLP(nn.Module):
    """``depth`` layers of one width."""

    def __init__(
        self,
        activation: Callable[[], nn.Module],
        depth: int = 30,
        width: int = 48,
        norm: bool = False,
        inputs: int = 64,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(depth - 1):
            layers.append(nn.Linear(width if k else inputs, width, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(activation())
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.flatten(1)))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, pre: bool) -> None:
        super().__init__()
        self.pre = pre
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        return self.out(scores.softmax(-1) @ self.value(x))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pre:
            x = x + self.attend(self.first(x))
            return x + self.feed(self.second(x))
        x = self.first(x + self.attend(x))
        return self.second(x + self.feed(x))


class Transformer(nn.Module):
    """Blocks over ten tokens of four points, normalised before or after each branch."""

    def __init__(self, pre: bool, depth: int = 5, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * torch.randn(10, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, pre) for _ in range(depth)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x.reshape(-1, 10, 4)) + self.position
        return self.head(self.blocks(tokens).mean(1))


class Recurrent(nn.Module):
    """Two layers of LSTM over embedded symbols."""

    def __init__(self, width: int = 32, symbols: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


@dataclass(frozen=True)
class Network:
    """A module with what it is built from; ``task`` names an entry of ``tasks.TASKS``."""

    module: type[nn.Module]
    task: str
    options: tuple[tuple[str, Any], ...] = ()

    def build(self) -> nn.Module:
        return self.module(**dict(self.options))

    def but(self, task: str | None = None, **changes: Any) -> Network:
        """The same network otherwise."""
        return _network(self.module, task or self.task, **{**dict(self.options), **changes})


def _network(module: type[nn.Module], task: str, **options: Any) -> Network:
    return Network(module, task, tuple(sorted(options.items())))


NETWORKS: dict[str, Network] = {
    "plain-cnn": _network(PlainCNN, "digits"),
    "plain-cnn-bn": _network(PlainCNN, "digits", norm=True),
    "residual-cnn": _network(ResidualCNN, "digits"),
    "residual-cnn-bn": _network(ResidualCNN, "digits", norm=True),
    "mlp-relu": _network(MLP, "digits", activation=nn.ReLU),
    "mlp-tanh": _network(MLP, "digits", activation=nn.Tanh),
    "transformer-pre": _network(Transformer, "mnist1d", pre=True),
    "transformer-post": _network(Transformer, "mnist1d", pre=False),
    "lstm": _network(Recurrent, "recall"),
}
