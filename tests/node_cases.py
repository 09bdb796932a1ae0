"""ONNX's own backend node tests as a check of lowering: what is tried, equal, excluded and why.

Every float input of a case is taken for a trainable tensor, so that rules are applied in full and
nothing is passed through to the engine untouched.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_init.engine.session import open_session
from graph_init.errors import GraphInitError
from graph_init.ir import FLOATS, Array, Builder, Value
from graph_init.lowering import Context, run

#: Inputs that say how to compute and are never parameters: constants in every exported graph.
CONTROLS: Mapping[str, Sequence[int]] = {
    "Resize": (1, 2),
    "Upsample": (1,),
    "Dropout": (1, 2),
    "Range": (0, 1, 2),
    "MelWeightMatrix": (3, 4),
    "OneHot": (1,),
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
}
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
#: Cases with an outcome that is random, or a text, and so has nothing to compare.
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"})


@dataclass(frozen=True)
class NodeCase:
    """One backend test: a model, its inputs and the outputs that it must give."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    expected: dict[str, Any]
    rtol: float
    atol: float

    @property
    def operator(self) -> str:
        """The operator that the case is about; its function body if it is ``…_expanded``."""
        nodes = self.model.graph.node
        return f"{nodes[0].domain or 'ai.onnx'}.{nodes[0].op_type}" if len(nodes) == 1 else ""

    @property
    def expanded(self) -> bool:
        return "_expanded" in self.name


@dataclass(frozen=True)
class Lowered:
    """A lowered case: ``inputs`` are the values that were left open, fed from ``feeds``."""

    builder: Builder
    inputs: dict[str, Value]
    feeds: dict[str, Array]
    outputs: dict[str, Value]


@functools.cache
def load() -> tuple[NodeCase, ...]:
    """All node cases of the installed onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    if cases[0].model is None:
        pytest.skip(f"onnx {onnx.__version__} has its node cases in files; install a newer onnx")
    return tuple(_cases(cases))


def _cases(cases: Sequence[Any]) -> Iterator[NodeCase]:
    for case in cases:
        names = [i.name for i in case.model.graph.input], [o.name for o in case.model.graph.output]
        inputs, outputs = case.data_sets[0]
        yield NodeCase(
            name=case.name,
            model=case.model,
            inputs=dict(zip(names[0], inputs, strict=False)),
            expected=dict(zip(names[1], outputs, strict=False)),
            rtol=case.rtol,
            atol=case.atol,
        )


def exclusion(case: NodeCase) -> str | None:
    """Why ``case`` says nothing about derivatives; None if it is to be tried."""
    nodes = case.model.graph.node
    if any(n.domain not in DOMAINS for n in nodes):
        return "operator of another domain"
    if any(n.op_type in RANDOM for n in nodes) or "training_dropout" in case.name:
        return "random outcome"
    if not any(_is_float(v) for v in case.expected.values()):
        return "no float output"
    if any(not isinstance(v, np.ndarray | np.generic | list) for v in case.inputs.values()):
        return "input is optional or absent"
    if any(isinstance(v, list) for v in case.inputs.values()):
        return "input is a sequence"
    if not any(_is_float(v) for v in case.inputs.values()):
        return "no float input"
    if any(n.op_type == "Mod" for n in nodes) and not all(
        np.isfinite(v).all() for v in case.inputs.values()
    ):
        return "Mod of infinities"
    return None


def _is_float(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        try:
            return helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) in FLOATS
        except (KeyError, ValueError):
            return False
    return False


def lower(case: NodeCase, precision: int = TensorProto.FLOAT) -> Lowered:
    """``case`` in primitives; raises GraphInitError if it is refused."""
    b = Builder(precision)
    environment: dict[str, Value | None] = {"": None}
    control = {
        n.input[i]
        for n in case.model.graph.node
        for i in CONTROLS.get(n.op_type, ())
        if i < len(n.input)
    }
    for initializer in case.model.graph.initializer:
        environment[initializer.name] = b.literal(numpy_helper.to_array(initializer))
    inputs, feeds = {}, {}
    for name, value in case.inputs.items():
        array = np.asarray(value)
        if _is_float(array) and name not in control:
            array = array.astype(helper.tensor_dtype_to_np_dtype(precision))
            inputs[name] = b.input(name, precision, array.shape, requires_grad=True)
            feeds[name] = array
            environment[name] = inputs[name]
        else:
            environment[name] = b.literal(array)
    opset = next(o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx"))
    run(b, case.model.graph.node, environment, opset, context=Context(batch_norm="model"))
    outputs = {n: v for n in case.expected if (v := environment.get(n)) is not None}
    return Lowered(b, inputs, feeds, outputs)


def compute(lowered: Lowered) -> dict[str, Array]:
    """The outputs, by the engine that ``auto`` stands for."""
    values = [v for v in lowered.outputs.values() if v.const is None]
    found = {n: v.const for n, v in lowered.outputs.items() if v.const is not None}
    names = [n for n, v in lowered.outputs.items() if v.const is None]
    if values:
        aliased = [lowered.builder.barrier(v) for v in values]
        session = open_session(lowered.builder.program(aliased))
        results = session(lowered.feeds)
        found.update(zip(names, (results[v.name] for v in aliased), strict=True))
    return {n: found[n] for n in lowered.outputs}


def check(case: NodeCase) -> str:
    """``equal``, ``different: …`` or ``refused: …``."""
    try:
        lowered = lower(case)
    except GraphInitError as error:
        return f"refused: {error}"
    found = compute(lowered)
    for name, expected in case.expected.items():
        if name not in found:
            return f"different: {name} is missing"
        wanted, got = np.asarray(expected), np.asarray(found[name])
        if got.shape != wanted.shape:
            return f"different: {name} has shape {got.shape} instead of {wanted.shape}"
        half = wanted.dtype.itemsize < 4 and _is_float(wanted)
        rtol, atol = (max(case.rtol, 1e-2), 1e-2) if half else (case.rtol, max(case.atol, 1e-6))
        try:
            np.testing.assert_allclose(
                got.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol
            )
        except AssertionError as error:
            return f"different: {name}: {' '.join(str(error).split())[:150]}"
    return "equal"
