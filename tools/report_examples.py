"""Reports of real runs: two initialisations, a comparison, and a small zoo.

    python tools/report_examples.py [--out DIR] [--screenshots DIR]

SqueezeNet comes with the ``onnx`` package; a small convolutional network is exported by PyTorch and
sees scikit-learn's digits. ``--screenshots`` needs Chromium and its driver; of these, docs/report
has what docs/report.md shows. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import graph_init
from graph_init import zoo

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def export_cnn(path: Path, blocks: int = 3) -> None:
    """A residual network for 8×8 images, with two convolutions a block and one before them."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        *(Block(16) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()
    torch.onnx.export(
        network,
        (torch.zeros(16, 1, 8, 8),),
        path,
        dynamo=True,
        optimize=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["x"],
    )


def digits() -> dict[str, Any]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return {"x": (found.images[:, None] / 8 - 1).astype(np.float32), "target": found.target}


def make(folder: Path) -> list[Path]:
    """Write the reports; returns their paths."""
    cnn = folder / "cnn.onnx"
    export_cnn(cnn)
    result = graph_init.initialize(
        LIGHT / "light_squeezenet.onnx", scheme="truncated-normal", updates=10
    )
    result.save_report(folder / "squeezenet.html")
    result = graph_init.initialize(
        cnn, data=digits(), loss="cross-entropy", tuner="metainit", steps=200
    )
    result.save_report(folder / "cnn.html")
    plan = graph_init.Plan(seeds=2, updates=100)
    found = graph_init.compare(cnn, digits(), plan=plan, loss="cross-entropy")
    found.save_report(folder / "comparison.html")
    make_zoo(folder)
    return [folder / f"{name}.html" for name in ("squeezenet", "cnn", "comparison", "zoo")]


def make_zoo(folder: Path) -> None:
    """Networks of one block to eight, and a file that is cut off."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for blocks in range(1, 9):
        export_cnn(models / f"cnn-{blocks}.onnx", blocks)
    cut = (models / "cnn-8.onnx").read_bytes()[:2000]
    (models / "cut.onnx").write_bytes(cut)
    with tempfile.TemporaryDirectory() as output:
        found = zoo.run([str(models)], output, loss="cross-entropy", updates=10, workers=1)
        found.save_report(str(folder / "zoo.html"))


def photograph(pages: list[Path], folder: Path) -> None:
    from tests.browser import Browser

    browser = Browser(folder)
    try:
        for page in pages:
            for scheme, width in (("light", 1280), ("dark", 1280), ("light", 400)):
                browser.appear(scheme, width)
                browser.open(page)
                browser.picture(folder / f"{page.stem}-{scheme}-{width}.png")
            (folder / f"{page.stem}.pdf").write_bytes(browser.printed())
    finally:
        browser.driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    pages = make(arguments.out)
    for page in pages:
        print(f"{page}: {page.stat().st_size / 1e6:.2f} MB")
    if arguments.screenshots:
        arguments.screenshots.mkdir(exist_ok=True)
        photograph(pages, arguments.screenshots)


if __name__ == "__main__":
    main()
