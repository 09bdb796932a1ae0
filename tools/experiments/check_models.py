"""Models that are initialised as their authors, a paper or a framework means it.

Each has a name, ``family/model`` or ``family/model/scheme``, and is made as an ONNX file with the
weights that it begins with. The widths are of 64 and more: at a width of 8 a standard deviation of
0.02 is no good start.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

os.environ.setdefault("KERAS_BACKEND", "torch")

from tests import architectures

CLASSES, WORDS = 10, 100


@dataclass(frozen=True)
class Sound:
    """``make``: the model as ONNX."""

    name: str
    make: Callable[[], onnx.ModelProto]

    @property
    def held_out(self) -> bool:
        """Half of the names, by their digest; no rule was changed for what these show."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


# ---- transformers ------------------------------------------------------------------------------

#: Options of configurations that are widths.
_WIDTHS = frozenset(
    "hidden_size embedding_size intra_bottleneck_size true_hidden_size intermediate_size d_model "
    "n_embd dim hidden_dim d_inner encoder_ffn_dim decoder_ffn_dim ffn_dim word_embed_proj_dim "
    "d_kv d_ff head_dim query_pre_attn_scalar embed_dim hidden_sizes decoder_hidden_size "
    "neck_hidden_sizes fusion_hidden_size conv_dim projection_dim groups_width key_dim "
    "conv_channels rotary_dim depth_multiplier width_coefficient".split()
)
#: Of these the narrowest layer is of 8.
_NARROW = frozenset(
    "ConvNext ConvNextV2 ResNet RegNet PoolFormer Segformer Pvt MobileViT Cvt DPT".split()
)


def _wider(options: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """The configuration with every width ``factor`` times as large."""
    found = {}
    for key, value in options.items():
        if isinstance(value, dict):
            found[key] = _wider(value, factor)
        elif key not in _WIDTHS:
            found[key] = value
        elif isinstance(value, (list, tuple)):
            found[key] = type(value)(factor * v for v in value)
        else:
            found[key] = factor * value
    return found


def _transformer(architecture: architectures.Architecture) -> onnx.ModelProto:
    import graph_init_torch

    factor = 8 if architecture.name in _NARROW else 4
    model, inputs = replace(architecture, options=_wider(architecture.options, factor)).build()
    return graph_init_torch.export(model, kwargs=inputs)


# ---- PyTorch modules ---------------------------------------------------------------------------


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Attention(nn.Module):
    """Of four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = (self.query, self.key, self.value)
        q, k, v = (f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in layers)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class _Post(nn.Module):
    """``norm(x + branch(x))``."""

    def __init__(self, branch: nn.Module, width: int) -> None:
        super().__init__()
        self.branch, self.norm = branch, nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.branch(x))


class _Mean(nn.Module):
    """Over the places of a sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class _Lstm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


def feed(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _rows(width: int) -> torch.Tensor:
    return torch.randn(8, width)


def _images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8)


def _words() -> torch.Tensor:
    return torch.randint(0, WORDS, (8, 8))


Built = tuple[nn.Module, torch.Tensor]


def mlp() -> Built:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, CLASSES)), _rows(64)


def funnel() -> Built:
    """Each layer of its own shape."""
    widths = (256, 192, 160, 128, 96, 64)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, CLASSES)), _rows(256)


def cnn() -> Built:
    channels = (3, 64, 80, 96, 128, 160)
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(zip(channels, channels[1:], strict=False)):
        layers += [nn.Conv2d(a, b, 3, stride=1 + k % 2, padding=1), nn.ReLU()]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, CLASSES))
    return nn.Sequential(*layers, *head), _images()


def autoencoder() -> Built:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(64, 96, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(96, 72, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(72, 64, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(64, 3, 3, padding=1),
    )
    return model, _images()


def resnet() -> Built:
    """Batch norm behind every convolution."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
    width = 64
    for new in (64, 128):
        if new != width:
            layers += [nn.Conv2d(width, new, 1, stride=2, bias=False), nn.BatchNorm2d(new)]
        for _ in range(2):
            branch = [
                nn.Conv2d(new, new, 3, padding=1, bias=False),
                nn.BatchNorm2d(new),
                nn.ReLU(),
                nn.Conv2d(new, new, 3, padding=1, bias=False),
                nn.BatchNorm2d(new),
            ]
            layers += [Residual(*branch), nn.ReLU()]
        width = new
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers, *head), _images()


def separable() -> Built:
    """Depthwise and pointwise convolutions, group norms."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU()]
    width = 64
    for new in (96, 128, 128, 160):
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.SiLU()]
        layers += [nn.Conv2d(width, new, 1), nn.GroupNorm(8, new), nn.SiLU()]
        width = new
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers, *head), _images()


def pre_norm(depth: int = 4, width: int = 64) -> Built:
    """A transformer whose branches begin with a norm."""
    layers: list[nn.Module] = [nn.Embedding(WORDS, width)]
    for _ in range(depth):
        layers.append(Residual(nn.LayerNorm(width), Attention(width)))
        layers.append(Residual(nn.LayerNorm(width), feed(width)))
    return nn.Sequential(*layers, nn.LayerNorm(width), nn.Linear(width, WORDS)), _words()


def post_norm() -> Built:
    layers: list[nn.Module] = [nn.Embedding(WORDS, 64), nn.LayerNorm(64)]
    for _ in range(4):
        layers += [_Post(Attention(64), 64), _Post(feed(64), 64)]
    return nn.Sequential(*layers, _Mean(), nn.Linear(64, CLASSES)), _words()


def residual(depth: int = 8) -> Built:
    """Without norms; the last layer of a branch is divided by the root of their number."""
    blocks = [Residual(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(depth)]
    return nn.Sequential(nn.Linear(32, 64), *blocks, nn.Linear(64, CLASSES)), _rows(32)


def lstm() -> Built:
    return _Lstm(64), _words()


def _uniform(weight: torch.Tensor) -> None:
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")


SCHEMES: Mapping[str, Callable[[torch.Tensor], Any]] = {
    "default": lambda weight: None,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "he-uniform": _uniform,
    "xavier": nn.init.xavier_normal_,
    "xavier-uniform": nn.init.xavier_uniform_,
    "lecun": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    "0.02": partial(nn.init.trunc_normal_, std=0.02),
}
#: Of a deep plain network 0.02 is no good start.
PLAIN = tuple(s for s in SCHEMES if s != "0.02")
MODELS: Mapping[str, tuple[Callable[[], Built], Sequence[str]]] = {
    "mlp": (mlp, PLAIN),
    "funnel": (funnel, PLAIN),
    "cnn": (cnn, PLAIN),
    "autoencoder": (autoencoder, PLAIN),
    "resnet": (resnet, tuple(SCHEMES)),
    "separable": (separable, PLAIN),
    "pre-norm": (pre_norm, tuple(SCHEMES)),
    "post-norm": (post_norm, tuple(SCHEMES)),
    "residual": (residual, PLAIN),
    "lstm": (lstm, ("default", "xavier-uniform", "orthogonal")),
}


def draw(model: nn.Module, scheme: str, seed: int, scaled: bool = True) -> None:
    """All weights of layers by the scheme; ``scaled``: as residual networks without norms are."""
    torch.manual_seed(seed)
    branches = [m for m in model.modules() if isinstance(m, Residual)]
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LSTM)):
            for p in module.parameters():
                if p.ndim > 1:
                    SCHEMES[scheme](p)
        elif isinstance(module, nn.Embedding) and scheme == "0.02":
            SCHEMES[scheme](module.weight)
    with torch.no_grad():
        for branch in branches if scaled else ():
            linear = [m for m in branch.modules() if isinstance(m, nn.Linear)]
            if linear:
                linear[-1].weight /= math.sqrt(len(branches))


def torch_model(name: str, scheme: str) -> onnx.ModelProto:
    """A model of ``MODELS``, drawn by a scheme of ``SCHEMES``."""
    import graph_init_torch

    torch.manual_seed(0)
    model, example = MODELS[name][0]()
    draw(model, scheme, seed=1)
    return graph_init_torch.export(model, (example,))


# ---- Keras, Flax, and the architectures in the onnx package ------------------------------------


def _keras(name: str) -> onnx.ModelProto:
    import keras

    import graph_init_keras

    keras.utils.set_random_seed(0)
    kind = getattr(keras.applications, name)
    model = kind(input_shape=(64, 64, 3), weights=None, classes=7)
    return graph_init_keras.export(model, (torch.randn(2, 64, 64, 3).numpy(),))


def _flax(name: str) -> onnx.ModelProto:
    import jax

    import graph_init_jax
    from tools.experiments import check_flax

    module, example = check_flax.MODELS[name]()
    params = jax.jit(module.init)(jax.random.key(0), example)
    return graph_init_jax.export(module, params, (example,))


def _light(name: str, scheme: str) -> onnx.ModelProto:
    import tempfile

    import graph_init
    from tools.light_zoo_table import models

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        found = graph_init.initialize(models()[name], scheme=scheme, updates=0)
        found.save(path)
        return onnx.load(path)


KERAS = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0")
FLAX = ("mlp", "cnn", "transformer")
LIGHT = ("squeezenet", "shufflenet")
LIGHT_SCHEMES = ("he", "he-uniform", "xavier", "lecun", "orthogonal")


def sound() -> list[Sound]:
    """All of them, in the order of their names' kinds."""
    found = [
        Sound(f"transformers/{a.name}", partial(_transformer, a))
        for a in architectures.ARCHITECTURES
    ]
    found += [Sound(f"keras/{name}", partial(_keras, name)) for name in KERAS]
    found += [Sound(f"flax/{name}", partial(_flax, name)) for name in FLAX]
    for name, (_, schemes) in MODELS.items():
        found += [Sound(f"torch/{name}/{s}", partial(torch_model, name, s)) for s in schemes]
    for name in LIGHT:
        found += [Sound(f"light/{name}/{s}", partial(_light, name, s)) for s in LIGHT_SCHEMES]
    return found


def deep_model(kind: str, depth: int, scheme: str, scaled: bool) -> onnx.ModelProto:
    """``residual`` or ``pre_norm`` of so many blocks, with the scaling of the branches or not."""
    import graph_init_torch

    torch.manual_seed(0)
    model, example = {"residual": residual, "pre_norm": pre_norm}[kind](depth)
    draw(model, scheme, seed=1, scaled=scaled)
    return graph_init_torch.export(model, (example,))
