"""Files of quantized weights, as onnxruntime's own quantizer makes them, and of mixed ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.cli import cli
from graph_init.errors import UnsupportedModelError
from tests import small_models

quantization = pytest.importorskip("onnxruntime.quantization")


class Batches(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
    """Random inputs for the calibration."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._left = [{"x": rng.standard_normal((2, 3, 8, 8), np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


def statically(form: str) -> Callable[[Path, Path], None]:
    def make(source: Path, target: Path) -> None:
        chosen = quantization.QuantFormat[form]
        quantization.quantize_static(str(source), str(target), Batches(), quant_format=chosen)

    return make


def dynamically(source: Path, target: Path) -> None:
    quantization.quantize_dynamic(str(source), str(target))


def in_blocks(source: Path, target: Path) -> None:
    """A layer of four bits, written by hand."""
    del source
    packed = np.random.default_rng(0).integers(0, 255, (4, 1, 8), np.uint8)
    scales = np.ones(4, np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "q", "s"],
        ["y"],
        "layer",
        domain="com.microsoft",
        K=16,
        N=4,
        bits=4,
        block_size=16,
    )
    model = small_models.model(
        [node],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(packed, "q"), numpy_helper.from_array(scales, "s")],
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, target)


FORMS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "dynamic": (dynamically, "quantized dynamically: "),
    "QDQ": (statically("QDQ"), "quantized (QDQ: "),
    "QOperator": (statically("QOperator"), "quantized to integer operators (QOperator): "),
    "blocks": (in_blocks, "quantized block by block to a few bits: 1 MatMulNBits"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_file_is_called_so(tmp_path: Path, form: str) -> None:
    source, target, out = (tmp_path / n for n in ("float.onnx", "quantized.onnx", "out.onnx"))
    onnx.save(small_models.plain_cnn(depth=3), source)
    make, words = FORMS[form]
    make(source, target)
    for arguments in (["measure", str(target)], ["initialize", str(target), "-o", str(out)]):
        found = CliRunner().invoke(cli, arguments)
        assert found.exit_code == 4
        (line,) = found.stderr.strip().splitlines()
        assert line.startswith(f"error: {target}: the model is {words}")
        assert "Initialise the float model" in line
    assert not out.exists()
    rows = {p.kind for p in graph_init.inspect(target).parameters}
    assert "quantized" in rows


def test_float_weights_behind_a_quantized_layer_are_measured() -> None:
    rng = np.random.default_rng(0)
    model = small_models.model(
        [
            helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "head"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(rng.integers(-9, 9, (6, 6)).astype(np.int8), "q"),
            numpy_helper.from_array(np.array(0.1, np.float32), "s"),
            numpy_helper.from_array(rng.standard_normal((6, 3)).astype(np.float32), "head"),
        ],
    )
    assert [p.name for p in graph_init.measure(model).parameters] == ["head"]


def test_weights_before_a_rounding_do_not_count() -> None:
    """All that is float lies before the layer that rounds, so that no gradient reaches it."""
    rng = np.random.default_rng(0)
    model = small_models.model(
        [
            helper.make_node("MatMul", ["x", "first"], ["a"]),
            helper.make_node("DynamicQuantizeLinear", ["a"], ["b", "s", "z"]),
            helper.make_node("MatMulInteger", ["b", "q"], ["c"]),
            helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [
            numpy_helper.from_array(rng.integers(0, 9, (6, 6)).astype(np.uint8), "q"),
            numpy_helper.from_array(rng.standard_normal((6, 6)).astype(np.float32), "first"),
        ],
    )
    with pytest.raises(UnsupportedModelError, match="^the model is quantized dynamic"):
        graph_init.measure(model)
