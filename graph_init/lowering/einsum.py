"""Einsum as transpositions and matrix products, two operands at a time."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import reduce

import numpy as np

from graph_init.ir import Builder, Value
from graph_init.lowering.registry import Call, lowers

Term = tuple[Value, list[str]]  # a tensor, and the label of each of its axes


def _parse(c: Call) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand and of the result; an ellipsis becomes labels of its own."""
    text = c.attrs["equation"].replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(c.inputs):
        raise c.refuse(f"has {len(c.inputs)} inputs for the equation '{text}'")
    spare = [x for x in string.printable if x not in text and not x.isspace()]
    extra = max(
        (c[i].rank - len(t.replace("...", "")) for i, t in enumerate(terms) if "..." in t),
        default=0,
    )
    dots = spare[:extra]

    def labels(term: str, rank: int | None) -> list[str]:
        head, found, tail = term.partition("...")
        if not found:
            return list(term)
        used = len(dots) if rank is None else rank - len(head) - len(tail)
        return [*head, *(dots[len(dots) - used :]), *tail]

    operands = [labels(t, c[i].rank) for i, t in enumerate(terms)]
    if arrow:
        return operands, labels(right, None)
    every = [x for t in terms for x in t.replace("...", "")]
    return operands, [*dots, *sorted(x for x in set(every) if every.count(x) == 1)]


def _diagonal(b: Builder, term: Term) -> Term:
    """Axes that share a label become one, on which the diagonal lies."""
    x, labels = term
    for label in dict.fromkeys(labels):
        axes = [i for i, v in enumerate(labels) if v == label]
        if len(axes) == 1:
            continue
        size = x.dims[axes[0]]
        rest = [i for i in range(x.rank) if i not in axes]
        flat = b.reshape(
            b.transpose(x, axes + rest), [size ** len(axes), *(x.dims[i] for i in rest)]
        )
        step = sum(size**k for k in range(len(axes)))
        x = b.op("Gather", flat, b.ints(np.arange(size) * step), axis=0)
        labels = [label, *(labels[i] for i in rest)]
    return x, labels


def _sum_out(b: Builder, term: Term, keep: set[str]) -> Term:
    x, labels = term
    axes = [i for i, v in enumerate(labels) if v not in keep]
    if not axes:
        return term
    return b.sum(x, axes, keepdims=False), [v for v in labels if v in keep]


def _arrange(b: Builder, term: Term, order: Sequence[str]) -> Value:
    """The tensor with its axes in ``order``; labels that it lacks become axes of size 1."""
    x, labels = term
    present = [v for v in order if v in labels]
    x = b.transpose(x, [labels.index(v) for v in present])
    sizes = dict(zip(present, x.dims, strict=True))
    return b.reshape(x, [sizes.get(v, 1) for v in order])


def _contract(b: Builder, first: Term, second: Term, keep: set[str]) -> Term:
    """One matrix product: shared labels that stay are its batch, those that go its inner axis."""
    first = _sum_out(b, first, keep | set(second[1]))
    second = _sum_out(b, second, keep | set(first[1]))
    (x, xs), (y, ys) = first, second
    sizes = dict(zip(xs, x.dims, strict=True))
    for label, size in zip(ys, y.dims, strict=True):
        sizes[label] = max(sizes.get(label, 1), size)
    shared = [v for v in xs if v in ys]
    # Broadcasting (an ellipsis of size 1) is left to the batch axes.
    batch = [v for v in shared if v in keep]
    inner = [v for v in shared if v not in keep]
    rows, columns = [v for v in xs if v not in ys], [v for v in ys if v not in xs]

    def matrix(term: Term, parts: Sequence[Sequence[str]]) -> Value:
        value = _arrange(b, term, [*batch, *parts[0], *parts[1]])
        lead = list(value.dims[: len(batch)])
        split = len(batch) + len(parts[0])
        return b.reshape(
            value,
            [*lead, int(np.prod(value.dims[len(batch) : split])), int(np.prod(value.dims[split:]))],
        )

    left, right = matrix(first, (rows, inner)), matrix(second, (inner, columns))
    out = b.op("MatMul", left, right)
    labels = [*batch, *rows, *columns]
    return b.reshape(out, [sizes[v] for v in labels]), labels


@lowers("Einsum")
def _einsum(b: Builder, c: Call) -> Value:
    operands, result = _parse(c)
    if not c[0].is_float:
        return b.op("Einsum", *c.inputs, equation=c.attrs["equation"])
    terms = [_diagonal(b, (c[i], labels)) for i, labels in enumerate(operands)]

    def fold(first: Term, index: int) -> Term:
        later = {v for _, labels in terms[index + 1 :] for v in labels}
        return _contract(b, first, terms[index], later | set(result))

    term = reduce(fold, range(1, len(terms)), terms[0])
    return _arrange(b, _sum_out(b, term, set(result)), result)
