"""Schemes against their counterparts in PyTorch: by distribution, by structure, by variance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

import graph_init
from graph_init.analysis import Parameter
from graph_init.errors import UsageError
from graph_init.init import schemes
from graph_init.init.gains import gain
from graph_init.ir import Array
from graph_init.options import SCHEMES, InitialWeights
from tests.small_models import model, plain_cnn

torch = pytest.importorskip("torch")
nn = torch.nn


def parameters(channels: int = 64) -> tuple[list[Parameter], dict[str, Any]]:
    found = graph_init.inspect(plain_cnn(3, channels=channels)).parameters
    return found, {p.name: np.full(p.shape, 0.5, np.float32) for p in found}


def layer(activation: str, shape: tuple[int, ...], **attributes: Any) -> list[Parameter]:
    """The parameters of one layer, a product for two axes and a convolution for four."""
    conv = len(shape) == 4
    nodes = [
        helper.make_node("Conv" if conv else "MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node(activation, ["h"], ["y"], "last", **attributes),
    ]
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32) + 0.1, "w")]
    x = ["n", shape[1], 9, 9] if conv else ["n", shape[0]]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return graph_init.inspect(model(nodes, inputs, outputs, weights)).parameters


def drawn(found: list[Parameter], seed: int = 0, **settings: Any) -> Array:
    values = {p.name: np.full(p.shape, 0.1, np.float32) for p in found}
    return schemes.fill(found, values, InitialWeights(**settings), seed)["w"]


def torch_gain(activation: str) -> float:
    name = {"Relu": "relu", "Tanh": "tanh", "Identity": "linear", "Sigmoid": "sigmoid"}[activation]
    return float(nn.init.calculate_gain(name))


#: Scheme → the same in PyTorch, given the activation behind the layer.
COUNTERPARTS: dict[str, Any] = {
    "he": lambda w, a: nn.init.kaiming_normal_(w, nonlinearity=a),
    "he-uniform": lambda w, a: nn.init.kaiming_uniform_(w, nonlinearity=a),
    "xavier": lambda w, a: nn.init.xavier_normal_(w),
    "xavier-uniform": lambda w, a: nn.init.xavier_uniform_(w),
    "lecun": lambda w, a: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "lecun-uniform": lambda w, a: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    "truncated-normal": lambda w, a: nn.init.trunc_normal_(w, std=0.02),
}


@pytest.mark.parametrize("scheme", COUNTERPARTS)
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("shape", [(120, 300), (60, 40, 3, 3)])
def test_elements_have_the_distribution_of_pytorch(
    scheme: str, activation: str, shape: tuple[int, ...]
) -> None:
    ours = drawn(layer(activation, shape), scheme=scheme)
    assert ours.dtype == np.float32
    torch.manual_seed(0)
    stored = shape if len(shape) == 4 else shape[::-1]  # torch has (out, in)
    theirs = COUNTERPARTS[scheme](torch.empty(stored), activation.lower()).numpy()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 1e-3


def test_truncation_cuts_where_pytorch_cuts() -> None:
    ours = drawn(layer("Relu", (200, 200)), scheme="truncated-normal", std=1.5)
    theirs = nn.init.trunc_normal_(torch.empty(200, 200), std=1.5).numpy()
    assert np.abs(ours).max() <= 2
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (24, 8, 3, 3), (10, 8, 3, 3)])
@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Identity"])
def test_orthogonal_has_the_singular_values_of_pytorch(
    shape: tuple[int, ...], activation: str
) -> None:
    ours = drawn(layer(activation, shape), scheme="orthogonal")
    theirs = nn.init.orthogonal_(torch.empty(shape), gain=torch_gain(activation)).numpy()
    for w in (ours, theirs):
        values = np.linalg.svd(w.reshape(shape[0], -1), compute_uv=False)
        np.testing.assert_allclose(values, torch_gain(activation), rtol=1e-5)


def test_orthogonal_matrices_are_uniform() -> None:
    """Elements of uniformly drawn orthogonal matrices, of ours and of PyTorch's."""
    found = layer("Identity", (4, 4))
    ours = np.stack([drawn(found, seed, scheme="orthogonal") for seed in range(600)])
    theirs = np.stack([nn.init.orthogonal_(torch.empty(4, 4)).numpy() for _ in range(600)])
    for row in range(4):
        for column in range(4):
            a, b = ours[:, row, column], theirs[:, row, column]
            assert stats.ks_2samp(a, b).pvalue > 1e-4


@pytest.mark.parametrize("groups", [1, 4])
def test_delta_orthogonal_passes_the_centre_alone(groups: int) -> None:
    """A convolution by it is an orthogonal map of the channels at every place."""
    shape = (32, 8 // groups if groups > 1 else 8, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "layer", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["h"], ["y"], "last"),
    ]
    weights = [numpy_helper.from_array(np.full(shape, 0.1, np.float32), "w")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 5, 5])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    found = graph_init.inspect(model(nodes, inputs, outputs, weights)).parameters
    w = drawn(found, scheme="delta-orthogonal")
    centre = w[:, :, 1, 1]
    assert np.count_nonzero(w) == np.count_nonzero(centre)
    for block in np.split(centre, groups):
        np.testing.assert_allclose(block.T @ block, 2 * np.eye(shape[1]), atol=1e-5)
    x = torch.randn(3, 8, 5, 5)
    y = nn.functional.conv2d(x, torch.from_numpy(w), padding=1, groups=groups)
    np.testing.assert_allclose(y.norm(), np.sqrt(2) * x.norm(), rtol=1e-5)


@pytest.mark.parametrize(
    ("operator", "slope", "name", "parameter"),
    [
        ("Relu", None, "relu", None),
        ("Tanh", None, "tanh", None),
        ("Sigmoid", None, "sigmoid", None),
        ("Selu", None, "selu", None),
        ("LeakyRelu", None, "leaky_relu", 0.01),
        ("LeakyRelu", 0.2, "leaky_relu", 0.2),
    ],
)
def test_gains_are_those_of_pytorch(
    operator: str, slope: float | None, name: str, parameter: float | None
) -> None:
    assert gain(operator, slope) == pytest.approx(nn.init.calculate_gain(name, parameter))


@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("Gelu", nn.functional.gelu),
        ("Silu", nn.functional.silu),
        ("Mish", nn.functional.mish),
        ("HardSwish", nn.functional.hardswish),
        ("Softplus", nn.functional.softplus),
        ("Elu", nn.functional.elu),
    ],
)
def test_other_gains_keep_the_second_moment(operator: str, function: Any) -> None:
    torch.manual_seed(0)
    found = gain(operator)
    assert found is not None
    x = function(torch.randn(1_000_000, dtype=torch.float64))
    assert float((found * x).square().mean()) == pytest.approx(1, rel=5e-3)


def test_the_slope_of_the_node_decides_the_gain() -> None:
    leaky = layer("LeakyRelu", (200, 100), alpha=0.5)
    assert leaky[0].gain_slope == 0.5
    deviation = drawn(leaky, scheme="he").std()
    assert deviation == pytest.approx(np.sqrt(2 / 1.25 / 200), rel=0.02)


def test_gain_can_be_given() -> None:
    found = layer("Relu", (300, 200))
    plain = drawn(found, scheme="xavier")
    np.testing.assert_allclose(drawn(found, scheme="xavier", gain=3.0), 3 * plain, rtol=1e-6)
    by_activation = drawn(found, scheme="xavier", gain="activation")
    np.testing.assert_allclose(by_activation, np.sqrt(2) * plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "xaver"}, "did you mean 'xavier'"),
        ({"scheme": "kaiming_normal_"}, "did you mean 'he'"),
        ({"scheme": "Glorot-Uniform"}, "did you mean 'xavier-uniform'"),
        ({"scheme": "he", "std": 0.1}, "--std belongs to --scheme truncated-normal"),
        ({"scheme": "keep", "gain": 1.0}, "--gain belongs to"),
        ({"scheme": "he", "gain": -1.0}, "must be positive"),
        ({"scheme": "he", "gain": "relu"}, "'activation'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        schemes.fill([], {}, InitialWeights(**settings), 0)


def test_a_scheme_does_not_depend_on_the_order_of_tensors() -> None:
    found, values = parameters()
    new = schemes.fill(found, values, InitialWeights("he"), 0)
    assert set(new) == {"w0", "w1", "w2", "head"}
    reordered = schemes.fill(found[::-1], values, InitialWeights("he"), 0)
    assert all((new[n] == reordered[n]).all() for n in new)
    assert (schemes.fill(found, values, InitialWeights("he"), 1)["w1"] != new["w1"]).any()


def test_keep_fills_nothing_and_placeholders_become_neutral() -> None:
    found, values = parameters(8)
    assert schemes.fill(found, values, InitialWeights("keep"), 0) == {}
    assert schemes.constant_weights(found, values) == ["w0", "w1", "w2", "head"]
    new = schemes.fill(found, values, InitialWeights("he"), 0, placeholders=True)
    assert (new["b0"] == 0).all()


class Net(nn.Module):  # type: ignore[misc, name-defined]
    """Convolutions with a group and a stride, a transposed one, and products, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4)
        self.c = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.d = nn.Linear(8 * 8 * 8, 40)
        self.e = nn.Linear(40, 10)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.e(torch.tanh(self.d(x.flatten(1))))


def layer_deviations(net: Any, x: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, module in net.named_children():
        module.register_forward_hook(
            lambda m, i, o, name=name: found.update({name: float(o.std())})
        )
    net(x)
    return found


def test_lsuv_gives_every_layer_the_variance_that_the_lsuv_package_aims_at(tmp_path: Path) -> None:
    lsuv = pytest.importorskip("lsuv")
    torch.manual_seed(0)
    net, x = Net(), torch.randn(32, 3, 8, 8)
    target = torch.randint(0, 10, (32,))
    program = torch.onnx.export(net, (x,), dynamo=True, optimize=False, verbose=False)
    program.save(str(tmp_path / "net.onnx"))
    entry = program.model_proto.graph.input[0].name
    result = graph_init.initialize(
        tmp_path / "net.onnx",
        scheme="lsuv",
        updates=0,
        data={entry: x.numpy(), "target": target.numpy()},
        loss="cross-entropy",
    )
    ours = {i.name: numpy_helper.to_array(i) for i in result.model.graph.initializer}
    state = {n: torch.from_numpy(np.array(ours[n])) for n in net.state_dict()}
    net.load_state_dict(state)
    found = layer_deviations(net, x)
    assert set(found) == set("abcde")
    for name, deviation in found.items():
        assert deviation == pytest.approx(1, abs=2e-3), name
    assert all((v == 0).all() for n, v in state.items() if n.endswith("bias"))
    theirs = lsuv.lsuv_with_singlebatch(Net(), x, verbose=False, std_tol=1e-3)
    for name, deviation in layer_deviations(theirs, x).items():
        assert deviation == pytest.approx(found[name], abs=4e-3), name


def test_lsuv_leaves_tied_tables_and_dead_layers_alone() -> None:
    """A dead layer (its input is zero) has no variance to set."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "zero"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["h"], "dead"),
        helper.make_node("Add", ["h", "r"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"], "alive"),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), n) for n in "wv"
    ] + [numpy_helper.from_array(np.float32(0), "zero")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    result = graph_init.initialize(
        model(nodes, inputs, outputs, weights), scheme="lsuv", updates=0, batch_size=256
    )
    new = {i.name: numpy_helper.to_array(i) for i in result.model.graph.initializer}
    np.testing.assert_allclose(new["w"] @ new["w"].T, np.eye(8), atol=1e-5)
    assert result.before.output_std == pytest.approx(1, rel=0.1)


def test_schemes_go_with_tuning() -> None:
    for name in SCHEMES:
        result = graph_init.initialize(
            plain_cnn(3, channels=8), scheme=name, steps=2, batch_size=4, tuner="metainit"
        )
        assert result.steps == 2
        assert np.isfinite(result.after.gradient_deviation)
        assert result.provenance["graph_init.scheme"] == name


def _normalised_by_hand() -> Any:
    """A network with two batch norms written out: one with an epsilon, one without.

    The subtraction is called what a variance might be.
    """

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.full(shape, 0.5, np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("Sub", ["h", "m1"], ["c1"], "bn_variance/sub"),
        helper.make_node("Add", ["v1", "epsilon"], ["e1"], "bn_mean/add"),
        helper.make_node("Sqrt", ["e1"], ["s1"], "bn_mean/sqrt"),
        helper.make_node("Div", ["c1", "s1"], ["n1"], "bn_mean/div"),
        helper.make_node("Sub", ["n1", "m2"], ["c2"], "second/sub"),
        helper.make_node("Sqrt", ["v2"], ["s2"], "second/root"),
        helper.make_node("Div", ["c2", "s2"], ["n2"], "second/div"),
        helper.make_node(
            "BatchNormalization", ["n2", "g", "s", "m3", "v3"], ["y"], "variance of all"
        ),
    ]
    weights = [tensor("w", 4, 6), tensor("epsilon")]
    weights += [tensor(n, 6) for n in ("m1", "v1", "m2", "v2", "g", "s", "m3", "v3")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return model(nodes, inputs, outputs, weights)


def test_a_running_statistic_is_known_by_the_operand_that_reads_it_not_by_names() -> None:
    found = graph_init.inspect(_normalised_by_hand()).parameters
    expected = {
        f"{letter}{k}": s for letter, s in (("m", "mean"), ("v", "variance")) for k in "123"
    }
    assert {p.name: p.statistic for p in found if p.statistic} == expected
    values = {p.name: np.full(p.shape, 0.5, np.float32) for p in found}
    new = schemes.fill(found, values, InitialWeights("he"), 0, placeholders=True)
    for name, statistic in expected.items():
        assert (new[name] == {"mean": 0.0, "variance": 1.0}[statistic]).all(), name
