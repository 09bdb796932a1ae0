"""Deep networks of convolutions on every engine, second and third order against triple backprop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn

from graph_init.engine.choice import VARIABLE
from tests import test_oracle
from tests.engines import ENGINES
from tests.oracle_models import Case, export

CHANNELS, CLASSES, ROWS = 4, 10, 3
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
#: Sides of the input by the number of axes; of these sizes strides leave something to convolve.
SIDES = {1: 24, 2: 9, 3: 8}


def deep(axes: int) -> nn.Module:
    """18 layers: groups, one group a channel, dilations, both, strides and even kernels."""
    settings = itertools.cycle(
        [
            {"kernel_size": 3, "padding": 1},
            {"kernel_size": 3, "padding": 1, "groups": 2},
            {"kernel_size": 3, "padding": 2, "dilation": 2},
            {"kernel_size": 3, "padding": 1, "groups": CHANNELS},
            {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
            {"kernel_size": 1},
        ]
    )
    layers = [CONV[axes](CHANNELS, CHANNELS, **next(settings)) for _ in range(16)]
    layers.insert(5, CONV[axes](CHANNELS, CHANNELS, 3, stride=2, padding=1))
    layers.insert(11, CONV[axes](CHANNELS, CHANNELS, 2, padding=1, padding_mode="zeros"))
    return _network(layers)


def transposed(axes: int) -> nn.Module:
    """Every setting of a transposed convolution, and several at a time."""
    settings = [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 2, "output_padding": 1},
        {"kernel_size": 3, "dilation": 2, "padding": 3},
        {"kernel_size": 3, "groups": 2, "padding": 2},
        {"kernel_size": 3, "groups": CHANNELS, "padding": 1},
        {"kernel_size": 3, "stride": 2, "dilation": 2, "groups": 2, "padding": 4},
    ]
    down = CONV[axes](CHANNELS, CHANNELS, 3, stride=3, padding=1)
    layers = [down, *(TRANSPOSED[axes](CHANNELS, CHANNELS, **s) for s in settings)]
    return _network(layers)


def _network(layers: list[nn.Module]) -> nn.Module:
    """With activations that are smooth, so that third derivatives are not zero."""
    for layer in layers:
        fan = layer.weight[0].numel() if isinstance(layer, tuple(CONV.values())) else CHANNELS
        nn.init.normal_(layer.weight, std=1.2 / fan**0.5)
    return _Network(layers)


class _Network(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x.flatten(2).mean(2))


class _Cropped(nn.Module):
    """A transposed convolution as a part of the whole one: PyTorch has no third derivative of
    one with ``output_padding``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.layer = layer.weight, layer.bias, [layer]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (layer,) = self.layer
        whole = getattr(nn.functional, f"conv_transpose{x.dim() - 2}d")
        y = whole(
            x,
            self.weight,
            self.bias,
            stride=layer.stride,
            groups=layer.groups,
            dilation=layer.dilation,
        )
        for axis, (padding, extra) in enumerate(
            zip(layer.padding, layer.output_padding, strict=True), start=2
        ):
            y = y.narrow(axis, padding, y.shape[axis] - 2 * padding + extra)
        return y


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of ``request.param``, exported."""
    make, axes = request.param
    path = tmp_path_factory.mktemp("convolutions") / "model.onnx"
    export(_case(make, axes), path, optimize=False)
    return path


def _case(make: Callable[[int], nn.Module], axes: int) -> Case:
    torch.manual_seed(0)
    example = torch.randn(ROWS, CHANNELS, *[SIDES[axes]] * axes)
    return Case(make(axes).eval(), example, torch.randint(0, CLASSES, (ROWS,)))


@pytest.mark.exact("PyTorch is given the weights that are exported")
@pytest.mark.parametrize(
    ("case", "make", "axes"),
    [
        pytest.param(
            (make, axes),
            make,
            axes,
            id=f"{make.__name__}-{axes}d",
            marks=[] if axes == 2 else pytest.mark.long,
        )
        for make in (deep, transposed)
        for axes in CONV
    ],
    indirect=["case"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_triple_backprop(
    case: Path,
    make: Callable[[int], nn.Module],
    axes: int,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, engine)
    given = _case(make, axes)
    double = given.model.double()
    for k, layer in enumerate(double.layers):
        if any(layer.output_padding):
            double.layers[k] = _Cropped(layer)
    test_oracle.compare(given, case, {n: n for n, _ in double.named_parameters()}, double)
