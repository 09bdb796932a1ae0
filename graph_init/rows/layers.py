"""Rules for layers with weights: products, convolutions, pools, norms, recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

from graph_init.rows.layout import Count, Held, Rows, Step, axis_of, rule, together
from graph_init.sizes.known import marks_of

_SUMMED = "adds up along the axis of the batch"


@rule("MatMul")
def _matmul(step: Step) -> Rows:
    a, b = step.dims(0), step.dims(1)
    left, right = step.at(0), step.at(1)
    rank = len(step.made[0].dims or ())
    if len(a) > 1 and left is not None and left.axis == len(a) - 2:
        if right is not None:
            raise Held("multiplies rows that lie along different axes")
        return left.at(rank - (2 if len(b) > 1 else 1))
    if len(b) > 1 and right is not None and right.axis == len(b) - 1:
        if left is not None:
            raise Held("multiplies rows that lie along different axes")
        return right.at(rank - 1)
    for rows, last in ((left, len(a) - 1), (right, max(len(b) - 2, 0))):
        if rows is not None and rows.axis == last:
            raise Held(_SUMMED)
    if len(a) < 2 or len(b) < 2:
        found = together(step, [1 if left is None else 0], 2)
        assert found is not None
        return found.at(found.axis + 1 + rank)
    found = together(step, [0, 1], 2)
    assert found is not None
    return found.at(found.axis + rank)


@rule("Gemm")
def _gemm(step: Step) -> Rows:
    left, right = step.at(0), step.at(1)
    if left is not None and right is not None:
        raise Held("multiplies rows that lie along different axes")
    rows = left if left is not None else right
    if rows is None:
        raise Held("adds rows to a product that has none")
    turned = bool(step.call.attr("transA" if left is not None else "transB"))
    made = 0 if left is not None else 1
    if rows.axis != (1 - made if turned else made):
        raise Held(_SUMMED)
    found = rows.at(made)
    if step.given(2):
        dims, own = step.dims(2), step.at(2)
        axis = made - 2
        if own is not None and own.at(own.axis - len(dims)) != found.at(axis):
            raise Held("joins rows that lie along different axes")
        if own is None and len(dims) >= -axis and dims[axis] != 1:
            raise Held(f"adds a tensor of {int(dims[axis])} entries along the axis of the batch")
    return found


@rule("Einsum")
def _einsum(step: Step) -> Rows:
    terms, _, result = step.call.attr("equation").replace(" ", "").partition("->")
    parts = terms.split(",")
    found: dict[str, Rows] = {}
    for part, rows in zip(parts, step.rows, strict=True):
        if rows is not None and "." not in part:
            found.setdefault(part[rows.axis], rows.at(0))
            if found[part[rows.axis]] != rows.at(0):
                raise Held("multiplies rows that lie along different axes")
    if len(found) != 1 or "." in step.call.attr("equation") or not result:
        raise Held("multiplies rows in a way that is not followed")
    ((letter, rows),) = found.items()
    if any(p.count(letter) > 1 for p in parts) or letter not in result:
        raise Held(_SUMMED)
    if any(letter in p and r is None for p, r in zip(parts, step.rows, strict=True)):
        raise Held("multiplies the rows with a tensor that has rows of its own")
    return rows.at(result.index(letter))


@rule(
    *"Conv ConvTranspose FusedConv MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool "
    "GlobalLpPool DepthToSpace SpaceToDepth InstanceNormalization GroupNormalization LRN "
    "STFT".split()
)
def _images(step: Step) -> Rows:
    """One after the other along the first axis."""
    rows = step.only(0)
    if rows.axis:
        raise Held(f"reads the batch along axis {rows.axis}, not along the first")
    if step.node.op_type == "MaxPool" and len(step.node.outputs) > 1:
        raise Held("gives places that count through the whole batch")
    return rows


@rule("Resize", "Upsample")
def _resize(step: Step) -> Rows:
    rows = step.only(0)
    axes = [int(a) % len(step.dims(0)) for a in step.call.attr("axes") or range(len(step.dims(0)))]
    if rows.axis not in axes:
        return rows
    place = axes.index(rows.axis)
    if step.given(3):
        size = step.call.numbers(3)[place]
        if size != step.dims(0)[rows.axis]:
            raise Held("resizes the axis of the batch")
        if not marks_of(size):
            step.entry(3, place, Count(rows.outer * rows.inner))
        return rows
    scales = step.call.attr("scales")
    if scales is None:
        known = step.call.get(2 if step.call.opset >= 11 else 1)
        scales = [] if known is None or known.content is None else known.content.ravel()
    if len(scales) <= place or scales[place] != 1:
        raise Held("resizes the axis of the batch")
    return rows


@rule("BatchNormalization")
def _batch_norm(step: Step) -> Rows:
    rows = step.only(0)
    if rows.axis:
        raise Held(f"reads the batch along axis {rows.axis}, not along the first")
    statistics = len(step.node.outputs) > 1
    if statistics or step.call.attr("training_mode") or not _tests(step):
        raise Held("is a batch norm in training mode, whose statistics are those of all rows")
    return rows


def _tests(step: Step) -> bool:
    """What says so before opset 7."""
    return step.call.opset >= 7 or bool(step.call.attr("is_test"))


@rule("MeanVarianceNormalization")
def _mean_variance(step: Step) -> Rows:
    rows, rank = step.only(0), len(step.dims(0))
    if rows.axis in {int(a) % rank for a in step.call.attr("axes") or (0, 2, 3)}:
        raise Held("takes the mean over the axis of the batch")
    return rows


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(step: Step) -> Rows:
    rows = step.only(0)
    if rows.axis >= axis_of(step, -1):
        raise Held("takes the mean over the axis of the batch")
    return rows


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(step: Step) -> Rows:
    found = together(step, [0, 1], 1)
    if found is None or any(r is not None for r in step.rows[2:]):
        raise Held("has another gain for each row")
    return found.at(found.axis + max(len(step.dims(0)), len(step.dims(1))))


@rule("LSTM", "GRU", "RNN")
def _recurrent(step: Step) -> Sequence[Rows | None]:
    """Rows are the second axis, of states too; with ``layout`` the first."""
    first = bool(step.call.attr("layout"))
    rows = step.at(0)
    if rows is None or rows.axis != (0 if first else 1):
        raise Held("reads the batch along its axis of time")
    if any(step.at(k) is not None for k in (1, 2, 3, 7)):
        raise Held("has other weights for each row")
    for slot, axis in ((4, 0), (5, rows.axis), (6, rows.axis)):
        if not step.given(slot):
            continue
        if step.at(slot) is None:
            step.spread(slot, rows.at(axis))
        elif step.at(slot) != rows.at(axis):
            raise Held("is given states of other rows")
    last = rows if first else rows.at(1)
    return [rows if first else rows.at(2), last, last]
