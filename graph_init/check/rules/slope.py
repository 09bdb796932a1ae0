"""Rules of the gradient, and of the curvature that it meets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graph_init.check.evidence import Evidence
from graph_init.check.findings import ERROR, NOTE, WARNING, Finding
from graph_init.check.rules.rule import Rule
from graph_init.deviation import collapse
from graph_init.deviation.result import EPSILON

#: A gradient of this norm is no small one, whatever its elements are.
_SMALL = 1e-2
#: ‖g‖/‖θ‖ of a layer is so many times that of the layer in the middle. Much smaller ones are usual:
#: queries and keys of uniform attention have them.
_APART = 1e3
#: Below this rate plain gradient descent hardly moves.
_RATE = 1e-4
#: Share of gradient deviation of one tensor, and how large it has to be.
_DEVIATION, _LARGE = 0.9, 10.0


def _unreached(e: Evidence) -> Iterator[Finding]:
    if e.gradient is None:
        return
    alive = e.gradient.norm and math.isfinite(e.gradient.norm)
    # A softmax over a single place does not depend on its scores.
    single = any(a.size == 1 for a in e.profile.attentions)
    for p, _ in e.layers:  # rows of a table are read by few batches
        g = e.gradient.tensors.get(p.name)
        # A zero weight is judged by GI104.
        if g is None or g.zero < 1.0 or not g.value_norm:
            continue
        yield Finding(
            id="GI301",
            severity=ERROR if alive and not single else WARNING,
            tensor=p.name,
            message="its gradient is zero in every element: it is never learnt",
            evidence={"elements": float(g.elements)},
        )


def _vanished(e: Evidence) -> Iterator[Finding]:
    if e.gradient is None or not e.gradient.norm:
        return
    tensors = [p for p in e.parameters if p.name in e.gradient.tensors]
    shares = [e.gradient.tensors[p.name].vanished for p in tensors]
    share = collapse.signs(tensors, shares, e.profile.output.std).vanished
    if share and e.gradient.norm < _SMALL:
        yield Finding(
            id="GI302",
            severity=WARNING,
            tensor="",
            message=f"{share:.0%} of the gradient is below {EPSILON:g}, and its norm is "
            f"{e.gradient.norm:.2g}",
            evidence={"vanished": share, "norm": e.gradient.norm},
            weight=share,
        )


def _unequal_steps(e: Evidence) -> Iterator[Finding]:
    if e.gradient is None:
        return
    ratios = {
        p.name: g.norm / g.value_norm
        for p, _ in e.layers
        if (g := e.gradient.tensors.get(p.name)) is not None
        and g.value_norm
        and g.norm
        and math.isfinite(g.norm)
    }
    if len(ratios) < 3:
        return
    middle = float(np.median(list(ratios.values())))
    for name, ratio in ratios.items():
        if ratio > _APART * middle:
            yield Finding(
                id="GI303",
                severity=WARNING,
                tensor=name,
                message=f"one step of gradient descent changes it by {ratio:.2g} of its norm at a "
                f"rate of 1, and the layer in the middle by {middle:.2g}: no rate suits both",
                evidence={"ratio": ratio, "middle": middle},
                weight=abs(math.log(ratio / middle)),
            )


def _curvature(e: Evidence) -> Iterator[Finding]:
    g = e.gradient
    if g is None or not math.isfinite(g.largest_rate):
        return
    tight = g.largest_rate < _RATE
    yield Finding(
        id="GI304",
        severity=WARNING if tight else NOTE,
        tensor="",
        message="plain gradient descent is stable below a learning rate of about "
        f"{g.largest_rate:.2g}: the curvature along the gradient is {g.curvature:.3g}, and the "
        f"largest eigenvalue at least {abs(g.largest_eigenvalue):.3g}",
        evidence={
            "curvature": g.curvature,
            "largest_eigenvalue": g.largest_eigenvalue,
            "largest_rate": g.largest_rate,
        },
    )


def _deviation(e: Evidence) -> Iterator[Finding]:
    g = e.gradient
    if g is None or len(g.tensors) < 3 or not g.gradient_deviation > _LARGE:
        return
    total = sum(t.deviation for t in g.tensors.values())
    name, worst = max(g.tensors.items(), key=lambda item: item[1].deviation)
    share = worst.deviation / total if math.isfinite(total) else math.nan
    if share > _DEVIATION:
        yield Finding(
            id="GI305",
            severity=NOTE,
            tensor=name,
            message=f"{share:.0%} of gradient deviation, which is {g.gradient_deviation:.3g}, is "
            "in it",
            evidence={"share": share, "gradient_deviation": g.gradient_deviation},
        )


def _infinite(e: Evidence) -> Iterator[Finding]:
    g = e.gradient
    if g is None or (math.isfinite(g.loss) and math.isfinite(g.norm)):
        return
    bad = [n for n, t in g.tensors.items() if not math.isfinite(t.norm)]
    yield Finding(
        id="GI306",
        severity=ERROR,
        tensor=bad[-1] if bad else "",
        message=f"the loss is {g.loss:.3g}, and the gradient of {len(bad)} tensors is not finite",
        evidence={"loss": g.loss, "tensors": float(len(bad))},
    )


RULES = (
    Rule(
        id="GI301",
        title="A weight that no gradient reaches",
        severity=ERROR,
        why="The loss does not depend on it: a dead layer, a zero or a rounding stands between.",
        remedy="Look at the layers behind it; findings on the signal name where it goes.",
        look=_unreached,
        of_trained=True,
    ),
    Rule(
        id="GI302",
        title="Gradients that vanish",
        severity=WARNING,
        why="Most of the gradient is too small to matter beside the noise of a batch.",
        remedy="graph-init initialize restores the signal; or start from --scheme he.",
        look=_vanished,
    ),
    Rule(
        id="GI303",
        title="A layer that jumps",
        severity=WARNING,
        why="At the learning rate that suits the others this layer jumps.",
        remedy="Bring the weight to the scale of the others, or use an optimiser that adapts its "
        "steps.",
        look=_unequal_steps,
    ),
    Rule(
        id="GI304",
        title="The largest stable learning rate",
        severity=NOTE,
        why="Gradient descent is unstable above 2/λ, λ being the largest eigenvalue of the "
        "Hessian. Below 0.0001 this is a warning: the start is so sharp that plain steps hardly "
        "move.",
        remedy="Choose a rate below it, warm up, or mend the scales that make the start sharp.",
        look=_curvature,
    ),
    Rule(
        id="GI305",
        title="Gradient deviation of one tensor",
        severity=NOTE,
        why="Nearly all of the change of the gradient in one step is in one tensor.",
        remedy="Look at its scale, and at that of the layer behind it.",
        look=_deviation,
    ),
    Rule(
        id="GI306",
        title="A loss or gradient that is not finite",
        severity=ERROR,
        why="Training cannot begin.",
        remedy="Look at the first layer whose signal is not finite (GI202), or at elements that "
        "are not.",
        look=_infinite,
        of_trained=True,
    ),
)
