"""Rules of the forward signal on a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graph_init.check.evidence import Evidence
from graph_init.check.findings import ERROR, NOTE, WARNING, Finding
from graph_init.check.rules.rule import Rule
from graph_init.check.signal import LayerSignal
from graph_init.deviation import collapse

#: A layer's output counts as gone below this share of the largest before it, and as exploded above
#: this number of times the first.
_GONE, _EXPLODED = 1e-3, 1e3
#: Shares of units or elements from which on it is said; and of all of them.
_DEAD, _ALL, _SATURATED = 0.5, 0.999, 0.5
#: E[Σ a²] of attention that is one-hot; and how near 1/n is uniform.
_ONE_HOT, _UNIFORM = 0.9, 1.0001
#: The residual stream may grow by √depth, and by so much more.
_GROWTH = 10.0
#: Fewer sums are no stream.
_SUMS = 4
#: A running variance and what it stands for differ by so much.
_VARIANCE = 100.0
#: A bias dwarfs a layer by so much; logits of a tied table are large from here on.
_BIAS, _LOGITS = 3.0, 10.0


def _dies(e: Evidence) -> Iterator[Finding]:
    """Where the part of the signal that depends on the input has gone."""
    out = e.profile.output
    ignores = (
        math.isfinite(out.across)
        and out.std > 0
        and out.across < 1e-5 * max(out.std, abs(out.mean))
    )
    if not (collapse.dead(out.std) and out.size > 1) and not ignores:
        return
    # A zero head is a usual start: the output is zero, and all before it is alive.
    begins = _first_gone(e.profile.layers)
    where = "" if begins is None else f"; the signal goes at '{begins.node}' ({begins.operator})"
    last = e.profile.layers[-1] if e.profile.layers else None
    head = last is not None and begins is last and not e.statistics[last.tensor].largest
    message = (
        f"the output's standard deviation is {out.std:.2g}, and {out.across:.2g} across inputs"
    )
    stored = _normalises_by_first_values(e)
    if stored:
        where += (
            "; its batch norms are written out for inference, and what they normalise by is what "
            "it was before training: in training the signal may live"
        )
    yield Finding(
        id="GI201",
        severity=NOTE if head else WARNING if stored else ERROR,
        tensor="" if begins is None else begins.tensor,
        message=message + where,
        evidence={"std": out.std, "across": out.across},
    )


def _normalises_by_first_values(e: Evidence) -> bool:
    """Whether batch norms are written out with stored statistics that no batch has changed yet.

    Where they are operators, the statistics are those of the batch.
    """
    operators = {s.tensor for s in e.profile.statistics}
    return any(
        p.statistic == "variance" and p.name not in operators and e.statistics[p.name].is_constant
        for p in e.judged
    )


def _first_gone(layers: Sequence[LayerSignal]) -> LayerSignal | None:
    top = 0.0
    for layer in layers:
        size = layer.across if math.isfinite(layer.across) else layer.std
        if layer.operator == "Gather":
            continue
        if size < _GONE * top or not size:
            return layer
        top = max(top, size)
    return None


def _explodes(e: Evidence) -> Iterator[Finding]:
    layers = [x for x in e.profile.layers if x.operator != "Gather"]
    for layer in layers:
        if not math.isfinite(layer.std):
            yield Finding(
                id="GI202",
                severity=ERROR,
                tensor=layer.tensor,
                message=f"the output of '{layer.node}' ({layer.operator}) is not finite",
                evidence={"std": layer.std},
                weight=math.inf,
            )
            return
    out = e.profile.output
    first = layers[0].std if layers else 1.0
    if out.std > _EXPLODED * max(first, 1.0):
        begins = next((x for x in layers if x.std > math.sqrt(_EXPLODED) * max(first, 1.0)), None)
        yield Finding(
            id="GI202",
            severity=ERROR,
            tensor="" if begins is None else begins.tensor,
            message=f"the output's standard deviation is {out.std:.2g}, and that of the first "
            f"layer's is {first:.2g}"
            + ("" if begins is None else f"; it grows beyond bounds at '{begins.node}'"),
            evidence={"std": out.std, "first": first},
        )


def _grows(e: Evidence) -> Iterator[Finding]:
    # Sums before the first layer are of tables.
    sums = [x for x in e.profile.sums if x.layers]
    if len(sums) < _SUMS:
        return
    first, last, count = sums[0].std, sums[-1].std, float(len(sums))
    usual = math.sqrt(count)
    ratio = last / first if first else math.inf
    if math.isfinite(ratio) and ratio > _GROWTH * usual:
        yield Finding(
            id="GI203",
            severity=WARNING,
            tensor="",
            message=f"along {len(sums)} residual sums the standard deviation grows from "
            f"{first:.3g} to {last:.3g}; independent branches would make it {usual:.3g} times as "
            "large",
            evidence={"first": first, "last": last, "sums": count},
            weight=math.log(ratio / usual),
        )


def _dead_units(e: Evidence) -> Iterator[Finding]:
    for unit in e.profile.units:
        if unit.dead >= _DEAD:
            yield Finding(
                id="GI204",
                severity=ERROR if unit.dead >= _ALL else WARNING,
                tensor=unit.tensor,
                message=f"{unit.dead:.0%} of the units of '{unit.node}' ({unit.operator}) are "
                "zero on the whole batch",
                evidence={"dead": unit.dead},
                weight=unit.dead,
            )


def _saturated(e: Evidence) -> Iterator[Finding]:
    for unit in e.profile.units:
        if unit.saturated >= _SATURATED:
            yield Finding(
                id="GI205",
                severity=WARNING,
                tensor=unit.tensor,
                message=f"{unit.saturated:.0%} of the elements of '{unit.node}' ({unit.operator}) "
                "are at its limits, where its slope is near zero",
                evidence={"saturated": unit.saturated},
                weight=unit.saturated,
            )


def _attention(e: Evidence) -> Iterator[Finding]:
    rows = [a for a in e.profile.attentions if a.size > 1]
    hot = [a for a in rows if a.concentration > _ONE_HOT]
    if hot:
        yield Finding(
            id="GI206",
            severity=WARNING,
            tensor="",
            message=f"{len(hot)} of {len(rows)} softmaxes inside the network are one-hot from the "
            f"start, first '{hot[0].node}': no gradient comes to the scores",
            evidence={"concentration": hot[0].concentration, "count": float(len(hot))},
            weight=float(len(hot)),
        )


def _even_attention(e: Evidence) -> Iterator[Finding]:
    rows = [a for a in e.profile.attentions if a.size > 1]
    even = [a for a in rows if a.concentration * a.size < _UNIFORM]
    if rows and len(even) == len(rows):
        yield Finding(
            id="GI207",
            severity=NOTE,
            tensor="",
            message=f"all {len(rows)} softmaxes inside the network are uniform at the start",
            evidence={"count": float(len(even))},
        )


def _running_variance(e: Evidence) -> Iterator[Finding]:
    for s in e.profile.statistics:
        # Statistics of one number have not been collected yet.
        if not (s.stored > 0 and s.measured > 0) or e.statistics[s.tensor].is_constant:
            continue
        ratio = s.measured / s.stored
        if not 1 / _VARIANCE <= ratio <= _VARIANCE:
            yield Finding(
                id="GI208",
                severity=WARNING,
                tensor=s.tensor,
                message=f"'{s.node}' normalises by a variance of {s.stored:.3g}, and on a batch "
                f"that of its input is {s.measured:.3g}",
                evidence={"stored": s.stored, "measured": s.measured},
                weight=abs(math.log(ratio)),
            )


def _bias(e: Evidence) -> Iterator[Finding]:
    for layer in e.profile.layers:
        own = math.sqrt(max(layer.std**2 - layer.bias**2, 0.0))
        if layer.bias > _BIAS * max(own, 1e-12) and layer.bias > 0.1:
            yield Finding(
                id="GI209",
                severity=WARNING,
                tensor=layer.tensor,
                message=f"the bias of '{layer.node}' has a root mean square of {layer.bias:.3g}, "
                f"and what it is added to varies by {own:.3g}",
                evidence={"bias": layer.bias, "layer": own},
            )


def _tied(e: Evidence) -> Iterator[Finding]:
    if not e.profile.output.std >= _LOGITS:
        return
    table = next(
        (
            p
            for p in e.judged
            if (p.kind == "embedding" and "shared by" in p.reason) or p.tied_to is not None
        ),
        None,
    )
    if table is not None and e.profile.output.size > 1:
        name = table.tied_to or table.name
        yield Finding(
            id="GI210",
            severity=WARNING,
            tensor=name,
            message="the table is used for the input and, tied, for the output, whose standard "
            f"deviation is {e.profile.output.std:.3g}: a scale that suits the input is too large "
            "there",
            evidence={"output_std": e.profile.output.std, "rms": e.statistics[name].rms},
        )


RULES = (
    Rule(
        id="GI201",
        title="The signal dies on its way",
        severity=ERROR,
        why="What depends on the input becomes too small beside what does not: all inputs give "
        "the same output, and gradients have nothing to hold on to.",
        remedy="graph-init initialize restores the signal; the message names the layer where it "
        "goes.",
        look=_dies,
        of_trained=True,
    ),
    Rule(
        id="GI202",
        title="The signal explodes",
        severity=ERROR,
        why="Each layer makes its input larger, so that the last ones are out of bounds: losses "
        "and gradients overflow, or only tiny learning rates are stable.",
        remedy="graph-init initialize restores the signal; or start from --scheme he.",
        look=_explodes,
        of_trained=True,
    ),
    Rule(
        id="GI203",
        title="The residual stream grows with depth",
        severity=WARNING,
        why="Independent branches of size one make a sum of size √depth. More means that "
        "branches multiply what they get, or that a scaling of the branches with depth is "
        "missing.",
        remedy="Scale the last weight of each branch by 1/√(number of branches), or start it at "
        "zero.",
        look=_grows,
    ),
    Rule(
        id="GI204",
        title="Units that are dead from the start",
        severity=WARNING,
        why="A rectified unit that is zero on all of a batch has no gradient there.",
        remedy="Look at the layer's bias, and at the mean of what it reads.",
        look=_dead_units,
    ),
    Rule(
        id="GI205",
        title="Units that are saturated from the start",
        severity=WARNING,
        why="At the ends of a sigmoid or tanh the slope is near zero, and gradients vanish.",
        remedy="Make the weight before it smaller.",
        look=_saturated,
    ),
    Rule(
        id="GI206",
        title="Attention that is one-hot at the start",
        severity=WARNING,
        why="A softmax that has decided gives its scores no gradient: queries and keys do not "
        "learn.",
        remedy="Divide the scores by √(width of a head), or make queries and keys smaller.",
        look=_attention,
    ),
    Rule(
        id="GI207",
        title="Attention that is uniform at the start",
        severity=NOTE,
        why="All places count alike. That is a usual start, and training leaves it soon.",
        remedy="Nothing, unless training is slow to begin.",
        look=_even_attention,
    ),
    Rule(
        id="GI208",
        title="A running variance that contradicts the activations",
        severity=WARNING,
        why="In evaluation a batch norm divides by the stored variance. Where the activations "
        "have another one by far, a weight before it has another scale than when it was stored.",
        remedy="Look at the scale of the layer before it.",
        look=_running_variance,
        of_trained=True,
    ),
    Rule(
        id="GI209",
        title="A bias that dwarfs its layer",
        severity=WARNING,
        why="A layer whose output is mostly its bias hardly depends on its input.",
        remedy="Start the bias at zero.",
        look=_bias,
    ),
    Rule(
        id="GI210",
        title="A tied table whose scale does not fit the output",
        severity=WARNING,
        why="A table of N(0, 1) suits the input. As the matrix of the output it makes logits of "
        "size √width, and the first loss is far above that of guessing.",
        remedy="Draw the table with 1/√width, and multiply what is looked up by √width.",
        look=_tied,
    ),
)
