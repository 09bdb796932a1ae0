"""The loss: which output it reads, which kind it is, and the nodes that compute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.ir import Array, Builder, Shape, Value
from graph_init.lowering.activation import softplus
from graph_init.problem import output_choice, written_out
from graph_init.problem.class_axis import places
from graph_init.problem.loss_choice import AUTO, BINARY, CLASSES, SQUARES, Choice, Facts, choose

LOSSES = (AUTO, CLASSES, BINARY, SQUARES)

#: Nodes that move elements without changing them; a final Softmax is looked for behind these.
_VIEWS = frozenset({"Reshape", "Identity", "Transpose"})


_NO_FACTS = Facts()

#: The name of the input with the labels; that of one among several outputs follows a colon.
TARGET = "target"


@dataclass(frozen=True)
class Term:
    """The loss on one output, and why it is that one.

    ``target`` is the graph input with the labels: class numbers (int64, the logits' shape without
    the class axis) for cross-entropy, else floats of the prediction's shape.
    """

    output: str
    loss: Value
    prediction: Value
    target: Value
    classes: int | None
    choice: Choice

    @property
    def kind(self) -> str:
        return self.choice.kind


@dataclass(frozen=True)
class Objective:
    """A loss attached to a graph: the sum of those on its outputs."""

    loss: Value
    terms: tuple[Term, ...]
    #: What the loss does not see, in sentences.
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "+".join(t.kind for t in self.terms)

    @property
    def reason(self) -> str:
        """Why it is this loss, in a sentence for each output."""
        if len(self.terms) == 1:
            return self.terms[0].choice.sentence
        return "; ".join(f"{t.output}: {t.choice.sentence}" for t in self.terms)

    @property
    def targets(self) -> tuple[Value, ...]:
        return tuple(t.target for t in self.terms)


def attach(
    b: Builder,
    outputs: Sequence[tuple[str, Value]],
    kind: str | Choice = AUTO,
    names: Sequence[str] = (),
    facts: Facts = _NO_FACTS,
) -> Objective:
    """Append the loss on the outputs called ``names`` to ``b``; see ``output_choice`` for none.

    Several are read by themselves only where every loss is chosen by ``auto`` and there are no
    targets, which would be of one of them.
    ``auto`` decides by ``facts`` (see ``loss_choice``); a ``Choice`` is taken as it is. Cross-
    entropy reads what a final Softmax or LogSoftmax read, binary cross-entropy what a final Sigmoid
    read.
    The classes of a stripped Softmax are on its axis; ``class_axis`` finds that of other logits.
    All losses are means over all elements of the target.
    """
    if isinstance(kind, str) and kind not in LOSSES:
        raise UsageError(f"unknown loss '{kind}'; choose one of {', '.join(LOSSES)}")
    chosen = output_choice.choose(b, outputs, names, kind == AUTO and not facts.targets)
    several = len(chosen.read) > 1
    terms = [
        _term(
            b,
            kind,
            output,
            value,
            target_name=f"{TARGET}:{output}" if several else TARGET,
            facts=facts,
        )
        for output, value in chosen.read
    ]
    loss = terms[0].loss
    for term in terms[1:]:
        loss = b.add(loss, term.loss)
    return Objective(loss, tuple(terms), chosen.notes)


def _term(
    b: Builder,
    kind: str | Choice,
    output: str,
    value: Value,
    *,
    target_name: str,
    facts: Facts,
) -> Term:
    inner = _behind_views(value)
    op = inner.node.op if inner.node is not None else ""
    softmax = _softmax(inner)
    if softmax is not None and op != "LogSoftmax":
        op = "Softmax"  # also where it is written out
    evidence = facts.of(output, value.dims, op, (target_name, f"{TARGET}:{output}"))
    if kind == AUTO:
        choice = choose(evidence)
    else:
        choice = kind if isinstance(kind, Choice) else Choice(kind, "it was asked for")
    if choice.kind == CLASSES:
        if softmax is not None:
            logits, index = _stripped(b, value, inner, *softmax)
        else:
            logits, index = value, evidence.axis.index
            choice = replace(choice, axis=evidence.axis.guess)
        return _cross_entropy(b, output, target_name, logits, axis=index, choice=choice)
    if choice.kind == BINARY:
        logits = value
        if op == "Sigmoid":
            assert inner.node is not None and inner.node.inputs[0] is not None
            logits = _replay(b, value, inner, inner.node.inputs[0])
        target = b.input(target_name, logits.dtype, logits.dims)
        # −[t log σ(x) + (1−t) log(1−σ(x))] = softplus(x) − t x
        each = b.sub(softplus(b, logits), b.mul(target, logits))
        return Term(
            output=output,
            loss=_mean(b, each),
            prediction=logits,
            target=target,
            classes=None,
            choice=choice,
        )
    target = b.input(target_name, value.dtype, value.dims)
    difference = b.sub(value, target)
    return Term(
        output=output,
        loss=_mean(b, b.mul(difference, difference)),
        prediction=value,
        target=target,
        classes=None,
        choice=choice,
    )


def _behind_views(value: Value) -> Value:
    while value.node is not None and value.node.op in _VIEWS and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value


def _replay(b: Builder, value: Value, until: Value, instead: Value) -> Value:
    """The views between ``until`` and ``value``, applied to ``instead``."""
    if value is until:
        return instead
    node = value.node
    assert node is not None and node.inputs[0] is not None
    inner = _replay(b, node.inputs[0], until, instead)
    return b.op(node.op, inner, *node.inputs[1:], **node.attrs)


def _softmax(value: Value) -> tuple[Value, int] | None:
    """(logits, class axis) of a Softmax or LogSoftmax, a node or written out; else None."""
    node = value.node
    if node is not None and node.op in ("Softmax", "LogSoftmax") and node.inputs[0] is not None:
        return node.inputs[0], value.rank - 1  # lowering puts their axis last
    return written_out.softmax(value) or written_out.log_softmax(value)


def _stripped(
    b: Builder, value: Value, softmax: Value, logits: Value, axis: int
) -> tuple[Value, int]:
    """The ``logits`` in the order of axes of ``value``, and their class axis.

    ``axis`` is theirs and that of ``softmax``, of which ``value`` is a view. Behind a Reshape the
    order is lost; then the logits are as the Softmax has them.
    """
    at = value
    while at is not softmax:
        assert at.node is not None and at.node.inputs[0] is not None
        if at.node.op == "Reshape":
            return logits, axis
        at = at.node.inputs[0]
    return _replay(b, value, softmax, logits), _class_axis(value, softmax, axis)


def _class_axis(value: Value, softmax: Value, axis: int) -> int:
    """Where ``axis`` of ``softmax`` lies in ``value``, which Transposes alone made of it."""
    if value is softmax:
        return axis
    node = value.node
    assert node is not None and node.inputs[0] is not None
    inner = _class_axis(node.inputs[0], softmax, axis)
    return list(node.attrs["perm"]).index(inner) if node.op == "Transpose" else inner


def _cross_entropy(
    b: Builder,
    output: str,
    target_name: str,
    logits: Value,
    *,
    axis: int,
    choice: Choice,
) -> Term:
    if logits.rank < 2:
        raise UnsupportedModelError(
            f"output '{output}' has shape {logits.dims}, which has no class axis; use --loss mse"
        )
    if logits.rank == 4 and math.prod(places(logits.dims, axis)) == 1:
        logits = b.reshape(logits, [logits.dims[0], logits.dims[axis]])
        axis = 1
    if axis != logits.rank - 1:
        order = [i for i in range(logits.rank) if i != axis] + [axis]
        logits = b.transpose(logits, order)
    classes = logits.dims[-1]
    shape: Shape = logits.dims[:-1]
    target = b.input(target_name, TensorProto.INT64, shape)
    rows = math.prod(shape)
    log_p = b.op("LogSoftmax", b.reshape(logits, [rows, classes]), axis=-1)
    taken = b.op("GatherElements", log_p, b.reshape(target, [rows, 1]), axis=1)
    loss = b.scale(b.sum(taken, keepdims=False), -1.0 / rows)
    return Term(
        output=output, loss=loss, prediction=logits, target=target, classes=classes, choice=choice
    )


def _mean(b: Builder, value: Value) -> Value:
    return b.scale(b.sum(value, keepdims=False), 1.0 / max(value.size, 1))


def random_target(term: Term, shape: Shape, rng: np.random.Generator) -> Array:
    """Random labels of this shape: uniform classes, fair coins, or N(0,1)."""
    if term.kind == CLASSES:
        return rng.integers(0, term.classes or 1, shape)
    if term.kind == BINARY:
        return rng.integers(0, 2, shape).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32)
