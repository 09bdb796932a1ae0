"""The graph analyzer: what each initializer is, whether it is trained and scaled, and why."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graph_init.analysis import kinds, tables
from graph_init.analysis.facts import constant_filled, wide_axes
from graph_init.analysis.fans import Use, attribute
from graph_init.analysis.following import activation_after, norm_after
from graph_init.analysis.gradient_paths import first_step
from graph_init.analysis.graph import label, tensor_shape, to_networkx
from graph_init.analysis.uses import Uses, best
from graph_init.errors import ModelFileError, UsageError, printable
from graph_init.model.constants import ARRANGED_BY, COMPUTED_BY
from graph_init.model.reading import dtype_name

__all__ = ["Parameter", "analyze", "to_networkx"]

SAMPLE = 64  # elements compared before two whole matrices are


@dataclass(frozen=True)
class Parameter:
    """One initializer of the model and what the analysis found.

    ``path`` lists the operators between the initializer and the node that decides its kind.
    ``transposed`` is true where a weight is stored as (in, out), as in y = x @ W: fan-in is axis
    -2. It is false where axis 0 is the output (Gemm with transB, Conv) and for lookup tables, whose
    fan-in is 1 because each output reads one entry. ``gain_activation`` is the operator type of the
    nonlinearity behind the layer; x · f(x) written out is called Gelu, Silu, Mish or HardSwish;
    ``gain_slope`` is what its node says of its slope for negative arguments. The first ``stacked``
    axes of a weight count matrices; a kernel's output channels are in ``groups``. ``statistic`` is
    ``mean`` or ``variance`` for a running statistic, by the operand that reads it. ``undone_by`` is
    the operator type of a norm right behind the layer, which undoes any factor on its weights.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    scalable: bool
    reason: str
    consumers: tuple[str, ...]
    tied_to: str | None = None
    fan_in: int | None = None
    fan_out: int | None = None
    path: tuple[str, ...] = ()
    gain_activation: str | None = None
    gain_slope: float | None = None
    stacked: int = 0
    groups: int = 1
    transposed: bool = False
    statistic: str | None = None
    undone_by: str | None = None

    def to_json(self) -> dict[str, object]:
        """The entry of ``inspect --json``."""
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "trainable": self.trainable,
            "scalable": self.scalable,
            "reason": self.reason,
            "consumers": list(self.consumers),
            "tied_to": self.tied_to,
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
        }


def analyze(
    model: ir.Model,
    trainable: Sequence[str] = (),
    freeze: Sequence[str] = (),
    trained: Mapping[str, bool] | None = None,
    buffers: Set[str] = frozenset(),
) -> list[Parameter]:
    """What every initializer of the main graph is, in the order of the initializers.

    ``trainable`` and ``freeze`` are regular expressions searched for in the names; they overrule
    the analysis, and ``freeze`` wins. A framework's model knows its parameters: ``trained`` says
    of each whether it is trained, other initializers are constants, and ``trainable`` makes none
    of them, nor of its ``buffers``, a parameter. Functions must be inlined and Constant weights
    turned into initializers. Raises UsageError for a bad expression and for one that matches no
    initializer.
    """
    values = model.graph.initializers
    forced = chosen("--trainable", trainable, list(values))
    if trained is not None:
        forced = {n for n in forced if n in trained and n not in buffers}
    frozen = chosen("--freeze", freeze, list(values))
    finder = Uses(model)
    embeddings: dict[str, ir.TensorProtocol] = {}
    uses = {}
    for name, value in values.items():
        with as_model_error(name):
            uses[name] = finder.of(value)
    for name, value in values.items():
        of_kind = {use.kind for use in uses[name]}
        if "embedding" in of_kind and "quantized" not in of_kind and value.const_value is not None:
            embeddings[name] = value.const_value
    found = []
    for name, value in values.items():
        with as_model_error(name):
            found.append(
                describe(
                    finder,
                    name,
                    value,
                    uses=uses[name],
                    embeddings=embeddings,
                    forced=name in forced,
                    frozen=name in frozen,
                    trained=None if trained is None else trained.get(name, False),
                )
            )
    return found


@contextmanager
def as_model_error(name: str) -> Iterator[None]:
    """Raise ModelFileError in place of the errors that a node makes which contradicts the shape."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the nodes that read initializer '{printable(name)}' do not fit its shape "
            f"({type(error).__name__}: {printable(str(error))}); check the model with "
            "onnx.checker.check_model(path, full_check=True)"
        ) from error


def chosen(option: str, patterns: Sequence[str], names: list[str]) -> set[str]:
    """Names that any of the patterns is found in."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            matcher = re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{option} {pattern!r} is not a regular expression: {error}; "
                "special characters need a backslash"
            ) from error
        hits = {name for name in names if matcher.search(name)}
        if not hits:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            listed = ", ".join(repr(name) for name in close)
            raise UsageError(
                f"{option} {pattern!r} matches no initializer of the model"
                + (f"; close names: {listed}" if listed else ", which has none")
            )
        found |= hits
    return found


def describe(
    finder: Uses,
    name: str,
    value: ir.Value,
    uses: list[Use],
    embeddings: dict[str, ir.TensorProtocol],
    forced: bool,
    frozen: bool,
    trained: bool | None = None,
) -> Parameter:
    tensor = value.const_value
    shape = () if tensor is None else tensor_shape(tensor)
    dtype = dtype_name(value)
    is_float = dtype in kinds.FLOATS
    decisive = best(uses) if uses else None
    consumers = tuple(dict.fromkeys(label(use.node) for use in uses))
    kind, reason = verdict(finder, value, dtype, decisive)
    if decisive is not None and len(consumers) > 1 and kind not in kinds.NEVER_TRAINED:
        reason += f"; shared by {len(consumers)} nodes"

    trains = is_float and kind not in kinds.NEVER_TRAINED
    if kind == "other":
        trains = trains and len(shape) >= 1 and tensor is not None and tensor.size > 1
    width = wide_axes(own_shape(kind, tensor, shape))
    scales = trains and (kind in kinds.WEIGHTS or (kind in kinds.TABLES and width > 1))
    if trained is False and trains:
        trains = scales = False
        reason += "; not trained by the framework"
    elif trained and not trains and is_float and kind not in ("quantized", "unused"):
        # What looks like a table of constants, for instance, but is a parameter.
        trains, scales = True, kind == "constant" and width > 1
        reason += "; trained by the framework"
    if forced:
        if is_float and kind != "quantized":
            trains, scales = True, scales or width > 1
            reason += "; --trainable makes it trainable"
        else:
            reason += f"; --trainable changes nothing: {dtype} {kind} has no gradient"
    if scales and tensor is not None and (tensor.size == 0 or constant_filled(tensor, 0.0)):
        scales = False
        reason += "; all zeros: scaling changes nothing"
    if frozen:
        trains = scales = False
        reason += "; frozen by --freeze"

    tied = None
    # A framework's tied weights are one initializer; equal values alone tie nothing there.
    if trained is None and is_float and kind == "matrix" and tensor is not None:
        tied = next((key for key, table in embeddings.items() if equal(tensor, table)), None)
        if tied is not None:
            reason += f"; same values as embedding '{tied}'"
    activation: tuple[str | None, float | None] = (None, None)
    norm: str | None = None
    if decisive is not None and kind in ("convolution kernel", "matrix"):
        activation = activation_after(finder, decisive.node)
        norm = norm_after(finder, decisive.node)
    return Parameter(
        name=name,
        kind=kind,
        shape=shape,
        dtype=dtype,
        trainable=trains,
        scalable=scales,
        reason=reason,
        consumers=consumers,
        tied_to=tied,
        fan_in=decisive.fan_in if decisive else None,
        fan_out=decisive.fan_out if decisive else None,
        path=decisive.path if decisive else (),
        gain_activation=activation[0],
        gain_slope=activation[1],
        stacked=stacked(kind, len(shape), decisive),
        groups=attribute(decisive.node, "group", 1)
        if decisive and kind == "convolution kernel"
        else 1,
        transposed=decisive.transposed if decisive else False,
        statistic=decisive.statistic if decisive and kind == decisive.kind else None,
        undone_by=norm,
    )


def stacked(kind: str, rank: int, use: Use | None) -> int:
    """How many of the first axes count matrices: directions of a recurrent layer, experts."""
    if use is None or rank < 3 or kind not in ("recurrent", "matrix"):
        return 0
    return 0 if use.node.op_type == "Einsum" else rank - 2


def verdict(finder: Uses, value: ir.Value, dtype: str, use: Use | None) -> tuple[str, str]:
    """(kind, reason) before options are applied."""
    if use is not None and use.kind == "quantized":
        return use.kind, f"quantized: {use.words}"
    if dtype not in kinds.FLOATS:
        return "constant", f"{dtype}: indices, shapes or flags, not a weight"
    computed = value.meta.get(COMPUTED_BY)
    if use is not None and computed:
        return "constant", f"the graph computes it from constants ({', '.join(computed)})"
    if use is not None and use.kind in kinds.TABLES and is_sinusoidal(value.const_value):
        return "constant", f"a table of sines and cosines, {use.words}; --trainable overrules"
    if use is not None:
        table = tables.words(value.const_value, use)
        if table is not None:
            return "constant", f"{table}; --trainable overrules"
        step = None if not finder.smooth or id(value) in finder.smooth else first_step(value)
        if step is not None and use.kind not in kinds.NEVER_TRAINED:
            cut = f"no gradient comes through {step.op_type} '{label(step)}'"
            return "constant", f"{cut}, which rounds or compares what is computed from it"
        return use.kind, use.words + arrangement(value)
    if id(value) in finder.outputs:
        return "constant", "it is an output of the graph, and no node computes with it"
    return "unused", "its values reach no output of the graph"


def arrangement(value: ir.Value) -> str:
    """Of a weight that is arranged from constants: by what, and how it will be stored."""
    operators = value.meta.get(ARRANGED_BY)
    if not operators:
        return ""
    return f"; arranged from constants by {', '.join(operators)}, written as an initializer"


def is_sinusoidal(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a table's columns are sines and cosines of the same angles, in halves or in turn."""
    if tensor is None or len(tensor.shape) != 2 or tensor.size == 0:
        return False
    width = tensor_shape(tensor)[1]
    if width % 2:
        return False
    table = tensor.numpy().astype(np.float64)
    halves = table[:, : width // 2] ** 2 + table[:, width // 2 :] ** 2
    turns = table[:, ::2] ** 2 + table[:, 1::2] ** 2
    # Some tables keep a row of zeros for padding.
    rows = np.any(table != 0, axis=1)
    return bool(
        rows.any() and any(np.allclose(circle[rows], 1, atol=1e-2) for circle in (halves, turns))
    )


def own_shape(
    kind: str, tensor: ir.TensorProtocol | None, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape, a token's copies for each batch row counted once (exporters fold Expand)."""
    if kind != "token" or tensor is None or len(shape) < 2 or shape[0] < 2:
        return shape
    values = tensor.numpy()
    return (1, *shape[1:]) if bool(np.all(values == values[:1])) else shape


def equal(tensor: ir.TensorProtocol, table: ir.TensorProtocol) -> bool:
    """Whether a matrix is a copy of an embedding table or of its transpose."""
    if tensor is table or tensor.dtype != table.dtype or len(table.shape) != 2:
        return False
    ours, theirs = tuple(tensor.shape), tuple(table.shape)
    for flip in (False, True):
        if ours != (theirs[::-1] if flip else theirs):
            continue
        a = tensor.numpy()
        b = table.numpy().T if flip else table.numpy()
        rows = np.linspace(0, a.shape[0] - 1, SAMPLE).astype(int)
        columns = np.linspace(0, a.shape[1] - 1, SAMPLE).astype(int)
        if np.array_equal(a[rows, columns], b[rows, columns]) and np.array_equal(a, b):
            return not constant_filled(tensor)
    return False
