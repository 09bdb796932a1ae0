"""Training runs against PyTorch's on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph_init.analysis import analyze
from graph_init.ir import Array
from graph_init.model.load import load
from graph_init.options import Options
from graph_init.problem import workload
from graph_init.problem.forward_graph import initial_values
from graph_init.training import runner
from graph_init.training.optimizers import OPTIMIZERS

torch = pytest.importorskip("torch")
nn = torch.nn
UPDATES = 50


class CNN(nn.Module):  # type: ignore[misc, name-defined]
    """No biases before the norms: their gradients are rounding, which Adam would blow up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).mean((2, 3)))


class Transformer(nn.Module):  # type: ignore[misc, name-defined]
    """Rows of the image as tokens, one pre-norm block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        h = self.embed(x[:, 0])
        n = self.norm1(h)
        scores = self.query(n) @ self.key(n).transpose(-1, -2) / 4
        h = h + scores.softmax(-1) @ self.value(n)
        h = h + self.down(nn.functional.gelu(self.up(self.norm2(h))))
        return self.head(h.mean(1))


class MLP(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = [nn.Flatten(), nn.Linear(64, 32)]
        for _ in range(4):
            layers += [nn.Tanh(), nn.Linear(32, 32)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Any) -> Any:
        return self.body(x)


def batches(count: int = UPDATES) -> list[tuple[Array, Array]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.images / 8 - 1).astype(np.float32)[:, None], digits.target
    order = np.random.default_rng(0).permutation(len(x))
    places = [order[16 * k : 16 * (k + 1)] for k in range(count)]
    return [(x[p], y[p]) for p in places]


def prepared(net: Any, folder: Path, mode: str) -> tuple[workload.Workload, dict[str, Array], str]:
    """The model in evaluation mode, so that no node of training is exported."""
    x, y = batches(1)[0]
    path = folder / "net.onnx"
    exported = torch.onnx.export(
        net.eval(), (torch.from_numpy(x),), dynamo=True, optimize=False, verbose=False
    )
    exported.save(str(path))
    entry = exported.model_proto.graph.input[0].name
    loaded = load(path)
    parameters = analyze(loaded.ir)
    values = initial_values(loaded)
    options = Options(
        data={entry: x, "target": y},
        loss="cross-entropy",
        batch_norm=mode,
        whole_file=True,
        scale_gradient=True,
    )
    return workload.build(loaded, parameters, values, options), values, entry


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.003)])
@pytest.mark.parametrize(
    ("network", "mode"), [(CNN, "train"), (Transformer, "eval"), (MLP, "eval")]
)
def test_fifty_updates_follow_pytorch(
    tmp_path: Path, network: Any, mode: str, optimizer: str, rate: float
) -> None:
    torch.manual_seed(0)
    net = network()
    load_, values, entry = prepared(net, tmp_path, mode)
    given = batches()
    start = runner.pack(load_.problem, values)
    curve = runner.Trainer(load_.problem, optimizer)(
        start, ({entry: x, "target": y} for x, y in given), UPDATES, rate
    )
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    update = made(net.parameters(), lr=rate, **extra)
    net.train(mode == "train")
    losses = []
    for x, y in given:
        update.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        update.step()
        losses.append(loss.item())
    assert not curve.diverged
    np.testing.assert_allclose(curve.losses[:10], losses[:10], rtol=2e-5)
    np.testing.assert_allclose(curve.losses, losses, rtol=5e-3)
    assert losses[-1] < losses[0]
    ours = runner.unpack(load_.problem, curve.parameters)
    for name, tensor in net.named_parameters():
        # A key's bias moves all scores of a softmax alike: its gradient is rounding, which Adam
        # makes as large as any other.
        if (optimizer, name) != ("adam", "key.bias"):
            np.testing.assert_allclose(ours[name], tensor.detach(), atol=2e-3, err_msg=name)
    np.testing.assert_array_equal(start, runner.pack(load_.problem, values))  # left as it was


def test_a_run_that_diverges_stops(tmp_path: Path) -> None:
    load_, values, entry = prepared(MLP(), tmp_path, "eval")
    feeds = ({entry: 1e3 * x, "target": y} for x, y in batches())
    curve = runner.Trainer(load_.problem, "sgd")(
        runner.pack(load_.problem, values), feeds, UPDATES, 1e20
    )
    assert curve.diverged
    assert len(curve.losses) < UPDATES


def test_scores_are_those_of_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = MLP()
    load_, values, entry = prepared(net, tmp_path, "eval")
    x, y = (np.concatenate(a) for a in zip(*batches(4), strict=True))
    score = runner.Scorer(load_.problem, {entry: x, "target": y})
    found = score(runner.pack(load_.problem, values))
    logits = net(torch.from_numpy(x))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y)).item()
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1).numpy() == y).mean())


def test_epochs_go_through_all_rows_in_orders_of_their_own() -> None:
    rows = {"x": np.arange(12)}
    first, again = (runner.epochs(rows, 5, seed=3) for _ in range(2))
    drawn = [next(first)["x"] for _ in range(6)]
    for batch in drawn:
        np.testing.assert_array_equal(batch, next(again)["x"])
    for epoch in (drawn[:2], drawn[2:4], drawn[4:]):
        assert len(set(np.concatenate(epoch))) == 10
    assert list(drawn[0]) != list(drawn[2])


def test_every_optimizer_has_a_grid() -> None:
    assert all(len(o.rates) >= 5 for o in OPTIMIZERS.values())
