"""Random batches from a graph's signature, and real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.errors import UsageError
from graph_init.ir import Array
from graph_init.problem.data_files import read
from tests.small_models import model

pytest.importorskip("onnxruntime")


def token_model() -> bytes:
    """Tokens, positions and a mask, summed into a classifier: what language models take."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["tokens"], ["tokens32"], to=TensorProto.INT32),
        helper.make_node("Gather", ["words", "tokens32"], ["a"], "words"),
        helper.make_node("Gather", ["places", "position_ids"], ["b"], "places"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "two"], ["m3"]),
        helper.make_node("Mul", ["c", "m3"], ["d"]),
        helper.make_node("MatMul", ["d", "head"], ["logits"], "head"),
        helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((11, 6)).astype(np.float32), "words"),
        numpy_helper.from_array(rng.standard_normal((5, 6)).astype(np.float32), "places"),
        numpy_helper.from_array(rng.standard_normal((6, 3)).astype(np.float32), "head"),
        numpy_helper.from_array(np.array([2]), "two"),
    ]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["n", 5])
        for n in ("tokens", "position_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return model(nodes, inputs, outputs, weights).SerializeToString()


def batches_of(monkeypatch: pytest.MonkeyPatch, path: Path, **options: object) -> list[Array]:
    """The batches that a measurement feeds."""
    from graph_init.deviation.taylor import Taylor

    seen = []
    original = Taylor.__call__

    def spy(self: Taylor, batch: dict[str, Array], scales: Array) -> object:
        seen.append(batch)
        return original(self, batch, scales)

    monkeypatch.setattr(Taylor, "__call__", spy)
    graph_init.measure(path, **options)  # type: ignore[arg-type]
    return seen  # type: ignore[return-value]


def test_random_tokens_positions_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(token_model())
    batch = batches_of(monkeypatch, path, batch_size=64)[0]
    tokens = batch["tokens"]
    assert tokens.shape == (64, 5)
    assert (tokens.min(), tokens.max()) == (0, 10)
    np.testing.assert_array_equal(batch["position_ids"], np.tile(np.arange(5), (64, 1)))
    assert (batch["attention_mask"] == 1).all()
    assert batch["target"].shape == (64, 5)
    assert (batch["target"].min(), batch["target"].max()) == (0, 2)


def test_the_seed_decides_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(token_model())
    first, again, other = (
        batches_of(monkeypatch, path, seed=seed)[0]["tokens"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UsageError, match=r"text\.npz"):
        read(tmp_path / "text.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"pickled\.npz"):
        read(tmp_path / "pickled.npz")
    with pytest.raises(UsageError, match="cannot be int"):
        read(3)  # type: ignore[arg-type]


def test_folders_of_arrays(tmp_path: Path) -> None:
    arrays = dict(product_rows(6))
    np.savez(tmp_path / "all.npz", **arrays)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.npy"):
        read(tmp_path / "folder")
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    model = two_outputs()
    one = graph_init.measure(model, data=tmp_path / "all.npz", output_name="a", loss="mse")
    other = graph_init.measure(model, data=tmp_path / "folder", output_name="a", loss="mse")
    assert one.to_json() == other.to_json()
    np.save(tmp_path / "folder" / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"x\.npy"):
        graph_init.measure(model, data=tmp_path / "folder")


def two_outputs() -> onnx.ModelProto:
    """x @ w gives a, and a @ v gives b after a Softmax."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "a"),
        helper.make_node("MatMul", ["a", "v"], ["logits"], "v"),
        helper.make_node("Softmax", ["logits"], ["b"], axis=-1),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal((3, 5)).astype(np.float32), "v"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k])
        for n, k in (("a", 3), ("b", 5))
    ]
    return model(nodes, inputs, outputs, weights)


def product_rows(rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((rows, 4)).astype(np.float32),
        "target": rng.standard_normal((rows, 3)).astype(np.float32),
    }


def test_targets_of_several_outputs_add_their_losses() -> None:
    given = product_rows(8)
    labels = np.arange(8) % 5
    first = graph_init.measure(two_outputs(), data=given, output_name="a")
    second = graph_init.measure(
        two_outputs(), data={"x": given["x"], "target": labels}, output_name="b"
    )
    named = {"x": given["x"], "target:a": given["target"], "target:b": labels}
    both = graph_init.measure(two_outputs(), data=named)
    assert both.loss == pytest.approx(first.loss + second.loss, rel=1e-6)
    assert both.loss_kind == "mse+cross-entropy"
    only = graph_init.measure(two_outputs(), data={"x": given["x"], "target:b": labels})
    assert only.to_json() == second.to_json()
    with pytest.raises(UsageError, match="target:b"):
        graph_init.measure(two_outputs(), data=given, output_name=["a", "b"])
    random = graph_init.measure(two_outputs(), output_name=["a", "b"])  # no target says otherwise
    assert random.loss_kind == "cross-entropy+cross-entropy"


@pytest.mark.parametrize("form", ["mappings", "pairs", "generator", "dataloader"])
def test_an_iterable_of_batches(form: str) -> None:
    parts = [product_rows(6, seed) for seed in range(7)]
    data: object = parts
    if form == "pairs":
        data = [(p["x"], p["target"]) for p in parts]
    elif form == "generator":
        data = (p for p in parts)
    elif form == "dataloader":
        torch = pytest.importorskip("torch")
        x, target = (np.concatenate([p[k] for p in parts]) for k in ("x", "target"))
        rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(target))
        data = torch.utils.data.DataLoader(rows, batch_size=6)
    expected = graph_init.measure(two_outputs(), data=parts[4], output_name="a")
    found = graph_init.measure(two_outputs(), data=data, output_name="a")  # type: ignore[arg-type]
    assert found.gradient_deviation == expected.gradient_deviation  # four are held out


def test_a_generator_gives_what_a_list_does() -> None:
    """Three batches to search on, for five steps; the last batch is shorter."""
    parts = [product_rows(6, seed) for seed in range(7)] + [product_rows(2)]
    found = [
        graph_init.initialize(
            two_outputs(), data=data, steps=5, tuner="metainit", output_name="a", loss="mse"
        )
        for data in (parts, parts, (p for p in parts))
    ]
    assert [r.steps for r in found] == [5, 5, 5]
    assert found[0].scales == found[1].scales == found[2].scales
    assert not any("rows" in note for note in found[0].notes)


def stateful() -> onnx.ModelProto:
    """y = (x·w)·scale + state[0], with rows in x alone; the state is (2, 3), the scale a number."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "w"),
        helper.make_node("Mul", ["a", "scale"], ["b"], "scale"),
        helper.make_node("Gather", ["state", "first"], ["s"], "first"),
        helper.make_node("Add", ["b", "s"], ["y"], "s"),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array(0), "first"),
    ]
    shapes: dict[str, list[str | int]] = {"x": ["n", 4], "scale": [], "state": [2, 3]}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    return model(nodes, inputs, outputs, weights)


def stateful_rows(rows: int, scale: Array) -> dict[str, Array]:
    state = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    return {**product_rows(rows), "state": state, "scale": scale}


@pytest.mark.parametrize("scale", [np.float32(0.5), np.array([0.5], np.float32)])
def test_numbers_and_states_are_in_every_batch(scale: Array) -> None:
    """All rows of x count, not two because the state has two; the loss is computed by hand."""
    data = stateful_rows(12, np.asarray(scale))
    weight = numpy_helper.to_array(stateful().graph.initializer[0])
    y = data["x"] @ weight * 0.5 + data["state"][0]
    for given in (data, [data]):
        found = graph_init.measure(stateful(), data=given)
        assert found.loss == pytest.approx(np.mean((y - data["target"]) ** 2), rel=1e-5)


def test_batches_are_drawn_from_the_rows() -> None:
    data = stateful_rows(60, np.asarray(np.float32(0.5)))
    result = graph_init.initialize(stateful(), data=data, updates=2)
    assert result.settings["batch_size"] == 16
    assert not result.notes
    plan = graph_init.Plan(schemes=["keep"], optimizers=["sgd"], updates=3, seeds=1)
    compared = graph_init.compare(stateful(), data, plan=plan)
    assert all(np.isfinite(r.final_loss) for r in compared.runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.zeros(2, np.float32)}, r"'scale' has shape \(2,\).*a single number"),
        ({"state": np.zeros((2, 4), np.float32)}, r"'state' has shape \(2, 4\)"),
        ({"target": np.float32(1)}, "'target' is a single number"),
    ],
)
def test_numbers_and_states_that_do_not_fit(change: dict[str, Array], message: str) -> None:
    data = stateful_rows(12, np.asarray(np.float32(0.5))) | change
    with pytest.raises(UsageError, match=message):
        graph_init.measure(stateful(), data=data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no batch"),
        ([(1, 2, 3)], "a batch is a mapping, or a sequence of x and target; got tuple of 3"),
        ([3], "got int"),
    ],
)
def test_batches_that_do_not_fit_are_refused(data: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        graph_init.measure(two_outputs(), data=data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "lacks the array 'target'"),
        ({"target": np.full((4, 5), 3)}, "3 classes"),
        ({"tokens": np.zeros((4, 6))}, "tokens"),
        ({"tokens": np.zeros((3, 5))}, "rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Array | None], message: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(token_model())
    arrays: dict[str, Array | None] = {
        n: np.zeros((4, 5), np.int64)
        for n in ("tokens", "position_ids", "attention_mask", "target")
    }
    given = {n: a for n, a in {**arrays, **change}.items() if a is not None}
    with pytest.raises(UsageError, match=message):
        graph_init.measure(path, data=given)


def logits(tmp_path: Path) -> Path:
    """Linear layers to 10 numbers a row, with nothing behind them."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((6, 8)).astype(np.float32),
        "w1": rng.standard_normal((8, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        initializer=[numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    path = tmp_path / "logits.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_class_numbers_make_the_loss_cross_entropy(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((12, 6)).astype(np.float32)
    labels = np.arange(12) % 10
    path = logits(tmp_path)
    found = graph_init.measure(path, data={"x": x, "target": labels})
    told = graph_init.measure(path, data={"x": x, "target": labels}, loss="cross-entropy")
    assert found.loss_kind == "cross-entropy" and found.loss == told.loss
    squares = {"x": x, "target": np.zeros((12, 10), np.float32)}
    assert graph_init.measure(path, data=squares).loss_kind == "mse"
    with pytest.raises(UsageError, match="--loss cross-entropy"):
        graph_init.measure(path, data={"x": x, "target": labels}, loss="mse")
