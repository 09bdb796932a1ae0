"""PyTorch modules, each with an example of its input, that try what a frontend has to get right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.architectures import ENCODER, GROUPED, VISION, VOCABULARY, pair, pixels
from tests.architectures import tokens as token_batch


class PlainCNN(nn.Module):
    """Convolutions with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.5),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(x + self.norms[1](self.second(h)))


def resnet() -> nn.Module:
    """Batch norm with running statistics that are not the fresh ones."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8),
        Residual(8),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(4),
    )
    with torch.no_grad():
        for _ in range(3):
            net(1 + 2 * torch.randn(8, 3, 10, 10))
    return net


class Recurrent(nn.Module):
    """Packed gates: the exporter cuts, permutes and concatenates the weights."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.core = kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 20)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.core(self.embed(ids))[0])


class Tied(nn.Module):
    """One matrix under two names, and a table that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(8, 8))[0])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.embed(ids)) @ self.rotation))


class Shared(nn.Module):
    """One submodule used three times, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(6, 10)
        self.step = nn.Linear(10, 10)
        self.again = self.step
        self.outward = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.step(torch.tanh(self.inward(x))))
        return self.outward(torch.tanh(self.again(self.step(h))))


class Parametrised(nn.Module):
    """Weights that are computed: norm times direction (both forms), and spectral."""

    def __init__(self) -> None:
        super().__init__()
        self.first = weight_norm(nn.Linear(6, 12))
        self.second = nn.utils.weight_norm(nn.Linear(12, 12))
        self.third = spectral_norm(nn.Linear(12, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Answer(NamedTuple):
    scores: torch.Tensor
    hidden: list[torch.Tensor]
    note: str | None


class Nested(nn.Module):
    """Nested input and output: a dictionary in, a tuple with a list and no tensors out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(
        self, batch: Mapping[str, torch.Tensor], scale: float, extra: torch.Tensor | None = None
    ) -> dict[str, Any]:
        a, b = torch.tanh(self.left(batch["a"])), torch.tanh(self.right(batch["b"]))
        hidden = a + scale * b
        hidden = hidden if extra is None else hidden + extra
        return {"answer": Answer(self.head(hidden), [a, b], None), "count": 3}


class Frozen(nn.Module):
    """A backbone that needs no gradient, a table that looks fixed but is trained, unused layers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.backbone.requires_grad_(False)
        angle = torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.5, 0.2, 0.1])
        self.position = nn.Parameter(torch.cat([angle.sin(), angle.cos()], 1))
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.backbone(x) + self.position))


class Attention(nn.Module):
    """PyTorch's own encoder: packed projections of queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


class Upsampling(nn.Module):
    """Transposed convolutions and instance norm; the output is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.up = nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.nn.functional.silu(self.norm(self.down(x))))


def hooked() -> nn.Module:
    """A hook that takes part in what is computed."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    net[0].register_forward_hook(lambda module, args, output: 3 * output)
    return net


def hugging_face(family: str, head: str, **options: Any) -> nn.Module:
    """A model of ``transformers`` as it comes, from a small configuration."""
    import transformers

    config = getattr(transformers, f"{family}Config")(**options)
    return getattr(transformers, f"{family}{head}")(config)


@dataclass(frozen=True)
class Case:
    """``build`` is called with the generator seeded."""

    build: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]] = tuple
    kwargs: Callable[[], dict[str, Any]] = dict
    options: Mapping[str, Any] | None = None


def _image() -> tuple[torch.Tensor]:
    return (torch.randn(4, 3, 10, 10),)


def _ids() -> tuple[torch.Tensor]:
    return (torch.randint(0, 20, (4, 7)),)


def _masked() -> dict[str, torch.Tensor]:
    return {**token_batch(3, 9), "attention_mask": torch.ones(3, 9, dtype=torch.int64)}


GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "pad_token_id": 0,
}

CASES: Mapping[str, Case] = {
    "CNN with dropout": Case(PlainCNN, _image),
    "one row": Case(PlainCNN, lambda: (torch.randn(1, 3, 10, 10),)),
    "ResNet with batch norm": Case(resnet, _image),
    "half precision": Case(lambda: PlainCNN().half(), lambda: (torch.randn(4, 3, 10, 10).half(),)),
    "bfloat16": Case(lambda: Tied().bfloat16(), _ids),
    "double precision": Case(lambda: Shared().double(), lambda: (torch.randn(5, 6).double(),)),
    "LSTM": Case(lambda: Recurrent(nn.LSTM, num_layers=2), _ids),
    "GRU, both directions": Case(lambda: Recurrent(nn.GRU, bidirectional=True), _ids),
    "RNN": Case(lambda: Recurrent(nn.RNN), _ids),
    "tied embedding": Case(Tied, _ids),
    "shared submodules": Case(Shared, lambda: (torch.randn(5, 6),)),
    "forward hook": Case(hooked, lambda: (torch.randn(5, 6),)),
    "parametrised": Case(Parametrised, lambda: (torch.randn(5, 6),)),
    "nested": Case(
        Nested,
        lambda: ({"a": torch.randn(4, 4), "b": torch.randn(4, 5)}, 0.5),
        options={"output_name": "answer.scores"},
    ),
    "frozen": Case(Frozen, lambda: (torch.randn(4, 6, 8),)),
    "TransformerEncoder": Case(Attention, lambda: (torch.randn(4, 5, 8),)),
    "transposed convolution": Case(Upsampling, lambda: (torch.randn(4, 2, 8, 8),)),
    "BERT": Case(
        lambda: hugging_face("Bert", "ForSequenceClassification", **ENCODER, num_labels=3),
        kwargs=_masked,
    ),
    "GPT-2, tied": Case(
        lambda: hugging_face("GPT2", "LMHeadModel", **GPT2), kwargs=lambda: token_batch(3, 9)
    ),
    "Llama": Case(lambda: hugging_face("Llama", "ForCausalLM", **GROUPED), kwargs=_masked),
    "T5": Case(
        lambda: hugging_face("T5", "ForConditionalGeneration", **T5), kwargs=lambda: pair(3)
    ),
    "ViT": Case(
        lambda: hugging_face("ViT", "ForImageClassification", **VISION, num_labels=3),
        kwargs=lambda: pixels(32, 3),
    ),
    "Mamba": Case(
        lambda: hugging_face("Mamba", "ForCausalLM", **MAMBA), kwargs=lambda: token_batch(2, 6)
    ),
}
