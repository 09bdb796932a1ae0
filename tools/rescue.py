"""A plain network of 30 layers that does not train from PyTorch's default, and after one call does.

    python tools/rescue.py [--updates 300] [--layers 30] [--write]

Linear layers with ReLU, without skips or norms, on scikit-learn's digits (1,797 images of 8×8).
Both states are trained by SGD with momentum at every rate of a grid; each shows its best. Ends in a
picture of the losses: rescue.png, with ``--write`` the one in docs/pytorch, and the numbers in
docs/pytorch.md. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import graph_init_torch

ROOT = Path(__file__).parent.parent
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
BATCH, HELD_OUT, PIXELS, WIDTH = 64, 297, 64, 128


def plain(layers: int) -> nn.Sequential:
    """So many linear layers, with ReLU between them."""
    body: list[nn.Module] = []
    for k in range(layers - 1):
        body += [nn.Linear(WIDTH if k else PIXELS, WIDTH), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(WIDTH, 10))


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images, one a row, and what they show, shuffled."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = (found.data[order] / 8 - 1).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(found.target[order])


@dataclass(frozen=True)
class Trained:
    """The losses of all updates, and what is then right of the held-out images."""

    rate: float
    losses: np.ndarray
    accuracy: float

    @property
    def last(self) -> float:
        """Mean loss of the last tenth of the updates, infinite where it was not finite."""
        tail = float(self.losses[-max(1, len(self.losses) // 10) :].mean())
        return tail if np.isfinite(tail) else float("inf")


def train(
    start: nn.Module, images: torch.Tensor, labels: torch.Tensor, rate: float, updates: int
) -> Trained:
    net = copy.deepcopy(start)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    losses = np.full(updates, np.nan)
    for k in range(updates):
        rows = torch.randint(HELD_OUT, len(images), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        losses[k] = float(loss.detach())
        if not np.isfinite(losses[k]):
            break
    with torch.no_grad():
        right = net(images[:HELD_OUT]).argmax(1) == labels[:HELD_OUT]
    return Trained(rate, losses, float(right.float().mean()))


def picture(curves: dict[str, Trained], path: Path, layers: int) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, found in curves.items():
        axes.plot(found.losses, label=f"{name}: {found.accuracy:.0%} of the held-out images right")
    axes.axhline(np.log(10), color="grey", linewidth=0.8, linestyle=":", label="guessing")
    axes.set(
        xlabel="update",
        ylabel="cross-entropy",
        ylim=(0, None),
        title=f"A plain network of {layers} layers, each state at its best learning rate",
    )
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--write", action="store_true", help="into docs/pytorch.md")
    given = parser.parse_args()
    images, labels = digits()

    torch.manual_seed(0)
    module = plain(given.layers)
    default = copy.deepcopy(module)
    start = time.perf_counter()
    graph_init_torch.initialize_(module, (images[:BATCH],), loss="cross-entropy")  # the one call
    seconds = time.perf_counter() - start
    states = {"PyTorch's default": default, "after initialize_": module}
    best: dict[str, Trained] = {}
    lines = [
        "| state | best rate | loss at the end | right of the held-out images |",
        "|---|---:|---:|---:|",
    ]
    for name, state in states.items():
        tried = [train(state, images, labels, rate, updates=given.updates) for rate in RATES]
        best[name] = found = min(tried, key=lambda t: t.last)
        print(f"{name}: {found.accuracy:.1%} right, at a rate of {found.rate:g}", flush=True)
        lines.append(f"| {name} | {found.rate:g} | {found.last:.3f} | {found.accuracy:.1%} |")
    text = (
        f"{given.layers} layers, {given.updates} updates at the best of the rates "
        f"{', '.join(map(str, RATES))}; the call took {seconds:.0f} s.\n\n" + "\n".join(lines)
    )
    print(text)
    picture(
        best, ROOT / "docs/pytorch/rescue.png" if given.write else Path("rescue.png"), given.layers
    )
    if given.write:
        page = ROOT / "docs" / "pytorch.md"
        head = page.read_text("utf-8").split(MARK)[0] + MARK
        page.write_text(f"{head}\n\n{text}\n\n![losses](pytorch/rescue.png)\n", "utf-8")


#: Behind this line of the page stands what the command writes.
MARK = "<!-- tools/rescue.py --write -->"

if __name__ == "__main__":
    main()
