"""Rules of a tensor's scale: against its siblings, and against the network's own scheme.

A scale is only known to be wrong beside others. The first evidence are siblings: weights of one
kind and shape, of which a network of equal blocks has many. The second is the scheme by which most
of the network was drawn: a weight that is no draw of it, nor of any other scheme that is known, was
not meant so. A norm right behind a layer undoes its scale; then a finding is a warning at most.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_init.analysis import Parameter
from graph_init.check import schemes
from graph_init.check.evidence import LAYERS, Evidence
from graph_init.check.findings import ERROR, NOTE, WARNING, Finding, distance
from graph_init.check.rules.rule import Rule
from graph_init.check.statistics import Statistics

#: From this factor on a tensor is off; below it, schemes differ among themselves.
_OFF = 1.5
#: Nearer than this to a sibling it is meant: some are scaled by their depth.
_NEAR = 1.25
#: So many siblings, and so many weights of one scheme, make a rule; and the scheme's share.
_SIBLINGS, _DRAWN, _SHARE = 3, 3, 0.6
#: Tensors with fewer elements say little of what they were drawn from.
_TOLD = 16
#: Where there is neither: so many median deviations, and this factor at least.
_DEVIATIONS, _FAR = 5.0, 3.0


@dataclass(frozen=True)
class _Weight:
    parameter: Parameter
    statistics: Statistics
    layer: schemes.Layer

    @property
    def level(self) -> float:
        return math.log(self.statistics.rms)


def _weights(e: Evidence) -> list[_Weight]:
    found = []
    for p in e.weights:
        s = e.statistics[p.name]
        told = s.size >= _TOLD and s.rms > 0 and not s.nonfinite and not s.is_constant
        if told and math.isfinite(s.rms) and (p.kind in LAYERS or len(p.shape) > 1):
            found.append(_Weight(p, s, schemes.layer(p)))
    return found


def _siblings(weights: Sequence[_Weight]) -> Mapping[object, list[_Weight]]:
    groups: dict[object, list[_Weight]] = defaultdict(list)
    for w in weights:
        p = w.parameter
        groups[p.kind, p.shape, p.fan_in, p.fan_out].append(w)
    return groups


def _network_scheme(weights: Sequence[_Weight]) -> tuple[str, float]:
    """The scheme that most weights of layers are draws of, and their share; empty if none is."""
    layers = [w for w in weights if w.parameter.kind in LAYERS]
    votes = Counter(n for w in layers for n in schemes.fitting(w.statistics, w.layer))
    if not votes:
        return "", 0.0
    most = max(votes.values())
    name = next(n for n in schemes.KNOWN if votes[n] == most)
    if most < _DRAWN or most < _SHARE * len(layers):
        return "", most / len(layers)
    return name, most / len(layers)


def _unlike_siblings(e: Evidence) -> Iterator[Finding]:
    weights = _weights(e)
    groups = _siblings(weights)
    for w in weights:
        others = _others(w, groups)
        if len(others) >= _SIBLINGS - 1:
            yield from _beside_siblings(w, others)


def _unlike_scheme(e: Evidence) -> Iterator[Finding]:
    weights = _weights(e)
    name, share = _network_scheme(weights)
    for w in _alone(weights) if name else ():
        yield from _beside_scheme(w, name, share)


def _unlike_others(e: Evidence) -> Iterator[Finding]:
    weights = _weights(e)
    if not _network_scheme(weights)[0]:
        layers = [w for w in weights if w.parameter.kind in LAYERS]
        for w in _alone(weights):
            yield from _beside_all(w, layers)


def _others(w: _Weight, groups: Mapping[object, list[_Weight]]) -> list[_Weight]:
    p = w.parameter
    return [x for x in groups[p.kind, p.shape, p.fan_in, p.fan_out] if x is not w]


def _alone(weights: Sequence[_Weight]) -> list[_Weight]:
    """Weights of layers with too few siblings to compare with, which fit no scheme."""
    groups = _siblings(weights)
    return [
        w
        for w in weights
        if w.parameter.kind in LAYERS
        and len(_others(w, groups)) < _SIBLINGS - 1
        and not schemes.fitting(w.statistics, w.layer)
    ]


def _beside_siblings(w: _Weight, others: Sequence[_Weight]) -> Iterator[Finding]:
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
        words=f"its root mean square is {w.statistics.rms:.4g}, and that of "
        f"{len(others)} weights of the "
        f"same shape is {expected:.4g}",
        evidence={"rms": w.statistics.rms, "expected": expected, "siblings": float(len(others))},
        doubtful=w.parameter.kind not in LAYERS,
    )


def _beside_scheme(w: _Weight, name: str, share: float) -> Iterator[Finding]:
    expected = schemes.KNOWN[name].std(w.layer)
    factor = expected / w.statistics.rms
    if distance(factor) < math.log(_OFF) + 3.5 * w.statistics.uncertainty:
        return
    yield _finding(
        rule="GI122",
        w=w,
        factor=factor,
        words=f"its root mean square is {w.statistics.rms:.4g}; {share:.0%} "
        f"of the weights are draws of "
        f"{name}, which gives {expected:.4g}, and it fits no other usual scheme",
        evidence={"rms": w.statistics.rms, "expected": expected, "share": share},
    )


def _beside_all(w: _Weight, weights: Sequence[_Weight]) -> Iterator[Finding]:
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
        words=f"its root mean square times √fan-in is "
        f"{math.exp(own[id(w)]):.3g}, and in the middle of "
        f"all layers {math.exp(middle):.3g}",
        evidence={"scaled": math.exp(own[id(w)]), "middle": math.exp(middle), "spread": usual},
        doubtful=usual > math.log(_OFF),
    )


def _cause(w: _Weight, factor: float) -> str:
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
    w: _Weight,
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
    name, share = _network_scheme(_weights(e))
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
        why="Most networks are drawn by one scheme. It is found by the "
        "standard deviation, the fans "
        "and the form of the distribution of every weight.",
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
        why="The other weights are draws of one scheme, by their own "
        "fans; this one is a draw neither "
        "of that nor of another scheme that papers and frameworks have.",
        remedy="Multiply the tensor by the factor (--fix), and mend the code that draws it.",
        look=_unlike_scheme,
    ),
    Rule(
        id="GI123",
        title="A scale unlike that of all other layers",
        severity=ERROR,
        why="No scheme fits the network, so that only the layers among "
        "themselves can be compared: by "
        "their root mean square times the root of their fan-in.",
        remedy="Look at how the tensor is drawn; --fix brings it to the middle of the others.",
        look=_unlike_others,
    ),
)
