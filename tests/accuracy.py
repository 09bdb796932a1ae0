"""The largest relative error of each operator's derivatives on an engine, against an oracle.

    python -m tests.accuracy oracle FILE.npz                       where PyTorch is installed
    python -m tests.accuracy ENGINE FILE.npz OUT.json [--double]   where the engine is

`tools/operator_accuracy.py` runs both for all engines.

The oracle of a case are its gradient, Hessian-vector product and mixed third derivative in float64:
by PyTorch's autograd on PyTorch's own function (:mod:`tests.torch_operators`), which shares nothing
with graph-init; and where there is none, by central differences of the order below, on ONNX's
reference implementation of the lowered case, whose values are compared with the standard's.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graph_init.engine.choice import VARIABLE, choose
from graph_init.errors import GraphInitError
from graph_init.ir import Array
from tests import engine_cases, engines, node_cases
from tests.derivatives import Derivatives
from tests.node_cases import NodeCase

PYTORCH, NUMERIC = "PyTorch", "numeric"
#: Numeric differentiation takes time: of an operator the smallest cases, and so many elements.
MOST, PLACES = 6, 40
#: Of older opsets some operators mean something else.
OLDEST = 13
#: Both compute the loss in float64.
SAME = 1e-9


def cases() -> Iterator[NodeCase]:
    """Those with derivatives: the standard's that are of one operator, and ours."""
    every = (*node_cases.load(), *engine_cases.standard(), *engine_cases.fused())
    return (c for c in every if not c.expanded and c.operator and not node_cases.exclusion(c))


def taken(case: NodeCase, precision: int) -> Derivatives | None:
    try:
        return engines.taken(case, precision)
    except GraphInitError:
        return None


def oracle(every: Iterator[NodeCase]) -> dict[str, Array]:
    """Arrays by ``case/oracle/order``; cases without a finite one are left out."""
    found: dict[str, Array] = {}
    left: dict[str, list[tuple[NodeCase, Derivatives]]] = {}

    def keep(case: NodeCase, kind: str, rows: list[Array]) -> None:
        if not any(np.isinf(r).any() for r in rows) and np.isfinite(rows[-1]).all():
            found.update({f"{case.name}/{kind}/{order}": row for order, row in enumerate(rows)})

    with np.errstate(all="ignore"):
        for case in every:
            asked = taken(case, TensorProto.DOUBLE)
            if asked is None:
                continue
            rows = by_pytorch(case, asked)
            if rows is None:
                left.setdefault(case.operator, []).append((case, asked))
            else:
                keep(case, PYTORCH, rows)
        for pairs in left.values():
            pairs.sort(key=lambda pair: sum(a.size for a in pair[1].point.values()))
            for case, asked in pairs[:MOST]:
                keep(case, NUMERIC, asked.numeric(PLACES))
    return found


def by_pytorch(case: NodeCase, asked: Derivatives) -> list[Array] | None:
    """The three vectors; None if PyTorch has no such function, or not all its derivatives.

    Raises AssertionError if its function has another value.
    """
    import torch

    from tests.torch_operators import FUNCTIONS, OutsidePytorchError

    node = case.model.graph.node[0]
    function = FUNCTIONS.get(node.op_type)
    old = any(o.version < OLDEST for o in case.model.opset_import if not o.domain)
    if function is None or node.domain or case.model.graph.initializer or old:
        return None
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()} | {
        "outputs": len(node.output)
    }
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in asked.point.items()}

    def operand(name: str) -> torch.Tensor | None:
        if not name:
            return None
        return leaves[name] if name in leaves else torch.tensor(np.asarray(case.inputs[name]))

    def along(kind: str) -> list[torch.Tensor]:
        return [torch.tensor(asked.seeds[f"{kind}:{n}"]) for n in asked.used]

    used = [leaves[n] for n in asked.used]

    def slopes(vectors: list[torch.Tensor], seeds: list[torch.Tensor]) -> list[torch.Tensor]:
        """The gradient of their inner product; it is a constant if nothing of it moves."""
        total = sum((v * s).sum() for v, s in zip(vectors, seeds, strict=True))
        if not isinstance(total, torch.Tensor) or not total.requires_grad:
            return [torch.zeros_like(x) for x in used]
        made = torch.autograd.grad(total, used, create_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if m is None else m for m, x in zip(made, used, strict=True)]

    try:
        outputs = function(attributes, *(operand(n) for n in node.input))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        loss = torch.zeros((), dtype=torch.float64)
        for y, c in zip(outputs, asked.weights, strict=False):
            if c is not None:
                loss = loss + (torch.tensor(c) * (y + y * y / 2)).sum()
        value = asked.at({}, 0.0)[0]
        assert not abs(value - loss.item()) > SAME * max(1.0, abs(value)), (
            f"{case.name}: PyTorch's function gives {loss.item()} instead of {value}"
        )
        g = slopes([loss], [torch.ones((), dtype=torch.float64)])
        hg = slopes(g, along("t"))
        third, moved = slopes(hg, along("u")), slopes(g, along("z"))
    except (OutsidePytorchError, NotImplementedError):
        return None
    except RuntimeError as error:
        if "not implemented" in str(error) or "double backwards" in str(error):
            return None
        raise
    mixed = [a + b for a, b in zip(third, moved, strict=True)]
    return [np.concatenate([v.detach().numpy().ravel() for v in row]) for row in (g, hg, mixed)]


def measure(engine: str, known: dict[str, Array], precision: int) -> dict[str, Any]:
    """What was measured on what, and by operator the number of cases by oracle and the errors.

    An operator's errors are the largest of each order.
    """
    os.environ[VARIABLE] = engine
    kinds = {name: kind for name, kind, _ in (key.split("/") for key in known)}
    found: dict[str, dict[str, Any]] = {}
    for case in cases():
        if case.name not in kinds:
            continue
        kind = kinds[case.name]
        row = found.setdefault(case.operator, {PYTORCH: 0, NUMERIC: 0, "errors": [0.0] * 3})
        row[kind] += 1
        row["errors"] = [
            max(p) for p in zip(row["errors"], errors(case, engine, known, precision), strict=True)
        ]
    return {"engine": choose(engine).version, "operators": dict(sorted(found.items()))}


def errors(case: NodeCase, engine: str, known: dict[str, Array], precision: int) -> list[float]:
    """The relative errors of the three orders."""
    asked = taken(case, precision)
    assert asked is not None, case.name
    found = []
    for order, got in enumerate(engines.computed(asked, precision, engine)):
        want = next(
            known[f"{case.name}/{k}/{order}"]
            for k in (PYTORCH, NUMERIC)
            if f"{case.name}/{k}/{order}" in known
        )
        there = np.isfinite(want)
        error = engines.error(got[there], want[there])
        assert np.isfinite(error), case.name
        found.append(error)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", help="oracle, or the name of an engine")
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--double", action="store_true", help="in float64, where the engine can")
    given = parser.parse_args()
    if given.what == "oracle":
        np.savez(given.file, **oracle(cases()))  # type: ignore[arg-type]
        return
    with np.load(given.file) as archive:
        known = {k: archive[k] for k in archive.files}
    precision = TensorProto.DOUBLE if given.double else TensorProto.FLOAT
    given.out.write_text(json.dumps(measure(given.what, known, precision)), "utf-8")


if __name__ == "__main__":
    main()
