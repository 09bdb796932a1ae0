"""Inner products with a gradient, without the gradient.

The derivative of anything in the scale of a tensor θ is ⟨θ, G⟩ with G the derivative in θ itself.
Where G is a product of an activation and a delta, as it is for every weight of a layer,

    ⟨θ, xᵀδ⟩ = ⟨x·θ, δ⟩ = ⟨x, δ·θᵀ⟩

and x·θ is a node of the forward pass, or of its tangents, and δ·θᵀ one of the backward pass or its
tangents. The mixed tangent of a weight's gradient has four such products, so that 4 of the
meta-step's 27 products of a layer need not be computed at all. Of the two forms that one is taken
whose product is made later: its factors are at hand by then, and nothing has to be kept for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from graph_init.ir import Builder, Node, Value

_WINDOW = ("strides", "dilations", "pads", "group")

_Found = tuple[int, Value]


class Products:
    """The products among ``nodes``, found again by their operands."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._found: dict[tuple[object, ...], _Found] = {}
        for place, node in enumerate(nodes):
            key = _key(node)
            value = next((o for o in node.outputs if o is not None), None)
            if key is not None and value is not None:
                self._found.setdefault(key, (place, value))

    def rows(self, x: Value, w: Value, turned: bool) -> _Found | None:
        """``x @ w``, or ``x @ wᵀ`` if ``turned``, in any shape with its elements in order."""
        return self._found.get(_rows(x, w, turned))

    def convolution(
        self, kind: str, x: Value, w: Value, window: Mapping[str, Any]
    ) -> _Found | None:
        """The convolution of ``x`` (``kind`` Conv) or its transpose (ConvGrad) with ``w``."""
        return self._found.get((kind, id(x), id(w), *_window(window)))


def is_product(node: Node) -> bool:
    """Whether ``node`` is a matrix product, possibly of transposed operands, and no more."""
    plain = node.attrs.get("alpha", 1.0) == 1.0
    batched = node.attrs.get("transBatchA") or node.attrs.get("transBatchB")
    return node.op in ("MatMul", "FusedMatMul") and plain and not batched


def contract(b: Builder, theta: Value, gradient: Value, products: Products) -> Value:
    """Σ θᵢ·Gᵢ as a scalar; both have the same shape."""
    node = gradient.node
    found = None
    if node is not None:
        found = _sum(b, theta, node, products) or _view(b, theta, node, products)
        found = found or _product(b, theta, node, products)
    return dot(b, theta, gradient) if found is None else found


def dot(b: Builder, x: Value, y: Value) -> Value:
    """Σ xᵢ·yᵢ as a scalar, by a node that makes nothing of the size of its operands.

    As up to 64 partial sums: as fast as one, spread over the threads, and more exact.
    """
    parts = math.gcd(x.size, 64)
    left, right = (b.reshape(v, [parts, 1, v.size // parts]) for v in (x, y))
    return b.sum(b.product(left, right, transpose_b=True), keepdims=False)


def _key(node: Node) -> tuple[object, ...] | None:
    if node.op == "ConvGrad" and node.outputs[0] is not None:
        return ("ConvGrad", id(node.inputs[0]), id(node.inputs[2]), *_window(node.attrs))
    if len(node.inputs) != 2:
        return None
    x, w = node.inputs
    assert x is not None and w is not None
    if node.op == "Conv":
        return ("Conv", id(x), id(w), *_window(node.attrs))
    if is_product(node) and w.rank == 2 and not _turned(node, 0):
        return _rows(x, w, _turned(node, 1))
    return None


def _window(attrs: Mapping[str, Any]) -> Iterator[object]:
    return (str(attrs.get(k)) for k in _WINDOW)


def _rows(x: Value, w: Value, turned: bool) -> tuple[object, ...]:
    """What identifies a product of rows with a matrix, whatever views lie before it."""
    while x.node is not None and x.node.op == "Reshape" and x.node.inputs[0] is not None:
        x = x.node.inputs[0]
    w, turned = _matrix(w, turned)
    return "rows", id(x), id(w), turned


def _matrix(value: Value, turned: bool) -> tuple[Value, bool]:
    """``value`` before a transposition, and whether it is transposed in all."""
    node = value.node
    if node is not None and node.op == "Transpose" and node.attrs["perm"] == [1, 0]:
        assert node.inputs[0] is not None
        return node.inputs[0], not turned
    return value, turned


def _sum(b: Builder, theta: Value, node: Node, products: Products) -> Value | None:
    if node.op == "Neg" and node.inputs[0] is not None:
        return b.op("Neg", contract(b, theta, node.inputs[0], products))
    if _terms(node, theta) is None:
        return None
    # Without recursion: a loop's sum has a term for each of its iterations.
    done: dict[int, Value] = {}
    last = node.outputs[0]
    assert last is not None
    pending = [last]
    while pending:
        value = pending[-1]
        terms = None if value.node is None else _terms(value.node, theta)
        missing = [v for v in terms or () if id(v) not in done]
        if missing:
            pending += missing[::-1]
            continue
        pending.pop()
        if terms is None or value.node is None:
            done[id(value)] = contract(b, theta, value, products)
        elif id(value) not in done:
            done[id(value)] = b.op(value.node.op, *(done[id(v)] for v in terms))
    return done[id(last)]


def _terms(node: Node, theta: Value) -> tuple[Value, Value] | None:
    """What ``node`` adds or subtracts, if both are of the shape of ``theta``."""
    if node.op not in ("Add", "Sub"):
        return None
    left, right = node.inputs
    if left is None or right is None or not left.shape == right.shape == theta.shape:
        return None
    return left, right


def _view(b: Builder, theta: Value, node: Node, products: Products) -> Value | None:
    x = node.inputs[0] if node.inputs else None
    if x is None or node.op not in ("Reshape", "Transpose"):
        return None
    if node.op == "Reshape":
        return contract(b, b.reshape(theta, x.dims), x, products)
    perm = list(node.attrs["perm"])
    return contract(b, b.transpose(theta, [perm.index(i) for i in range(len(perm))]), x, products)


def _product(b: Builder, theta: Value, node: Node, products: Products) -> Value | None:
    forms: list[tuple[_Found | None, Value]] = []  # a product of θ, and its partner
    if node.op == "ConvGrad" and node.outputs[0] is None:
        delta, x = node.inputs[:2]
        assert delta is not None and x is not None
        forms = [
            (products.convolution("Conv", x, theta, node.attrs), delta),
            (products.convolution("ConvGrad", delta, theta, node.attrs), x),
        ]
    elif is_product(node) and all(v is not None and v.rank == 2 for v in node.inputs):
        left, right = (_matrix(v, _turned(node, k)) for k, v in enumerate(node.inputs) if v)
        if left[1] and not right[1]:  # leftᵀ·right
            forms = [
                (products.rows(left[0], theta, False), right[0]),
                (products.rows(right[0], theta, True), left[0]),
            ]
    known = [(found, partner) for found, partner in forms if found is not None]
    if not known:
        return None
    (_, product), partner = max(known, key=lambda form: form[0][0])
    return dot(b, product, partner)


def _turned(node: Node, side: int) -> bool:
    return bool(node.attrs.get("transB" if side else "transA"))
