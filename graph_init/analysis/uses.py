"""Finds every use of an initializer, also through reshapes and the like, with its kind and fans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from graph_init.analysis import kinds
from graph_init.analysis.facts import (
    Flips,
    constant_filled,
    flipped,
    is_mask,
    next_shape,
    wide_axes,
)
from graph_init.analysis.fans import Use, attribute, linear_use, table_use
from graph_init.analysis.gradient_paths import smooth
from graph_init.analysis.graph import (
    Depends,
    dependencies,
    label,
    live_keys,
    static_shape,
    tensor_shape,
)
from graph_init.model.reading import reads_shape_only

LAYERS = frozenset({"convolution kernel", "matrix"})  # kinds stored in one of two orders
SEARCH_DEPTH = 8  # nodes looked at on each side to recognise a written-out norm or gate


def _use_of(node: ir.Node, slot: int, path: tuple[str, ...]) -> Callable[[str, str], Use]:
    """(kind, words) → the use at that operand; of a running statistic with which one it is."""

    def use(kind: str, words: str) -> Use:
        held = kinds.STATISTICS[node.op_type, slot] if kind == "running statistic" else None
        return Use(kind, node, words, path, statistic=held)

    return use


class Uses:
    """Finds the uses of a model's initializers; holds what the model's graph says about values."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.live: set[tuple[str, int]] = live_keys(model)
        self.depends: dict[int, Depends] = dependencies(model)
        self.outputs: set[int] = {id(value) for value in model.graph.outputs}
        self.smooth: set[int] = smooth(model)

    # ---- facts about values

    def is_data(self, value: ir.Value | None) -> bool:
        return value is not None and Depends.DATA in self.flags(value)

    def flags(self, value: ir.Value | None) -> Depends:
        return Depends.NOTHING if value is None else self.depends.get(id(value), Depends.DATA)

    def readers(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """Live nodes that read the value's numbers, with the slot."""
        return [
            (use.node, use.idx)
            for use in value.uses()
            if ("node", id(use.node)) in self.live and not reads_shape_only(use.node, use.idx)
        ]

    def reaches(self, start: ir.Value, goal: frozenset[str], through: frozenset[str]) -> bool:
        """Whether a value flows into a ``goal`` operator by ``through`` operators only."""
        pending, seen = [start], set()
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            for node, _ in self.readers(value):
                if node.op_type in goal:
                    return True
                if node.op_type in through:
                    pending.extend(node.outputs)
        return False

    def reaches_rotation(self, node: ir.Node, initializer: ir.Value) -> bool:
        """Whether the result meets Sin or Cos before a weight other than ``initializer``."""
        pending, seen = list(node.outputs), {id(initializer)}
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            for reader, slot in self.readers(value):
                if reader.op_type in ("Sin", "Cos"):
                    return True
                others = [x for place, x in enumerate(reader.inputs) if place != slot]
                met = any(
                    x is not None
                    and x.is_initializer()
                    and x is not initializer
                    and Depends.WEIGHT in self.flags(x)
                    for x in others
                )
                if not met and reader.op_type in kinds.VIEWS | kinds.ELEMENTWISE | {"Concat"}:
                    pending.extend(reader.outputs)
        return False

    def after_norm(self, value: ir.Value | None) -> bool:
        """Whether the value comes from a written-out norm (a square root, no layer in between)."""
        pending = [(value, 0)]
        while pending:
            at, depth = pending.pop()
            node = None if at is None or not self.is_data(at) else at.producer()
            if node is None or depth > SEARCH_DEPTH or node.op_type in kinds.LINEAR:
                continue
            if node.op_type in kinds.NORMS or node.op_type in ("Sqrt", "Rsqrt", "Reciprocal"):
                return True
            if node.op_type == "Div" and node.inputs[1] is not None:
                below = node.inputs[1].producer()
                if below is not None and below.op_type == "Sqrt":
                    return True
            if node.op_type in kinds.VIEWS | {"Mul", "Add", "Div", "Sub"}:
                # Two data operands of Add are a residual sum: a norm on its far side is another's.
                data = [x for x in node.inputs if self.is_data(x)]
                if node.op_type != "Add" or len(data) == 1:
                    pending.extend((x, depth + 1) for x in data)
        return False

    # ---- the walk

    def of(self, value: ir.Value) -> list[Use]:
        """Every live use of an initializer, seen through views; at most one for each slot."""
        shape = static_shape(value) or ()
        found: list[Use] = []
        pending: list[tuple[ir.Value, tuple[str, ...], tuple[int, ...] | None, Flips]]
        pending = [(value, (), shape, (False, False))]
        seen: set[tuple[int, int]] = set()
        while pending:
            at, path, now, flips = pending.pop(0)
            for node, slot in self.readers(at):
                if (id(node), slot) in seen:
                    continue
                seen.add((id(node), slot))
                if self.passes(node, slot, now):
                    turned = flipped(node, flips)
                    for output in node.outputs:
                        after = next_shape(node, output, now)
                        pending.append((output, (*path, node.op_type), after, turned))
                    continue
                use = self.classify(value, node, slot, shape=now, path=path)
                # Stored order = the order that the node reads, undone by the Transposes between.
                convolution = use.kind == "convolution kernel"
                if use.kind in LAYERS and flips[0 if convolution else 1]:
                    use = replace(use, transposed=not use.transposed)
                if use.kind == "recurrent" and use.fan_in is None and len(shape) >= 2:
                    # Cut into gates on the way, so that the node's shape is not known; the axes
                    # are: each gate's rows, and what they read.
                    rows, columns = shape[-2:] if not flips[1] else shape[:-3:-1]
                    use = replace(use, fan_in=columns, fan_out=rows)
                found.append(use)
        return found

    def passes(self, node: ir.Node, slot: int, shape: tuple[int, ...] | None) -> bool:
        """Whether the tensor goes on through this node as the same parameter."""
        if node.op_type in kinds.VIEWS or node.op_type == "Pad":
            return slot == 0  # of a table that Pad fills up to a length, Slice takes a part
        others = [x for place, x in enumerate(node.inputs) if place != slot]
        if any(self.is_data(x) for x in others):
            return False
        if node.op_type == "Concat":
            return True
        if node.op_type == "Gather" and slot == 0:
            # One fixed index selects a part (a packed weight's row); many are a table's lookup.
            picked = static_shape(node.inputs[1]) if node.inputs[1] is not None else None
            return attribute(node, "axis", 0) != 0 or picked in ((), (1,))
        if node.op_type in kinds.ELEMENTWISE:
            # Weights computed from initializers, such as W · 0.1 or V / ‖V‖ · g.
            width = wide_axes(shape or ())
            partner = max((wide_axes(static_shape(x) or ()) for x in others if x), default=0)
            return width > 1 or (width == 1 and partner == 0 and node.op_type in ("Mul", "Div"))
        return False

    def classify(
        self,
        initializer: ir.Value,
        node: ir.Node,
        slot: int,
        shape: tuple[int, ...] | None,
        path: tuple[str, ...],
    ) -> Use:
        """The use by one node that decides; ``shape`` is the tensor's as that node reads it."""
        op = node.op_type
        size = initializer.const_value.size if initializer.const_value is not None else 0
        rank = len(initializer.const_value.shape) if initializer.const_value is not None else 0

        use = _use_of(node, slot, path)
        if op in kinds.QUANTIZED or op.startswith("QLinear"):
            return use("quantized", f"read by {op} '{label(node)}', left alone")
        if size == 1 and ("Expand" in path or rank == 0) and op != "PRelu":
            return use("constant", f"a single number for {op} '{label(node)}'")
        if self.is_placeholder(initializer, node, slot):
            return use("constant", f"neutral scale or shift of {op} '{label(node)}'")
        kind = kinds.SLOTS.get((op, slot))
        if op == "Attention" and node.domain != "com.microsoft":
            kind = None  # the standard's Attention takes three tensors, no weights
        elif op == "Attention" and slot == 1:
            kind = "matrix"
        if kind in ("embedding", "position"):
            return table_use(kind, node, shape, path)
        if kind in ("matrix", "convolution kernel", "recurrent"):
            return linear_use(node, slot, shape, path=path, use=use)
        if kind is not None:
            words = kind
            if kind == "running statistic":
                words = f"running {kinds.STATISTICS[op, slot]}"
            return use(kind, f"{words} of {op} '{label(node)}'")
        return self.operand(initializer, node, slot, shape=shape, path=path)

    def operand(
        self,
        initializer: ir.Value,
        node: ir.Node,
        slot: int,
        shape: tuple[int, ...] | None,
        path: tuple[str, ...],
    ) -> Use:
        """The use by a node whose operands have no fixed part to play, such as MatMul or Add."""
        op, use = node.op_type, _use_of(node, slot, path)
        if op in kinds.SETTINGS:
            return use("constant", f"fixed operand of {op} '{label(node)}'")
        if op in kinds.MATRIX_PRODUCTS:
            if self.is_rotation(node, slot, initializer):
                return use("constant", f"rotary frequencies, Sin or Cos follow '{label(node)}'")
            if "Pad" in path and "Slice" in path:
                words = f"relative positions, padded and cut to a length, of {op} '{label(node)}'"
                return replace(table_use("position", node, shape, path), words=words)
            return linear_use(node, slot, shape, path=path, use=use)
        if op in ("Gather", "GatherND", "GatherElements") and slot == 0:
            lookup = "embedding" if self.is_data(node.inputs[1]) else "position"
            return table_use(lookup, node, shape, path)
        if op == "Concat":
            return use("token", f"joined to activations by Concat '{label(node)}'")
        rule = self.RULES.get(op)
        if rule is not None:
            kind, words = rule(self, initializer, node, slot)
            return use(kind, words)
        return use("other", f"read by {op} '{label(node)}'")

    # ---- rules of single operators: (uses, initializer, node, slot) -> kind, words

    def is_rotation(self, node: ir.Node, slot: int, initializer: ir.Value) -> bool:
        partners = [self.flags(x) for place, x in enumerate(node.inputs) if place != slot]
        kept = Depends.WEIGHT | (
            Depends.NOTHING if node.op_type in ("Mul", "Div") else Depends.FLOAT_DATA
        )
        # A partner that no input reaches is a table of positions, even if it is stored as floats.
        met = any(flags & kept for flags in partners if flags & Depends.DATA)
        return not met and self.reaches_rotation(node, initializer)

    def is_placeholder(self, initializer: ir.Value, node: ir.Node, slot: int) -> bool:
        """A norm's scale of ones or shift of zeros, where the real ones follow as Mul and Add."""
        if node.op_type not in kinds.NORMS or slot not in (1, 2) or initializer.const_value is None:
            return False
        neutral = 1.0 if slot == 1 else 0.0
        if not constant_filled(initializer.const_value, neutral):
            return False
        value = node.outputs[0]
        for _ in range(SEARCH_DEPTH):
            readers = self.readers(value)
            if len(readers) != 1:
                return False
            reader, place = readers[0]
            if reader.op_type == "Mul":
                other = reader.inputs[1 - place]
                return not self.is_data(other) and Depends.WEIGHT in self.flags(other)
            if reader.op_type not in kinds.VIEWS:
                return False
            value = reader.outputs[0]
        return False

    def add_rule(self, initializer: ir.Value, node: ir.Node, slot: int) -> tuple[str, str]:
        where = f"{node.op_type} '{label(node)}'"
        tensor = initializer.const_value
        partner = node.inputs[1 - slot]
        assert tensor is not None
        shape = tensor_shape(tensor)
        if not self.is_data(partner) or tensor.size == 1:
            producer = partner.producer() if partner is not None else None
            linear = producer is not None and producer.op_type in kinds.LINEAR
            if linear and self.is_data(partner) and len(shape) > 0:
                return "bias", f"bias of one channel, added to {where}"
            if tensor.size == 1:
                return "constant", f"a single number for {where}"
            roots = frozenset({"Sqrt", "Reciprocal", "Rsqrt"})
            if self.reaches(node.outputs[0], roots, kinds.VIEWS):
                return "running statistic", f"variance of a written-out batch norm, {where}"
            return ("bias" if wide_axes(shape) <= 1 else "other"), f"added by {where}"
        if node.op_type == "Sub" and slot == 1:
            if wide_axes(shape) <= 1:
                return "running statistic", f"mean subtracted by {where}"
            return "constant", f"fixed table subtracted by {where}; --trainable overrules"
        softmax = frozenset({"Softmax", "LogSoftmax"})
        on_scores = self.reaches(node.outputs[0], softmax, kinds.VIEWS | {"Add", "Where"})
        if is_mask(tensor) and (
            not constant_filled(tensor, 0.0) or (on_scores and wide_axes(shape) > 1)
        ):
            return "constant", f"attention mask added by {where}; --trainable overrules"
        if wide_axes(shape) > 1:
            return self.paired(node, slot, initializer) or (
                "position",
                f"table of shape {shape} added by {where}",
            )
        if self.after_norm(partner):
            return "norm shift", f"shift of a written-out norm, {where}"
        return "bias", f"bias added by {where}"

    def mul_rule(self, initializer: ir.Value, node: ir.Node, slot: int) -> tuple[str, str]:
        where = f"{node.op_type} '{label(node)}'"
        tensor = initializer.const_value
        partner = node.inputs[1 - slot]
        assert tensor is not None
        if tensor.size == 1:
            return "constant", f"a single number for {where}"
        if self.is_rotation(node, slot, initializer):
            return "constant", f"rotary frequencies, sine and cosine follow {where}"
        if wide_axes(tensor_shape(tensor)) > 1:
            return self.paired(node, slot, initializer) or (
                "constant",
                f"fixed table multiplied by {where}; --trainable overrules",
            )
        if node.op_type == "Div" and slot == 1 and Depends.WEIGHT not in self.flags(partner):
            return "constant", f"standardises the input in {where}; --trainable overrules"
        if self.is_data(partner) and self.after_norm(partner):
            return "norm gain", f"gain of a written-out norm, {where}"
        return "gain", f"gain of {where}"

    def paired(self, node: ir.Node, slot: int, initializer: ir.Value) -> tuple[str, str] | None:
        """Kind and words of a table that scales, or shifts, what another of its shape shifts."""
        others = ("Add", "Sub") if node.op_type in ("Mul", "Div") else ("Mul", "Div")
        shape = static_shape(initializer)
        before = node.inputs[1 - slot]
        maker = before.producer() if before is not None else None
        after = [reader for reader, _ in self.readers(node.outputs[0])]
        for other in [maker, *(after if len(after) == 1 else [])]:
            if other is None or other.op_type not in others:
                continue
            tables = [x for x in other.inputs if x is not None and x.is_initializer()]
            if not any(static_shape(x) == shape for x in tables):
                continue
            if self.after_norm(before):
                kind = "norm gain" if node.op_type in ("Mul", "Div") else "norm shift"
                return kind, f"of a written-out norm, {node.op_type} '{label(node)}'"
            together = f"{node.op_type} '{label(node)}' and {other.op_type} '{label(other)}'"
            return "constant", f"standardises by tables in {together}; --trainable overrules"
        return None

    def root_rule(self, initializer: ir.Value, node: ir.Node, slot: int) -> tuple[str, str]:
        tensor = initializer.const_value
        vector = tensor is not None and wide_axes(tensor_shape(tensor)) <= 1
        kind = "running statistic" if vector else "other"
        return kind, f"read by {node.op_type} '{label(node)}'"

    RULES: dict[str, Callable[[Uses, ir.Value, ir.Node, int], tuple[str, str]]] = {
        "Add": add_rule,
        "Sub": add_rule,
        "Mul": mul_rule,
        "Div": mul_rule,
        "Sqrt": root_rule,
        "Reciprocal": root_rule,
        "Rsqrt": root_rule,
    }


def best(uses: list[Use]) -> Use:
    """The most weight-like of the uses; the first one among equals."""
    return min(uses, key=lambda use: kinds.RANK[use.kind])
