"""What lowering must leave out of graphs, whatever the numbers say."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from graph_init.autodiff.rules import RULES
from graph_init.errors import UnsupportedModelError
from graph_init.ir import OPSET, ZERO_DERIVATIVE, Builder, Value
from graph_init.lowering import PRIMITIVES, run
from graph_init.lowering import RULES as LOWERING
from tests import node_cases
from tests.operator_report import Outcome, backend_lowering


def lowered(op: str, shapes: list[tuple[int, ...]], **attributes: object) -> Builder:
    b = Builder()
    environment: dict[str, Value | None] = {"": None}
    for k, shape in enumerate(shapes):
        environment[f"x{k}"] = b.input(f"x{k}", TensorProto.FLOAT, shape, requires_grad=True)
    node = helper.make_node(op, [f"x{k}" for k in range(len(shapes))], ["y"], "it", **attributes)
    run(b, [node], environment, 19)
    return b


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("op", "kernel", "attributes"),
    [
        ("Conv", (6, 2), {"group": 2}),
        ("ConvTranspose", (4, 3), {"group": 2}),
        ("AveragePool", None, {}),
        ("LpPool", None, {}),
    ],
)
def test_grouped_convolutions_have_two_spatial_axes(
    n: int, op: str, kernel: tuple[int, ...] | None, attributes: dict[str, object]
) -> None:
    """The engine's gradient of all others writes outside its buffers."""
    shapes: list[tuple[int, ...]] = [(2, 4, *(5,) * n)]
    if kernel is None:
        attributes = {**attributes, "kernel_shape": [2] * n}
    else:
        shapes.append((*kernel, *(3,) * n))
    convolutions = [m for m in lowered(op, shapes, **attributes).nodes if m.op == "Conv"]
    assert convolutions
    for node in convolutions:
        assert node.inputs[0] is not None
        assert node.attrs["group"] == 1 or node.inputs[0].rank == 4


def test_what_moves_is_made_of_primitives_with_tangent_rules() -> None:
    """For every backend case: the lowered nodes through which a derivative flows."""
    assert RULES.keys() >= PRIMITIVES - ZERO_DERIVATIVE
    outcomes: list[Outcome] = backend_lowering()
    for outcome in outcomes:
        if outcome.status == "equal":
            b = node_cases.lower(outcome.case).builder
            moving = {
                n.op for n in b.nodes if any(o is not None and o.requires_grad for o in n.outputs)
            }
            # Gelu has a rule of its own.
            assert moving <= RULES.keys() | {"Gelu"}, outcome.case.name


def test_a_refusal_names_node_operator_and_remedy() -> None:
    with pytest.raises(UnsupportedModelError, match=r"node 'it' \(Det\).*--freeze"):
        lowered("Det", [(3, 3)])


def test_operators_that_are_newer_than_the_graphs_are_lowered() -> None:
    """Files of any opset are read as they are; only what merely turns bits has to be refused."""
    newer = {
        s.name: s
        for s in onnx.defs.get_all_schemas()
        if s.domain == "" and not onnx.defs.has(s.name, OPSET, "")
    }
    kept = {
        n
        for n, s in newer.items()
        if ("", n) not in LOWERING and not (s.has_function or s.has_context_dependent_function)
    }
    assert kept <= {"BitCast"}
