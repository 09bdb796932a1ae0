"""On which axis classes are: the loss of both layouts against PyTorch's cross_entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.problem.class_axis import Layout, find
from tests.small_models import model

torch = pytest.importorskip("torch")

CLASSES, SIDE = 5, 8
WEIGHT = np.random.default_rng(0).standard_normal((CLASSES, 3, 1, 1)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)

#: Nodes that make "y" of the convolution's "c", and the places of the axes (rows, classes, height,
#: width) in "y".
ENDS = {
    "channels first": ([("Identity", ["c"], "y", {})], (0, 1, 2, 3)),
    "channels last": ([("Transpose", ["c"], "y", {"perm": [0, 2, 3, 1]})], (0, 2, 3, 1)),
    "there and back": (
        [
            ("Transpose", ["c"], "t", {"perm": [0, 2, 3, 1]}),
            ("Mul", ["t", "two"], "m", {}),
            ("Transpose", ["m"], "y", {"perm": [0, 3, 1, 2]}),
        ],
        (0, 1, 2, 3),
    ),
    "resized, channels last": (
        [
            ("Resize", ["c", "", "scales"], "r", {"mode": "nearest"}),
            ("Transpose", ["r"], "y", {"perm": [0, 2, 3, 1]}),
        ],
        (0, 2, 3, 1),
    ),
    # Two branches: no layer is the last one, and the sizes say it.
    "channels last, of two branches": (
        [
            ("Transpose", ["c"], "t", {"perm": [0, 2, 3, 1]}),
            ("Tanh", ["t"], "h", {}),
            ("Add", ["t", "h"], "y", {}),
        ],
        (0, 2, 3, 1),
    ),
    "places in a row": (
        [("Reshape", ["c", "flat"], "y", {})],
        (0, 1, 2),
    ),
}


def segmentation(end: str) -> onnx.ModelProto:
    nodes, places = ENDS[end]
    made = [helper.make_node("Conv", ["x", "w"], ["c"], "head")]
    made += [helper.make_node(op, i, [o], **attributes) for op, i, o, attributes in nodes]
    constants = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "two": np.array(2, np.float32),
        "flat": np.array([0, CLASSES, SIDE * SIDE]),
        "w": WEIGHT,
    }
    used = {name for node in made for name in node.input}
    return model(
        made,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(places))],
        [numpy_helper.from_array(a, n) for n, a in constants.items() if n in used],
    )


def expected(end: str) -> tuple[Any, Any]:
    """Logits with the classes on axis 1, as PyTorch wants them, and class numbers."""
    logits = torch.nn.functional.conv2d(torch.tensor(X).double(), torch.tensor(WEIGHT).double())
    if end == "there and back":
        logits = 2 * logits
    if end == "channels last, of two branches":
        logits = logits + torch.tanh(logits)
    if end == "resized, channels last":
        logits = torch.nn.functional.interpolate(logits, scale_factor=2)
    if end == "places in a row":
        logits = logits.flatten(2)
    places = (len(X), *logits.shape[2:])
    return logits, torch.tensor(np.random.default_rng(2).integers(0, CLASSES, places))


@pytest.mark.exact("PyTorch is given the weights that are written here")
@pytest.mark.parametrize("end", ENDS)
def test_the_loss_is_that_of_pytorch(end: str) -> None:
    logits, target = expected(end)
    loss = torch.nn.functional.cross_entropy(logits, target).item()
    data = {"x": X, "target": target.numpy()}
    for kind in ("auto", "cross-entropy"):
        found = graph_init.measure(segmentation(end), data=data, batch_size=len(X), loss=kind)
        assert found.loss_kind == "cross-entropy"
        assert found.loss == pytest.approx(loss, rel=1e-5)
        assert "classes are on" not in found.loss_reason


def test_a_sequence_of_tensors_has_no_axes() -> None:
    """Parts of the channels, held in a sequence, from which the output is taken."""
    made = segmentation("channels first")
    made.graph.node.pop()
    made.graph.node.extend(
        [
            helper.make_node("SplitToSequence", ["c", "one"], ["parts"], axis=1),
            helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=1),
        ]
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    found = graph_init.measure(made, batch_size=4, loss="cross-entropy")
    assert "classes are on axis 1, as the other axes have the sizes" in found.loss_reason


@pytest.mark.parametrize("end", ENDS)
def test_without_targets_a_guess_is_called_one(end: str) -> None:
    found = graph_init.measure(segmentation(end), batch_size=4, loss="cross-entropy")
    guessed = "branches" in end
    words = "classes are on axis 3, as the other axes have the sizes of an input (a guess; "
    assert (words in found.loss_reason) is guessed
    assert "guess" not in found.loss_reason or guessed


@pytest.mark.parametrize(
    ("layout", "axis", "guess"),
    [
        (Layout((4, 21, 16, 16)), 1, "as PyTorch has them"),
        (Layout((4, 16, 16, 21), layer=3), 3, ""),
        (Layout((4, 16, 16, 21), inputs=[(4, 64, 64, 3)]), 3, "sizes of an input"),
        (Layout((4, 16, 16, 21), inputs=[(4, 3, 64, 64)]), 3, "sizes of an input"),
        (Layout((4, 21, 16, 16), inputs=[(4, 32, 32, 3)]), 1, "sizes of an input"),
        (Layout((4, 16, 16, 16), inputs=[(4, 3, 64, 64)]), 1, "as PyTorch has them"),
        (Layout((4, 16, 16, 21), target=(9, 16, 16)), 3, ""),
        (Layout((4, 16, 16, 21), layer=1, target=(9, 16, 16)), 3, ""),
        (Layout((4, 16, 16, 16), layer=3, target=(9, 16, 16)), 3, ""),
        (Layout((4, 8, 16, 16), layer=3, target=(9, 8, 16)), 3, ""),
        (Layout((4, 1, 1, 10)), 3, ""),
        (Layout((4, 10, 1, 1)), 1, ""),
        (Layout((4, 10)), 1, ""),
        (Layout((4, 9, 30)), 2, "as sequences have them"),
        (Layout((4, 30, 9), layer=1), 1, ""),
    ],
)
def test_the_rules(layout: Layout, axis: int, guess: str) -> None:
    found = find(layout)
    assert found.index == axis
    assert guess in found.guess and bool(guess) is bool(found.guess)


@pytest.mark.exact("PyTorch is given the weights that are written here")
def test_of_a_keras_model() -> None:
    keras = pytest.importorskip("keras")
    net = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3), name="x"), keras.layers.Conv2D(CLASSES, 1)]
    )
    x = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    target = np.random.default_rng(2).integers(0, CLASSES, (4, SIDE, SIDE))
    logits = keras.ops.convert_to_numpy(net(x)).transpose(0, 3, 1, 2)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(target)).item()
    found = graph_init.measure(net, data={"x": x, "target": target}, batch_size=4)
    assert found.loss_kind == "cross-entropy"
    assert found.loss == pytest.approx(loss, rel=1e-5)
