"""Compare a model that was written with the one that it was made from, tensor by tensor.

    python tools/verify_written.py ORIGINAL WRITTEN SCALES.json [--shape INPUT=1,3,64,64] [--json]

Only the tensors that the scales file names may differ, each by its factor within the rounding of
its type. That holds for initializers (dense, sparse, in external data), for Constant nodes, and for
both in the branches of If and the bodies of Loop and Scan. Nodes, inputs, outputs, operator sets
and metadata are the same, except metadata under ``graph_init.``. A tensor that the original
computes from constants may have become an initializer; its node is gone then.

Then both run in ONNX Runtime on the same random inputs, if the original can be fed: the written
one must give outputs of the same shapes, with finite numbers where the original has them.

A line is printed for each difference. Exit status: 0 there is none, 1 there are, 2 a file cannot
be read. Nothing of graph_init is imported: what it does wrong, it would do wrong here, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.run_both import apart, one_line

OWN_METADATA = "graph_init."
#: Attributes of Constant that hold numbers without a tensor.
_NUMBERS = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
#: Parts of a graph and of a model that have to be the same.
_GRAPH = ("name", "doc_string", "input", "output", "value_info", "quantization_annotation")
_MODEL = ("producer_name", "producer_version", "domain", "model_version", "doc_string")
#: So many differences are listed.
_LISTED = 50


@dataclass(frozen=True)
class Held:
    """A tensor: where it stands, and its content. ``sparse`` tensors are given dense."""

    array: np.ndarray
    dtype: int
    sparse: bool = False


@dataclass
class Outline:
    """A model without the content of its tensors, which are by place and name in ``tensors``."""

    model: onnx.ModelProto
    folder: Path
    tensors: dict[tuple[str, str], Held] = field(default_factory=dict)


def outline(path: Path) -> Outline:
    """The outline of a file; ValueError if it is none."""
    try:
        model = onnx.load(str(path), load_external_data=False)
        found = Outline(model, path.parent)
        _empty(found, model.graph, "")
        for function in model.functions:
            _empty_nodes(found, function.node, f"function {function.name}/")
    except Exception as error:  # of the protobuf library, NumPy and the file system, of many kinds
        raise ValueError(f"{path}: {' '.join(str(error).split())[:200]}") from error
    return found


def _empty(found: Outline, graph: onnx.GraphProto, place: str) -> None:
    """Move the tensors out of ``graph`` and of the graphs in its nodes."""
    for tensor in graph.initializer:
        found.tensors[place, tensor.name] = _held(tensor, found.folder)
    for sparse in graph.sparse_initializer:
        found.tensors[place, sparse.values.name] = _dense(sparse, found.folder)
    del graph.initializer[:], graph.sparse_initializer[:]
    _empty_nodes(found, graph.node, place)


def _empty_nodes(found: Outline, nodes: Sequence[onnx.NodeProto], place: str) -> None:
    for number, node in enumerate(nodes):
        here = f"{place}{node.op_type} '{node.name or (node.output[0] if node.output else number)}'"
        for attribute in node.attribute:
            constant = node.op_type == "Constant" and node.output
            key = (place, node.output[0]) if constant else (f"{here}.{attribute.name}", "")
            if attribute.type == onnx.AttributeProto.TENSOR:
                found.tensors[key] = _held(attribute.t, found.folder)
                attribute.ClearField("t")
            elif constant and attribute.name in _NUMBERS:
                numbers = getattr(attribute, _NUMBERS[attribute.name])
                floats = attribute.name.startswith("value_float")
                array = np.asarray(numbers, np.float32 if floats else np.int64)
                kind = TensorProto.FLOAT if floats else TensorProto.INT64
                found.tensors[key] = Held(array, kind)
                attribute.ClearField(_NUMBERS[attribute.name])
            elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                found.tensors[key] = _dense(attribute.sparse_tensor, found.folder)
                attribute.ClearField("sparse_tensor")
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _empty(found, attribute.g, f"{here}.{attribute.name}/")
            for count, graph in enumerate(attribute.graphs):
                _empty(found, graph, f"{here}.{attribute.name}[{count}]/")


def _held(tensor: TensorProto, folder: Path) -> Held:
    return Held(numpy_helper.to_array(tensor, str(folder)), tensor.data_type)


def _dense(sparse: onnx.SparseTensorProto, folder: Path) -> Held:
    values = numpy_helper.to_array(sparse.values, str(folder))
    indices = numpy_helper.to_array(sparse.indices, str(folder))
    array = np.zeros(tuple(sparse.dims), values.dtype)
    places = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, array.shape)
    array[places] = values
    return Held(array, sparse.values.data_type, True)


def compare(original: Outline, written: Outline, scales: Mapping[str, float]) -> Iterator[str]:
    """What differs and may not, a line each."""
    became = _became_initializers(original, written, scales)
    yield from _structure(original.model, written.model, became)
    names = {name for _, name in original.tensors} | became
    for name in scales:
        if name not in names:
            yield f"the scales file names '{name}', which the original has not"
    for key in {**original.tensors, **written.tensors}:
        place, name = key
        shown = f"tensor {place}'{name}'" if name else f"the tensor of {place}"
        if name in became and key not in original.tensors:
            before = _computed(original, name)
        elif key not in original.tensors:
            yield f"{shown} is new"
            continue
        else:
            before = original.tensors[key]
        after = written.tensors.get(key)
        if after is None:
            yield f"{shown} is missing"
            continue
        problem = _changed(before, after, scales.get(name) if name else None)
        if problem:
            yield f"{shown} {problem}"


def _became_initializers(
    original: Outline, written: Outline, scales: Mapping[str, float]
) -> set[str]:
    """Scaled tensors that a node of the original computes, and that the written file holds."""
    computed = {name for node in original.model.graph.node for name in node.output if name}
    return {
        name
        for place, name in written.tensors
        if name in scales and name in computed and (place, name) not in original.tensors
    }


def _computed(original: Outline, name: str) -> Held:
    """The value that nodes of the original compute from its constants, by ONNX's reference."""
    graph = original.model.graph
    needed, nodes = {name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.insert(0, _with_constant(original, node))
            needed.update(node.input)
    constants = [
        numpy_helper.from_array(held.array, n)
        for (place, n), held in original.tensors.items()
        if not place and n in needed and not any(n in node.output for node in nodes)
    ]
    value = helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
    part = helper.make_model(helper.make_graph(nodes, "part", [], [value], initializer=constants))
    del part.opset_import[:]
    part.opset_import.extend(original.model.opset_import)
    (array,) = ReferenceEvaluator(part).run(None, {})
    return Held(array, helper.np_dtype_to_tensor_dtype(array.dtype))


def _with_constant(original: Outline, node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with the tensors that were moved out of its attributes."""
    whole = onnx.NodeProto()
    whole.CopyFrom(node)
    if node.op_type == "Constant":
        del whole.attribute[:]
        array = original.tensors["", node.output[0]].array
        whole.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
        return whole
    here = f"{node.op_type} '{node.name or node.output[0]}'"
    for attribute in whole.attribute:
        held = original.tensors.get((f"{here}.{attribute.name}", ""))
        if held is not None:
            attribute.t.CopyFrom(numpy_helper.from_array(held.array))
    return whole


def _changed(before: Held, after: Held, factor: float | None) -> str:
    """How a tensor differs from what it has to be: the same, or the factor's product; "" if not."""
    if before.dtype != after.dtype:
        return f"has the type {_type(after.dtype)}, not {_type(before.dtype)}"
    if before.array.shape != after.array.shape:
        return f"has the shape {after.array.shape}, not {before.array.shape}"
    if factor is None or factor == 1:
        if before.sparse != after.sparse and factor is None:
            return "is no longer stored as it was (sparse)"
        same = before.array.tobytes() == after.array.tobytes()
        if before.array.dtype == object:
            same = before.array.tolist() == after.array.tolist()
        if same:
            return ""
        count = int((before.array != after.array).sum())
        return f"differs in {count} of {before.array.size} elements, and has no factor"
    wanted = before.array.astype(np.float64) * factor
    found = after.array.astype(np.float64)
    unit, least = _rounding(before.array.dtype)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(found - wanted) <= unit * np.abs(wanted) + least)
    wrong &= ~((found == wanted) | (np.isnan(found) & np.isnan(wanted)))
    if not wrong.any():
        return ""
    first = tuple(int(k) for k in np.argwhere(wrong)[0])
    return (
        f"is not {factor:.9g} times the original in {int(wrong.sum())} of {wrong.size} elements "
        f"(the first at {first}: {found[first]:.9g}, not {wanted[first]:.9g})"
    )


def _rounding(dtype: np.dtype) -> tuple[float, float]:
    """The relative error of rounding to ``dtype``, and half of its least number."""
    if dtype.kind == "f":
        info = np.finfo(dtype)
        return float(info.eps) / 2 * (1 + 1e-9), float(info.smallest_subnormal) / 2
    if dtype.name == "bfloat16":
        return 2.0**-8 * (1 + 1e-9), 2.0**-134
    return 0.0, 0.0


def _type(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()


def _structure(before: onnx.ModelProto, after: onnx.ModelProto, became: set[str]) -> Iterator[str]:
    """Differences of anything but tensors."""
    if before.ir_version != after.ir_version and not (
        became and after.ir_version == max(before.ir_version, 4)
    ):
        yield f"ir_version is {after.ir_version}, not {before.ir_version}"
    yield from _fields(before, after, _MODEL, "model's ")
    for part in ("opset_import", "functions", "training_info"):
        yield from _listed(getattr(before, part), getattr(after, part), part)
    own = {p.key: p.value for p in after.metadata_props if not p.key.startswith(OWN_METADATA)}
    old = {p.key: p.value for p in before.metadata_props if not p.key.startswith(OWN_METADATA)}
    for key in sorted({k for k in {**old, **own} if old.get(k) != own.get(k)}):
        yield f"metadata '{key}' is {own.get(key)!r}, not {old.get(key)!r}"
    yield from _fields(before.graph, after.graph, _GRAPH, "graph's ")
    yield from _listed(
        list(_without(before.graph.node, became)),
        list(_without(after.graph.node, became)),
        "node",
    )


def _without(nodes: Sequence[onnx.NodeProto], became: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes, without outputs that became initializers (or were renamed as these did)."""
    for node in nodes:
        gone = [
            n in became or n.rstrip("_").removesuffix("_replaced") in became for n in node.output
        ]
        if any(gone):
            if all(g or not n for g, n in zip(gone, node.output, strict=True)):
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.output[:] = ["" if g else n for g, n in zip(gone, node.output, strict=True)]
            node = copy
        yield node


def _fields(before: Any, after: Any, names: Sequence[str], whose: str) -> Iterator[str]:
    for name in names:
        a, b = getattr(before, name), getattr(after, name)
        if (isinstance(a, str | int) and a != b) or (
            not isinstance(a, str | int) and _bytes(a) != _bytes(b)
        ):
            yield f"the {whose}{name} differs"


def _listed(before: Sequence[Any], after: Sequence[Any], what: str) -> Iterator[str]:
    if len(before) != len(after):
        yield f"there are {len(after)} of {what}, not {len(before)}"
    for number, (a, b) in enumerate(zip(before, after, strict=False)):
        if a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True):
            name = getattr(a, "name", "") or getattr(a, "op_type", "") or getattr(a, "domain", "")
            yield f"{what} {number} ('{name}') differs"


def _bytes(items: Sequence[Any]) -> list[bytes]:
    return [item.SerializeToString(deterministic=True) for item in items]


def verify(
    original: Path, written: Path, scales: Path, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[list[str], str]:
    """All differences, and whether the two ran. Raises ValueError if a file cannot be read."""
    try:
        factors = json.loads(scales.read_text("utf-8"))["scales"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{scales}: {one_line(error)}") from error
    found = list(compare(outline(original), outline(written), factors))
    more, ran = apart(original, written, shapes or {})
    return [*found, *more], ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("written", type=Path)
    parser.add_argument("scales", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=1,3,224,224")
    parser.add_argument("--json", action="store_true", help="an object: differences, ran")
    given = parser.parse_args()
    shapes = {}
    for text in given.shape:
        name, _, sizes = text.rpartition("=")
        shapes[name] = [int(s) for s in sizes.split(",") if s]
    try:
        found, ran = verify(given.original, given.written, given.scales, shapes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"differences": found, "ran": ran}))
    else:
        print(*found[:_LISTED], sep="\n" if found else "")
        if len(found) > _LISTED:
            print(f"… and {len(found) - _LISTED} more")
        print(f"{len(found)} differences; {ran}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
