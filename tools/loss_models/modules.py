"""Plain PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tools.loss_models.model import BCE, CE, MSE, Model, Subject


class Wrapped(nn.Module):
    """``body``, and then ``last``: a function without parameters."""

    def __init__(self, body: nn.Module, last: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x))


def module(
    name: str,
    expected: str,
    make: Callable[[], nn.Module],
    *shape: int,
    aside: bool = False,
    words: int = 0,
    why: str = "",
) -> Model:
    """A plain PyTorch module, called with one tensor of ``shape``, numbers or ``words``."""

    def build() -> Subject:
        x = torch.randint(0, words, shape) if words else torch.randn(*shape)
        return make(), (x,), {}

    return Model(name=name, expected=expected, build=build, file=True, aside=aside, why=why)


def dense(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def convolutions(*channels: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class WordModel(nn.Module):
    """A recurrent network over words, of which ``pick`` takes what the output layer reads."""

    def __init__(self, words: int, out: int, pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.embed, self.core = nn.Embedding(words, 8), nn.LSTM(8, 16, batch_first=True)
        self.out, self.pick = nn.Linear(16, out), pick

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.pick(self.core(self.embed(ids))[0]))


class TiedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(40, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.mix(self.embed(ids))) @ self.embed.weight.T


class OwnLoss(nn.Module):
    """Returns its loss beside its prediction, as models that are trained by a Trainer do."""

    def __init__(self, function: Callable[..., torch.Tensor], out: int) -> None:
        super().__init__()
        self.body, self.function = dense(12, 32, out), function

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.body(x)
        return {"loss": self.function(y, labels), "y": y}


def own_loss(name: str, expected: str, function: Any, labels: Callable[[], torch.Tensor]) -> Model:
    def build() -> Subject:
        return OwnLoss(function, 5), (), {"x": torch.randn(4, 12), "labels": labels()}

    return Model(name, expected, build)


def plain() -> list[Model]:
    def pool(*channels: int) -> nn.Sequential:
        return nn.Sequential(convolutions(*channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    f = nn.functional
    return [
        module("MLP of digits", CE, lambda: dense(64, 32, 32, 10), 4, 64),
        module(
            "tanh MLP of digits, deep", CE, lambda: dense(64, *[32] * 12, 10, act=nn.Tanh), 4, 64
        ),
        module(
            "CNN of digits",
            CE,
            lambda: nn.Sequential(pool(1, 8, 8), nn.Linear(8, 10)),
            4,
            1,
            28,
            28,
        ),
        module("fully convolutional classifier", CE, lambda: pool(3, 8, 10), 4, 3, 16, 16),
        module("MLP with two classes", CE, lambda: dense(20, 16, 2), 4, 20, aside=True),
        module(
            "MLP with log_softmax",
            CE,
            lambda: Wrapped(dense(20, 16, 3), lambda x: f.log_softmax(x, -1)),
            4,
            20,
        ),
        module("MLP with sigmoid", BCE, lambda: Wrapped(dense(20, 16, 1), torch.sigmoid), 4, 20),
        module("regression, one column", MSE, lambda: dense(13, 32, 1), 4, 13),
        module(
            "regression, squeezed",
            MSE,
            lambda: Wrapped(dense(13, 32, 1), lambda x: x[:, 0]),
            4,
            13,
            aside=True,
        ),
        module(
            "regression, three columns",
            MSE,
            lambda: dense(13, 32, 3),
            4,
            13,
            why=(
                "three columns of numbers look like scores of three classes; nothing in the file "
                "tells them apart"
            ),
        ),
        module("policy with tanh", MSE, lambda: Wrapped(dense(8, 32, 2), torch.tanh), 4, 8),
        module("autoencoder, dense", MSE, lambda: dense(64, 16, 4, 16, 64), 4, 64),
        module(
            "autoencoder, convolutions",
            MSE,
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
            ),
            4,
            3,
            16,
            16,
        ),
        module(
            "autoencoder of pixels, sigmoid",
            BCE,
            lambda: Wrapped(dense(64, 16, 64), torch.sigmoid),
            4,
            64,
            aside=True,
        ),
        module("denoiser of images", MSE, lambda: convolutions(3, 8, 3), 4, 3, 16, 16),
        module(
            "super-resolution",
            MSE,
            lambda: nn.Sequential(convolutions(3, 8, 12), nn.PixelShuffle(2)),
            4,
            3,
            16,
            16,
        ),
        module("segmentation, 21 classes", CE, lambda: convolutions(3, 8, 21), 4, 3, 16, 16),
        module(
            "segmentation, medical, 4 classes",
            CE,
            lambda: convolutions(1, 8, 4),
            4,
            1,
            16,
            16,
            aside=True,
        ),
        module("depth map", MSE, lambda: convolutions(3, 8, 1), 4, 3, 16, 16, aside=True),
        module(
            "generator of images",
            MSE,
            lambda: nn.Sequential(
                nn.Linear(16, 128),
                nn.Unflatten(1, (8, 4, 4)),
                nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
                nn.Tanh(),
            ),
            4,
            16,
        ),
        module(
            "embedding of images, normalised",
            MSE,
            lambda: Wrapped(
                nn.Sequential(pool(3, 8, 8), nn.Linear(8, 16)), lambda x: f.normalize(x, dim=-1)
            ),
            4,
            3,
            16,
            16,
        ),
        module("language model, LSTM", CE, lambda: WordModel(30, 30, lambda h: h), 4, 9, words=30),
        module("language model, tied", CE, TiedModel, 4, 9, words=40),
        module(
            "tagger of words", CE, lambda: WordModel(30, 7, lambda h: h), 4, 9, words=30, aside=True
        ),
        module(
            "sentiment of a text", CE, lambda: WordModel(30, 2, lambda h: h[:, -1]), 4, 9, words=30
        ),
        module(
            "score of a text, regression",
            MSE,
            lambda: WordModel(30, 1, lambda h: h[:, -1]),
            4,
            9,
            words=30,
        ),
        module(
            "forecast of a series",
            MSE,
            lambda: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)),
            4,
            12,
            6,
        ),
        module(
            "vectors of a transformer",
            MSE,
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
                2,
                enable_nested_tensor=False,
            ),
            4,
            5,
            8,
            aside=True,
        ),
        own_loss("own loss: cross_entropy", CE, f.cross_entropy, lambda: torch.arange(4) % 5),
        own_loss(
            "own loss: binary_cross_entropy_with_logits",
            BCE,
            f.binary_cross_entropy_with_logits,
            lambda: torch.ones(4, 5),
        ),
        own_loss("own loss: smooth_l1_loss", MSE, f.smooth_l1_loss, lambda: torch.ones(4, 5)),
    ]
