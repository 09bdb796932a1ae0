"""Rules of a tensor's scale: against its siblings, and against the network's own scheme.

A scale is only known to be wrong beside others. The first evidence are siblings: weights of one
kind and shape, of which a network of equal blocks has many. The second is the scheme by which most
of the network was drawn: a weight that is no draw of it, nor of any other scheme that is known, was
not meant so. A norm right behind a layer undoes its scale; then a finding is a warning at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from graph_init.check import schemes
from graph_init.check.evidence import Evidence
from graph_init.check.findings import ERROR, NOTE, WARNING, Finding, distance
from graph_init.check.rules.rule import Rule
from graph_init.check.scales import Scales, Weight

#: From this factor on a tensor is off; below it, schemes differ among themselves.
_OFF = 1.5
#: Nearer than this to a sibling it is meant: some are scaled by their depth.
_NEAR = 1.25
#: So many weights of one form make a rule.
_SIBLINGS = 3
#: Where there is neither: so many median deviations, and this factor at least.
_DEVIATIONS, _FAR = 5.0, 3.0
#: What most of the weights are, as a share.
_MOST = 0.6


def _unlike_siblings(e: Evidence) -> Iterator[Finding]:
    for w in e.scales.weights:
        others = e.scales.siblings(w)
        if len(others) >= _SIBLINGS - 1:
            yield from _beside_siblings(w, others)


def _unlike_scheme(e: Evidence) -> Iterator[Finding]:
    name, share = e.scales.scheme
    for w in _alone(e.scales) if name else ():
        yield from _beside_scheme(w, name, share)


def _unlike_others(e: Evidence) -> Iterator[Finding]:
    if not e.scales.scheme[0]:
        for w in _alone(e.scales):
            yield from _beside_all(w, e.scales.layers)


def _alone(scales: Scales) -> list[Weight]:
    """Weights of layers with too few siblings to compare with, which fit no scheme."""
    return [w for w in scales.layers if not w.fits and len(scales.siblings(w)) < _SIBLINGS - 1]


def _beside_siblings(w: Weight, others: Sequence[Weight]) -> Iterator[Finding]:
    levels = np.array([x.level for x in others])
    gap = float(np.abs(levels - w.level).min())
    noise = 3.5 * (w.statistics.uncertainty + max(x.statistics.uncertainty for x in others))
    if gap < math.log(_NEAR) + noise:
        return
    middle = float(np.median(levels))
    # Where the siblings themselves differ (scaled by depth, say), one that stands apart may be
    # the next of a series.
    spread = float(np.ptp(levels))
    factor = math.exp(middle - w.level)
    if distance(factor) < math.log(_OFF) + noise or (len(others) < 4 and spread > gap):
        return
    expected = math.exp(middle)
    yield _finding(
        rule="GI121",
        w=w,
        factor=factor,
        words=f"its root mean square is {w.statistics.rms:.4g}, and that of {len(others)} weights "
        f"of the same shape is {expected:.4g}",
        evidence={"rms": w.statistics.rms, "expected": expected, "siblings": float(len(others))},
        doubtful=not w.in_layer,
    )


def _beside_scheme(w: Weight, name: str, share: float) -> Iterator[Finding]:
    expected = schemes.KNOWN[name].std(w.layer)
    factor = expected / w.statistics.rms
    if distance(factor) < math.log(_OFF) + 3.5 * w.statistics.uncertainty:
        return
    yield _finding(
        rule="GI122",
        w=w,
        factor=factor,
        words=f"its root mean square is {w.statistics.rms:.4g}; {share:.0%} of the weights are "
        f"draws of {name}, which gives {expected:.4g}, and it fits no other usual scheme",
        evidence={"rms": w.statistics.rms, "expected": expected, "share": share},
    )


def _beside_all(w: Weight, weights: Sequence[Weight]) -> Iterator[Finding]:
    """Without a scheme: by rms·√fan-in, which most schemes hold nearly constant."""
    if len(weights) < 4:
        return
    own = {id(x): x.level + 0.5 * math.log(x.layer.fan_in) for x in weights}
    levels = np.array(list(own.values()))
    middle = float(np.median(levels))
    usual = 1.4826 * float(np.median(np.abs(levels - middle)))
    off = own[id(w)] - middle
    if abs(off) < max(math.log(_FAR), _DEVIATIONS * usual):
        return
    yield _finding(
        rule="GI123",
        w=w,
        factor=math.exp(-off),
        words=f"its root mean square times √fan-in is {math.exp(own[id(w)]):.3g}, and in the "
        f"middle of all layers {math.exp(middle):.3g}",
        evidence={"scaled": math.exp(own[id(w)]), "middle": math.exp(middle), "spread": usual},
        doubtful=usual > math.log(_OFF),
    )


def _other_scheme(e: Evidence) -> Iterator[Finding]:
    """What fits a scheme, but not that of most; tables where that is one number for all."""
    name, share = e.scales.scheme
    if not name:
        return
    for w in e.scales.weights:
        of_others = len(e.scales.siblings(w)) >= _SIBLINGS - 1  # which GI121 compares
        table = name in schemes.FIXED and w.parameter.kind != "other"
        if of_others or name in w.fits or not (w.fits if w.in_layer else table):
            continue
        expected = schemes.KNOWN[name].std(w.layer)
        factor = expected / w.statistics.rms
        if distance(factor) < math.log(2) - 0.02 + 3.5 * w.statistics.uncertainty:
            continue
        fits = [n for n in w.fits if w.in_layer or n in schemes.FIXED]
        looks = f"a draw of {fits[0]}" if fits else "a draw of no usual scheme"
        yield Finding(
            id="GI124",
            severity=WARNING,
            tensor=w.parameter.name,
            message=f"it is {looks}, and {share:.0%} of the weights of layers are draws of {name}: "
            f"its root mean square is {w.statistics.rms:.4g}, and by theirs would be "
            f"{expected:.4g}",
            evidence={"rms": w.statistics.rms, "expected": expected, "share": share},
            weight=distance(factor),
        )


def _mistaken(e: Evidence) -> Iterator[Finding]:
    """A mistake in the formula is in all of the weights, so that they agree with each other."""
    found = _without_kernel(e.scales.layers)
    if found is None and not e.scales.scheme[0]:
        found = _times_a_scheme(e.scales.layers)
    if found is not None:
        words, count, of, ratio = found
        yield Finding(
            id="GI125",
            severity=WARNING,
            tensor="",
            message=f"{count} of {of} weights are draws of {words}: all are off by a factor of "
            f"{max(ratio, 1 / ratio):.3g}",
            evidence={"count": count, "weights": of, "ratio": ratio},
            weight=distance(ratio),
        )


def _without_kernel(layers: Sequence[Weight]) -> tuple[str, int, int, float] | None:
    """The mistake, in how many convolutions of how many, and how much too large they are."""
    wide = [w for w in layers if len(w.parameter.shape) > 2 and _area(w) >= 4]
    wrong = [w for w in wide if not w.fits]
    for name, (meant, std) in schemes.KERNEL_MISTAKES.items():
        known, ratios = schemes.KNOWN[meant], []
        for w in wrong:
            fans = w.layer.fan_in / _area(w), w.layer.fan_out / _area(w)
            level = math.log(std(*fans, sum(w.parameter.shape[2:])))
            if abs(level - w.level) <= schemes.tolerance(w.statistics):
                ratios.append(math.exp(level - math.log(known.std(w.layer))))
        if len(ratios) >= _SIBLINGS and len(ratios) >= _MOST * len(wide):
            return name, len(ratios), len(wide), float(np.median(ratios))
    return None


def _area(w: Weight) -> int:
    """Places of a convolution's kernel."""
    return math.prod(w.parameter.shape[2:])


def _times_a_scheme(layers: Sequence[Weight]) -> tuple[str, int, int, float] | None:
    """A scheme times one factor, told from one number for all by layers of different fans."""
    best: tuple[str, int, int, float] | None = None
    one_number = max((_near(w, layers) for w in layers), default=0)
    for name in ("Xavier", "He (fan-in)", "LeCun (fan-in)"):
        levels = [math.log(schemes.KNOWN[name].std(w.layer)) for w in layers]
        middle = float(np.median([w.level - x for w, x in zip(layers, levels, strict=True)] or [0]))
        alike = [
            x
            for w, x in zip(layers, levels, strict=True)
            if abs(w.level - x - middle) <= schemes.tolerance(w.statistics)
        ]
        many = len(alike) > max(_SIBLINGS, one_number) and len(alike) >= _MOST * len(layers)
        if not many or np.ptp(alike) < 0.3 or abs(middle) < math.log(_OFF):
            continue
        if best is None or len(alike) > best[1]:
            ratio = math.exp(middle)
            best = f"{name} times {ratio:.3g}", len(alike), len(layers), ratio
    return best


def _near(w: Weight, layers: Sequence[Weight]) -> int:
    """How many have its scale, whatever their fans."""
    return sum(abs(x.level - w.level) <= schemes.tolerance(x.statistics) for x in layers)


def _cause(w: Weight, factor: float) -> str:
    """What a wrong scale often is, by the factor from what was expected."""
    expected = w.statistics.rms * factor
    near = schemes.tolerance(w.statistics) + 0.01
    causes = {
        "the square of what it should be: a variance given as a standard deviation": expected**2,
        "the root of what it should be: a standard deviation given as a variance": expected**0.5,
        "what fan-out gives in place of fan-in": expected
        * math.sqrt(w.layer.fan_in / w.layer.fan_out),
    }
    for words, level in causes.items():
        if abs(math.log(level) - w.level) < near and abs(math.log(level / expected)) > 0.2:
            return f"; it is {words}"
    return ""


def _finding(
    rule: str,
    w: Weight,
    factor: float,
    words: str,
    evidence: Mapping[str, float],
    *,
    doubtful: bool = False,
) -> Finding:
    p = w.parameter
    undone = f"; {p.undone_by} behind it undoes the scale" if p.undone_by else ""
    small = distance(factor) < math.log(2) - 0.02
    severity = WARNING if undone or doubtful or small else ERROR
    return Finding(
        id=rule,
        severity=severity,
        tensor=p.name,
        message=f"{words}: it is off by a factor of {max(factor, 1 / factor):.3g}"
        + _cause(w, factor)
        + undone,
        evidence=evidence,
        factor=factor,
        weight=distance(factor),
    )


def _scheme_of(e: Evidence) -> Iterator[Finding]:
    """A note on what the network was drawn from."""
    name, share = e.scales.scheme
    if name:
        yield Finding(
            id="GI120",
            severity=NOTE,
            tensor="",
            message=f"{share:.0%} of the weights of layers are draws of {name}",
            evidence={"share": share},
        )


RULES = (
    Rule(
        id="GI120",
        title="The scheme that the network was drawn by",
        severity=NOTE,
        why="Most networks are drawn by one scheme. It is found by the standard deviation, the "
        "fans and the form of the distribution of every weight.",
        remedy="Nothing: this is what other rules compare with.",
        look=_scheme_of,
    ),
    Rule(
        id="GI121",
        title="A scale unlike that of equal layers",
        severity=ERROR,
        why="Blocks of one form have weights of one scale. One that differs was forgotten by the "
        "initialisation, or initialised twice. Layers whose scale follows their depth, or their "
        "place in the block, are told from it, since they have neighbours.",
        remedy="Multiply the tensor by the factor (--fix), and mend the code that draws it.",
        look=_unlike_siblings,
    ),
    Rule(
        id="GI122",
        title="A scale unlike the network's scheme",
        severity=ERROR,
        why="The other weights are draws of one scheme, by their own fans; this one is a draw "
        "neither of that nor of another scheme that papers and frameworks have.",
        remedy="Multiply the tensor by the factor (--fix), and mend the code that draws it.",
        look=_unlike_scheme,
    ),
    Rule(
        id="GI123",
        title="A scale unlike that of all other layers",
        severity=ERROR,
        why="No scheme fits the network, so that only the layers among themselves can be "
        "compared: by their root mean square times the root of their fan-in.",
        remedy="Look at how the tensor is drawn; --fix brings it to the middle of the others.",
        look=_unlike_others,
    ),
    Rule(
        id="GI124",
        title="A weight drawn by another scheme than the others",
        severity=WARNING,
        why="It fits a scheme that papers or frameworks have, so it may be meant; or it was left "
        "out of the network's own initialisation, and kept the framework's default. In a network "
        "of one standard deviation for all, tables are compared, too.",
        remedy="Look whether the code that initialises the network reaches it.",
        look=_other_scheme,
    ),
    Rule(
        id="GI125",
        title="A mistake in the scheme itself",
        severity=WARNING,
        why="All weights agree with each other, and with a scheme times one factor, or with its "
        "formula without the area of the kernel. Nothing stands out then, and all layers are off.",
        remedy="Compare the formula that draws them with the scheme's.",
        look=_mistaken,
    ),
)
