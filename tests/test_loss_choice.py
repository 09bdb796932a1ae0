"""Which loss ``auto`` takes, by which evidence, and where that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.cli import cli
from graph_init.errors import UsageError
from graph_init.ir import Shape
from graph_init.problem.loss_choice import Evidence, Target, choose
from graph_init.problem.output_head import Head
from graph_init.report.facts import facts
from tests.small_models import deep_mlp, model

CE, BCE, MSE = "cross-entropy", "binary-cross-entropy", "mse"


def evidence(shape: Shape, output: str = "output", **more: Any) -> Evidence:
    return Evidence(output, shape, **more)


@pytest.mark.parametrize(
    ("found", "kind", "guess"),
    [
        (evidence((4, 10), last="Softmax"), CE, False),
        (evidence((4, 10), last="LogSoftmax"), CE, False),
        (evidence((4, 10), last="Sigmoid"), BCE, False),
        (evidence((4, 9, 4), "pred_boxes", last="Sigmoid"), MSE, True),
        (evidence((4, 10)), CE, True),
        (evidence((4, 2)), CE, True),
        (evidence((4, 10, 1, 1)), CE, True),
        (evidence((4, 1)), MSE, True),
        (evidence((4,)), MSE, True),
        (evidence((4, 9, 1)), MSE, True),
        (evidence((4, 64), inputs=[(4, 64)]), MSE, True),
        (evidence((4, 10), last="Tanh"), MSE, True),
        (evidence((4, 10), head=Head("LayerNormalization")), MSE, True),
        (evidence((4, 3, 8, 8), inputs=[(4, 3, 8, 8)]), MSE, True),
        (evidence((4, 3, 16, 16), inputs=[(4, 3, 8, 8)]), MSE, True),
        (evidence((4, 1, 8, 8), inputs=[(4, 3, 8, 8)]), MSE, True),
        (evidence((4, 21, 8, 8), inputs=[(4, 3, 8, 8)]), CE, True),
        (evidence((4, 9, 30), head=Head(tables=(("embed", 30),))), CE, True),
        (evidence((4, 9, 32), head=Head(tables=(("embed", 30),))), MSE, True),
        (evidence((4, 9, 30), head=Head(table="embed", tables=(("embed", 30),))), CE, False),
        (evidence((4, 9, 8), head=Head("Add", "MatMul", ("out.weight",))), CE, True),
        (evidence((4, 9, 8), "last_hidden_state"), MSE, True),
        (evidence((4, 9, 8), "logits"), CE, True),
        (evidence((4, 1), "logits"), MSE, True),
        (evidence((4, 3), "boxes"), MSE, True),
        (evidence((4, 8), "text_embeds"), MSE, True),
        (evidence((4, 8), head=Head("Gemm", "Gemm", ("regressor.weight",))), MSE, True),
        (evidence((4, 9, 8), head=Head("Add", "Conv", ("classifier.weight",))), CE, True),
    ],
)
def test_the_rules(found: Evidence, kind: str, guess: bool) -> None:
    choice = choose(found)
    assert (choice.kind, choice.guess) == (kind, guess), choice
    assert ("--loss" in choice.sentence) is guess


@pytest.mark.parametrize(
    ("output", "target", "kind"),
    [
        ((4, 10), Target(shape=(4,), integer=True, low=0, high=9, binary=False), CE),
        ((4, 10), Target(shape=(4, 10), integer=False, low=-2, high=3, binary=False), MSE),
        ((4, 10), Target(shape=(4, 10), integer=False, low=0, high=1, binary=True), BCE),
        ((4, 1), Target(shape=(4,), integer=True, low=0, high=1, binary=True), BCE),
        ((4, 1), Target(shape=(4, 1), integer=False, low=-1, high=7, binary=False), MSE),
    ],
)
def test_targets_leave_nothing_to_guess(output: Shape, target: Target, kind: str) -> None:
    choice = choose(evidence(output, target=target))
    assert (choice.kind, choice.guess) == (kind, False)


def test_targets_beyond_one_are_no_probabilities() -> None:
    target = Target(shape=(4, 10), integer=False, low=-2, high=3, binary=False)
    assert choose(evidence((4, 10), last="Sigmoid", target=target)).kind == MSE


def words(out: int, tied: bool) -> onnx.ModelProto:
    """A language model over 30 words: ``out`` numbers a place, by the embedding or by a matrix."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((30, 8), np.float32), "table")]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Tanh", ["e"], ["h"]),
    ]
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["w"], perm=[1, 0]))
    else:
        weights.append(numpy_helper.from_array(rng.standard_normal((8, out), np.float32), "w"))
    nodes.append(helper.make_node("MatMul", ["h", "w"], ["y"], "product"))
    return model(
        nodes,
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, out])],
        weights,
    )


@pytest.mark.parametrize(
    ("made", "kind", "reason"),
    [
        (lambda: deep_mlp(2), CE, "'logits'"),
        (lambda: words(30, True), CE, "embedding table 'table'"),
        (lambda: words(30, False), CE, "'table'"),
        (lambda: words(1, False), MSE, "one number"),
    ],
)
def test_of_a_file(made: Any, kind: str, reason: str) -> None:
    found = graph_init.measure(made(), batch_size=4)
    assert found.loss_kind == kind
    assert reason in found.loss_reason
    assert found.to_json()["loss_reason"] == found.loss_reason


def test_what_is_asked_for_is_taken() -> None:
    found = graph_init.measure(deep_mlp(2), batch_size=4, loss="mse")
    assert found.loss_kind == MSE and "guess" not in found.loss_reason


def test_positions_are_no_vocabulary() -> None:
    """A table of as many positions as the output is wide says nothing."""
    made = words(30, False)
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 30]))
    made.graph.node[0].input[1] = "places"
    made.graph.initializer.append(numpy_helper.from_array(np.arange(5), "places"))
    made.graph.node.append(helper.make_node("Unsqueeze", ["x", "one"], ["x3"]))
    made.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    made.graph.node.append(helper.make_node("Mul", ["x3", "y"], ["z"]))
    made.graph.output[0].name = "z"
    found = graph_init.measure(made, batch_size=4)
    assert found.loss_kind == MSE, found.loss_reason


#: How a matrix product "h", of "x" and the weight, becomes the output.
_DIVIDED = {
    "a norm, as torch.nn.functional.normalize has it": (
        [("ReduceL2", ["h"], "r"), ("Clip", ["r", "tiny"], "d"), ("Div", ["h", "d"], "y")],
        MSE,
    ),
    "a root of a sum of squares": (
        [
            ("Mul", ["h", "h"], "q"),
            ("ReduceSum", ["q", "axis"], "s"),
            ("Add", ["s", "tiny"], "t"),
            ("Sqrt", ["t"], "d"),
            ("Div", ["h", "d"], "y"),
        ],
        MSE,
    ),
    # Cosines of angles to the classes' vectors: scores of classes.
    "the norm of what it is made of": ([("ReduceL2", ["x"], "d"), ("Div", ["h", "d"], "y")], CE),
    "a sum": ([("ReduceSum", ["h", "axis"], "d"), ("Div", ["h", "d"], "y")], CE),
}


@pytest.mark.parametrize("by", _DIVIDED)
def test_what_is_divided_by_its_own_norm_is_an_embedding(by: str) -> None:
    parts, kind = _DIVIDED[by]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "product")]
    nodes += [
        helper.make_node(op, names, [made], **({"axes": [1]} if op == "ReduceL2" else {}))
        for op, names, made in parts
    ]
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    constants = {"w": w, "tiny": np.array(1e-12, np.float32), "axis": np.array([1])}
    used = {name for node in nodes for name in node.input}
    found = graph_init.measure(
        model(
            nodes,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
            [numpy_helper.from_array(a, n) for n, a in constants.items() if n in used],
        ),
        batch_size=4,
    )
    assert found.loss_kind == kind, found.loss_reason
    assert ("LpNormalization" in found.loss_reason) is (kind == MSE)


def test_it_stands_in_every_table_and_in_the_report(tmp_path: Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(deep_mlp(2), path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 32)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=x, target=np.arange(64) % 10)
    few = ["--updates", "2", "--seeds", "1", "--no-tune", "--scheme", "keep"]
    runs = [
        (["measure", path], "called 'logits'"),
        (["initialize", path, "-o", out], "called 'logits'"),
        (["compare", path, "--data", tmp_path / "train.npz", *few], "class numbers"),
    ]
    for arguments, reason in runs:
        shown = CliRunner().invoke(cli, [str(a) for a in arguments]).stdout
        assert "The loss is cross-entropy" in shown and reason in " ".join(shown.split()), shown
    guessed = "a guess; --loss overrules it"
    told = {}
    for arguments, reason in runs:
        shown = CliRunner().invoke(cli, [str(a) for a in (*arguments, "--json")]).stdout
        told[str(arguments[0])] = json.loads(shown), reason
    for where in (
        told["measure"][0],
        told["initialize"][0]["before"],
        told["initialize"][0]["after"],
        told["compare"][0]["settings"],
    ):
        assert where["loss_kind"] == CE, where
        assert guessed in where["loss_reason"] or "class numbers" in where["loss_reason"]
    data = {"x": x, "target": np.arange(64) % 10}
    plan = graph_init.Plan(("keep",), tune=False, seeds=1, learning_rates=(0.01,), updates=2)
    for content, reason in (
        (graph_init.initialize(path, updates=0).report_content(), guessed),
        (graph_init.compare(path, data, plan=plan).report_content(), "class numbers"),
    ):
        listed = dict(facts(content))
        assert listed["loss function"] == CE
        assert reason in listed["why this loss function"]


def test_class_numbers_that_the_data_has_are_kept_from_mse(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(deep_mlp(2), path)
    data = {"x": np.ones((12, 32), np.float32), "target": np.arange(12) % 10}
    assert graph_init.measure(path, data=data).loss_kind == CE
    with pytest.raises(UsageError, match="--loss cross-entropy"):
        graph_init.measure(path, data=data, loss="mse")


torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn

import graph_init_torch.losses as torch_losses


class OwnLoss(nn.Module):
    """A module that returns its loss, and first so."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.body, self.function = nn.Linear(6, 5), function

    def forward(self, x: Any, labels: Any) -> Any:
        y = torch.tanh(self.body(x))
        return {"loss": self.function(y, labels), "y": y}


@pytest.mark.parametrize(
    ("module", "args", "kind"),
    [
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (torch.ones(4, 6),), CE),
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), (torch.ones(4, 6),), MSE),
        (nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 6)), (torch.ones(4, 6),), MSE),
        (OwnLoss(nn.functional.cross_entropy), (torch.ones(4, 6), torch.arange(4)), CE),
        (OwnLoss(nn.functional.l1_loss), (torch.ones(4, 6), torch.ones(4, 5)), MSE),
    ],
)
def test_of_a_module(module: Any, args: Any, kind: str) -> None:
    found = graph_init.measure(module, args=args)
    assert found.loss_kind == kind, found.loss_reason
    assert ("own loss" in found.loss_reason) is isinstance(module, OwnLoss)


@pytest.mark.parametrize(
    ("head", "options", "kind"),
    [
        ("ForSequenceClassification", {"num_labels": 3}, CE),
        ("ForSequenceClassification", {"num_labels": 1}, MSE),
        ("ForSequenceClassification", {"num_labels": 3, "problem_type": "regression"}, MSE),
        (
            "ForSequenceClassification",
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            BCE,
        ),
        ("ForTokenClassification", {}, CE),
        ("ForMaskedLM", {}, CE),
        ("Model", {}, None),
    ],
)
def test_a_configuration_of_transformers_says_it(head: str, options: Any, kind: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    from tests.architectures import ENCODER

    config = transformers.BertConfig(**ENCODER, **options)
    found = torch_losses.stated(getattr(transformers, f"Bert{head}")(config), None, False)
    assert (found and found[0]) == kind


class Compiled:
    """What a compiled Keras model has."""

    def __init__(self, loss: Any, output_names: tuple[str, ...] = ("a", "b")) -> None:
        self.loss, self.output_names = loss, output_names


def test_a_compiled_keras_model_says_it() -> None:
    keras = pytest.importorskip("keras")
    from graph_init_keras.losses import stated

    def kind(loss: Any) -> str | None:
        found = stated(Compiled(loss))
        return found and found[0]

    assert kind("sparse_categorical_crossentropy") == CE
    assert kind(keras.losses.CategoricalCrossentropy(from_logits=True)) == CE
    assert kind(keras.losses.binary_crossentropy) == BCE
    assert kind("huber") == kind(keras.losses.MeanSquaredError()) == MSE
    assert kind({"b": "mse", "a": "binary_crossentropy"}) == BCE
    assert kind(["mse", "bce"]) == MSE
    assert kind(None) is kind(lambda a, b: a) is None
