"""What the README tells users to write, run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(word: str) -> list[str]:
    """Blocks of Python in the README that ``word`` occurs in."""
    return [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in b]


def torch_names() -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """What the README calls ``module`` and ``example``, and what tells whether it has changed."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers: list[Any] = []
    for _ in range(4):
        layers += [torch.nn.Linear(6, 6), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(6, 3))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 0.1
    names = {"module": module, "example": torch.randn(5, 6)}
    return names, lambda names: names["module"][0].weight.detach().clone().numpy()


FRAMEWORKS = {"graph_init_torch": torch_names}


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_the_one_line_in_each_framework(package: str) -> None:
    pytest.importorskip(package)
    (block,) = blocks(package)
    names, weights = FRAMEWORKS[package]()
    before = weights(names)
    exec(compile(block, "README.md", "exec"), names)
    assert (weights(names) != before).all()
