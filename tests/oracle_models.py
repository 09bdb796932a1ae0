"""PyTorch models, with a batch each, on which the oracle is asked.

Attention is written out (``eager``): PyTorch's fused one has no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass
class Case:
    """A model in eval mode; ``target`` has class numbers over the last axis of the output."""

    model: nn.Module
    example: torch.Tensor
    target: torch.Tensor

    def loss(self, double: nn.Module) -> torch.Tensor:
        example = self.example.double() if self.example.is_floating_point() else self.example
        logits = double(example)
        return nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), self.target.reshape(-1)
        )


class PlainCNN(nn.Module):
    """No skips and no norms; depthwise and dilated convolutions, and both poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.strided = nn.Conv2d(12, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = torch.relu(self.dilated(nn.functional.max_pool2d(x, 2)))
        x = nn.functional.avg_pool2d(x, 3, 2, 1)
        x = torch.relu(self.strided(x))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(y + self.skip(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.head = nn.Linear(16, 10)
        for module in self.modules():  # running statistics as after some training
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Logits(nn.Module):
    """A transformers model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).logits


def _images(model: nn.Module, size: int, classes: int, rows: int = 4) -> Case:
    target = torch.randint(0, classes, (rows,))
    return Case(model.eval(), torch.randn(rows, 3, size, size), target)


def _widened(model: nn.Module) -> nn.Module:
    """Weights large enough that every layer matters to the numbers compared."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, 0, 0.2)
    return Logits(model)


def plain_cnn() -> Case:
    return _images(PlainCNN(), 16, 10)


def resnet() -> Case:
    return _images(ResNet(), 16, 10)


def vit() -> Case:
    import transformers as t

    config = t.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        attn_implementation="eager",
        image_size=16,
        patch_size=4,
        num_labels=5,
    )
    return _images(_widened(t.ViTForImageClassification(config)), 16, 5, 2)


def bert() -> Case:
    import transformers as t

    config = t.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
        attn_implementation="eager",
    )
    model = _widened(t.BertForSequenceClassification(config)).eval()
    # No token 0: PyTorch gives the padding row no gradient, of which an ONNX file knows nothing.
    return Case(model, torch.randint(1, 50, (2, 8)), torch.randint(0, 3, (2,)))


def gpt2() -> Case:
    import transformers as t

    config = t.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        use_cache=False,
        attn_implementation="eager",
    )
    model = _widened(t.GPT2LMHeadModel(config)).eval()
    return Case(model, torch.randint(0, 50, (2, 8)), torch.randint(0, 50, (2, 8)))


def llama() -> Case:
    import transformers as t

    config = t.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    model = _widened(t.LlamaForCausalLM(config)).eval()
    return Case(model, torch.randint(0, 50, (2, 8)), torch.randint(0, 50, (2, 8)))


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f for f in (plain_cnn, resnet, vit, bert, gpt2, llama)
}


def export(case: Case, path: Path, *, optimize: bool) -> None:
    """Write ``case.model`` with PyTorch's exporter."""
    program = torch.onnx.export(
        case.model, (case.example,), dynamo=True, optimize=optimize, verbose=False
    )
    assert program is not None
    program.save(str(path))
