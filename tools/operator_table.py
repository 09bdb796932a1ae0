"""Write docs/operators.md: every operator, how it is handled, and what the tests say of it.

python tools/operator_table.py          write the table
python tools/operator_table.py --check  fail if the written one is stale
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.ir import MICROSOFT, ZERO_DERIVATIVE
from graph_init.lowering import PRIMITIVES, RULES
from graph_init.lowering.registry import UNSUPPORTED
from tests import operator_report
from tests.operator_report import Outcome
from tools import operator_accuracy

TABLE = ROOT / "docs" / "operators.md"
#: Operators with float results that stand for no function of their inputs' numbers.
SOURCES = {
    **dict.fromkeys(
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
        "Bernoulli Multinomial".split(),
        "random numbers",
    ),
    **dict.fromkeys(
        "BlackmanWindow HammingWindow HannWindow MelWeightMatrix Range EyeLike".split(),
        "a constant of its sizes",
    ),
    "DequantizeLinear": "quantized weights are left as they are",
    "Optional": "a wrapper",
    "TfIdfVectorizer": "counts of texts",
    "ConvInteger": "integers",
    "MatMulInteger": "integers",
    "BitCast": "bits",
}
FOLDED = frozenset(
    "If Loop Scan SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SplitToSequence ConcatFromSequence SequenceMap".split()
)
FLOATS = frozenset({"tensor(float)", "seq(tensor(float))", "optional(tensor(float))"})


@dataclass(frozen=True)
class Row:
    operator: str
    since: str
    kind: str
    how: str


def _types(schema: onnx.defs.OpSchema, parameters: Iterable[object]) -> set[str]:
    constraints = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    found: set[str] = set()
    for p in parameters:
        name = p.type_str  # type: ignore[attr-defined]
        found |= constraints.get(name, {name})
    return found


def _row(schema: onnx.defs.OpSchema) -> Row:
    op, since = schema.name, str(schema.since_version)
    rule = RULES.get(("", op))
    source = f"`{rule.__module__.rpartition('.')[2]}`" if rule is not None else ""
    if op in UNSUPPORTED:
        moving = FLOATS & _types(schema, schema.outputs)
        kind = "not supported" if moving else "not differentiable"
        return Row(op, since, kind, UNSUPPORTED[op])
    if op in FOLDED:
        return Row(op, since, "folded", f"{source or 'function body'}: gone before differentiation")
    if op in ZERO_DERIVATIVE and rule is None:
        return Row(op, since, "zero derivative", "its result does not move with its inputs")
    if op in SOURCES:
        return Row(op, since, "no derivative", SOURCES[op])
    if not FLOATS & _types(schema, schema.outputs):
        return Row(op, since, "no derivative", "no float result")
    if not FLOATS & _types(schema, schema.inputs):
        return Row(op, since, "no derivative", "no float input")
    if op in PRIMITIVES:
        return Row(op, since, "primitive", "the engine's gradient, our tangent rule")
    if rule is not None:
        return Row(op, since, "lowered", source)
    if schema.has_function or schema.has_context_dependent_function:
        return Row(op, since, "lowered", "the standard's own function body")
    return Row(op, since, "not supported", "no rule")


def standard_rows() -> list[Row]:
    schemas = [s for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated]
    return sorted((_row(s) for s in schemas), key=lambda r: r.operator)


def _by_operator(outcomes: Iterable[Outcome]) -> dict[str, collections.Counter[str]]:
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for o in outcomes:
        found[o.case.operator][o.status] += 1
    return found


def _errors() -> dict[str, str]:
    """By operator its largest errors over all engines in float32 and its oracle, as cells."""
    rows = json.loads(operator_accuracy.DATA.read_text("utf-8"))
    single = [r["operators"] for r in rows if r["how"] != "float64"]
    found = {}
    for name in sorted({n for row in single for n in row}):
        mine = [row[name] for row in single if name in row]
        worst = [max(o["errors"][order] for o in mine) for order in range(3)]
        oracle = ", ".join(f"{mine[0][k]} {k}" for k in ("PyTorch", "numeric") if mine[0][k])
        found[name] = " | ".join([*map(operator_accuracy.short, worst), oracle])
    return found


def _share(counter: collections.Counter[str]) -> str:
    tried = sum(counter[k] for k in ("equal", "different", "refused"))
    return f"{counter['equal']}/{tried}" if tried else "–"


def _counts(title: str, outcomes: list[Outcome]) -> list[str]:
    lines = [f"{title}: {len(outcomes)} cases.", "", "| outcome | cases |", "|---|---:|"]
    counter = operator_report.counts(outcomes)
    lines += [f"| {k} | {counter[k]} |" for k in ("equal", "different", "refused")]
    lines += [f"| {k} | {v} |" for k, v in sorted(counter.items()) if k.startswith("excluded")]
    return [*lines, ""]


def render() -> str:
    """The text of docs/operators.md."""
    rows = standard_rows()
    kinds = collections.Counter(r.kind for r in rows)
    handled = kinds["primitive"] + kinds["lowered"]
    differentiable = handled + kinds["not supported"]
    report = operator_report
    lowering = _by_operator([*report.backend_lowering(), *report.engine_lowering("standard")])
    derivatives = _by_operator(
        [*report.backend_derivatives(), *report.engine_derivatives("standard")]
    )
    lines = [
        "# Operators",
        "",
        "Written by `python tools/operator_table.py`; do not edit. onnx "
        f"{onnx.__version__}, opset {onnx.defs.onnx_opset_version()}.",
        "",
        f"Of {differentiable} differentiable float operators of the standard, {handled} "
        f"({100 * handled / differentiable:.1f}%) are handled. Not handled: "
        + ", ".join(r.operator for r in rows if r.kind == "not supported")
        + ".",
        "",
        "- **primitive**: differentiated as it is, any number of times",
        "- **lowered**: rewritten into primitives, by a rule of ours or the standard's own body",
        "- **folded**: control flow and sequences whose course is known from shapes and constants",
        "- **zero derivative**: may stand anywhere; the gradient stops there",
        "- **no derivative**: gives or takes no float that could move",
        "- **not differentiable**, **not supported**: refused by name if a trainable parameter "
        "lies before it",
        "",
        "*values*: backend tests of ONNX, and cases of ours checked against ONNX Runtime's own "
        "kernels, in which the lowered model gives the expected outputs in the engine. "
        "*derivatives*: those in which gradient, tangent and mixed tangent agree with "
        f"central differences in float64 to {operator_report.TOLERANCE:g}, on ONNX's reference "
        "implementation.",
        "",
        "*g*, *Hv*, *third*: the largest relative error of gradient, Hessian-vector product and "
        "mixed third derivative in float32, over all engines "
        "([which](engines.md#how-exact-they-are)), against the oracle: PyTorch's own function "
        "under its autograd in float64, or where it has none, central differences; with the number "
        "of cases (`python tools/operator_accuracy.py`).",
        "",
        "## ai.onnx",
        "",
        "| operator | since opset | handled | how | values | derivatives | g | Hv | third | "
        "oracle |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---|",
    ]
    errors = _errors()
    none = "– | – | – | –"
    for r in rows:
        name = f"ai.onnx.{r.operator}"
        lines.append(
            f"| {r.operator} | {r.since} | {r.kind} | {r.how} | {_share(lowering[name])} | "
            f"{_share(derivatives[name])} | {errors.get(name, none)} |"
        )
    lines += ["", "## com.microsoft", ""]
    lines += [
        "Compared with ONNX Runtime's own kernels.",
        "",
        "| operator | rule | values | derivatives | g | Hv | third | oracle |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    lowering = _by_operator(report.engine_lowering("fused"))
    derivatives = _by_operator(report.engine_derivatives("fused"))
    for (domain, op), rule in sorted(RULES.items()):
        if domain == MICROSOFT:
            name = f"{MICROSOFT}.{op}"
            source = rule.__module__.rpartition(".")[2]
            lines.append(
                f"| {op} | `{source}` | {_share(lowering[name])} | {_share(derivatives[name])} | "
                f"{errors.get(name, none)} |"
            )
    lines += ["", "## Cases", ""]
    lines += _counts("ONNX backend tests, values", report.backend_lowering())
    lines += _counts(
        "ONNX backend tests without expanded function bodies, derivatives",
        report.backend_derivatives(),
    )
    for which, title in (
        ("standard", "Settings that the backend tests leave out"),
        ("fused", "Operators of com.microsoft"),
    ):
        lines += _counts(f"{title}, values", report.engine_lowering(which))
        lines += _counts(f"{title}, derivatives", report.engine_derivatives(which))
    refused = [o for o in report.backend_lowering() if o.status == "refused"]
    lines += ["Refused, by message:", ""]
    reasons = collections.Counter(_without_name(o.why) for o in refused)
    lines += [f"- {count} × {why}" for why, count in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _without_name(message: str) -> str:
    """The message from the operator on."""
    return message[message.index("(") :] if "(" in message else message


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    text = render()
    if parser.parse_args().check:
        if not TABLE.exists() or TABLE.read_text("utf-8") != text:
            print(f"{TABLE} is stale: run python tools/operator_table.py", file=sys.stderr)
            return 1
        return 0
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
