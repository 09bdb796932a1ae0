"""Rules of a tensor's contents: numbers that no initialisation means."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graph_init.analysis import Parameter
from graph_init.check.evidence import Evidence
from graph_init.check.findings import ERROR, NOTE, WARNING, Finding
from graph_init.check.rules.rule import Rule
from graph_init.check.statistics import equal_rows, missing_rank
from graph_init.ir import Array

#: Shares from which on something counts.
_SUBNORMAL, _CLIPPED, _MISSING_RANK, _EQUAL = 0.01, 0.02, 0.25, 0.1
#: Elements that two draws are compared by, and the correlation of one seed.
_COMPARED, _SAME = 64, 0.9999


def _nonfinite(e: Evidence) -> Iterator[Finding]:
    for p, s in e.tensors:
        if s.nonfinite:
            yield Finding(
                id="GI101",
                severity=ERROR,
                tensor=p.name,
                message=f"{s.nonfinite} of {s.size} elements are infinite or NaN",
                evidence={"nonfinite": s.nonfinite, "elements": s.size},
                weight=math.inf,
            )


def _subnormal(e: Evidence) -> Iterator[Finding]:
    for p, s in e.tensors:
        tiny = 0 < s.largest < 1e-30
        if s.subnormal > _SUBNORMAL or tiny:
            yield Finding(
                id="GI102",
                severity=ERROR if tiny else WARNING,
                tensor=p.name,
                message=f"{s.subnormal:.0%} of its elements are subnormal and the largest is "
                f"{s.largest:.2g}: memory that was never written looks so",
                evidence={"subnormal": s.subnormal, "largest": s.largest},
                weight=math.inf if tiny else 0.0,
            )


def _constant(e: Evidence) -> Iterator[Finding]:
    for p, s in e.layers:
        if s.is_constant and s.rms and len(p.shape) > 1 and not _single(p):
            yield Finding(
                id="GI103",
                severity=ERROR,
                tensor=p.name,
                message=f"all {s.size} elements are {s.mean:.4g}: its units are the same, and "
                "stay so",
                evidence={"value": s.mean, "elements": s.size},
            )


def _single(p: Parameter) -> bool:
    """Whether it has one unit, or reads one: nothing is equal to another there."""
    return max(p.shape) == math.prod(p.shape)


def _zero(e: Evidence) -> Iterator[Finding]:
    """Zero weights are meant where they can be learnt; where no gradient comes, they stay so."""
    for p, s in e.layers:
        if s.largest or s.nonfinite:
            continue
        g = None if e.gradient is None else e.gradient.tensors.get(p.name)
        stuck = g is not None and g.zero == 1.0
        evidence = {"elements": float(s.size)}
        if g is not None:
            evidence["gradient_norm"] = g.norm
        words = "no gradient reaches it, so it stays so" if stuck else "it is learnt from there on"
        yield Finding(
            id="GI104",
            severity=ERROR if stuck else NOTE,
            tensor=p.name,
            message=f"all elements are zero; {words}",
            evidence=evidence,
        )


def _same_seed(e: Evidence) -> Iterator[Finding]:
    seen: list[tuple[str, Array]] = []
    for p, s in e.layers:
        array = e.values[p.name].reshape(-1)
        if array.size < _COMPARED or s.is_constant:
            continue
        head = array[:_COMPARED].astype(np.float64)
        size = float(np.linalg.norm(head))
        if not size or not math.isfinite(size) or np.count_nonzero(head) < _COMPARED // 2:
            continue
        head = head / size
        for other, theirs in seen:
            alike = abs(float(head @ theirs))
            if alike > _SAME:
                yield Finding(
                    id="GI105",
                    severity=WARNING,
                    tensor=p.name,
                    message=f"its first {_COMPARED} elements are those of '{other}' times a "
                    "number: both were drawn from one seed, or one is a copy",
                    evidence={"correlation": alike},
                )
                break
        else:
            seen.append((p.name, head))


def _symmetry(e: Evidence) -> Iterator[Finding]:
    for p, s in e.layers:
        if s.is_constant or not s.largest or len(p.shape) < 2:
            continue
        # Units are rows or columns, by how the layer stores them.
        array = e.values[p.name]
        found = equal_rows(array.T if p.transposed and array.ndim == 2 else array)
        rows = p.shape[-1] if p.transposed and len(p.shape) == 2 else p.shape[0]
        if found and found >= max(1, _EQUAL * rows):
            yield Finding(
                id="GI106",
                severity=ERROR if found > rows / 2 else WARNING,
                tensor=p.name,
                message=f"{found} of {rows} units are copies of another one: they compute the "
                "same, and training keeps them equal",
                evidence={"copies": found, "units": rows},
            )


def _rank(e: Evidence) -> Iterator[Finding]:
    for p, s in e.layers:
        if s.is_constant or s.nonfinite or not s.largest or s.zeros > 0.2:
            continue
        missing = missing_rank(e.values[p.name])
        if missing > _MISSING_RANK:
            yield Finding(
                id="GI107",
                severity=WARNING,
                tensor=p.name,
                message=f"{missing:.0%} of the singular values of the part that was looked at are "
                "zero",
                evidence={"missing": missing},
            )


def _clipped(e: Evidence) -> Iterator[Finding]:
    for p in e.weights:
        s = e.statistics[p.name]
        if s.size >= 256 and not s.is_constant and s.at_limit > _CLIPPED and s.kurtosis > 1.1:
            yield Finding(
                id="GI108",
                severity=WARNING,
                tensor=p.name,
                message=f"{s.at_limit:.0%} of the elements have the largest magnitude "
                f"{s.largest:.4g}: the draw was clipped where it should have been drawn again",
                evidence={"at_limit": s.at_limit, "largest": s.largest},
            )


def _variance(e: Evidence) -> Iterator[Finding]:
    for p, s in e.tensors:
        if p.statistic == "variance" and s.smallest <= 0:
            yield Finding(
                id="GI109",
                severity=ERROR if s.smallest < 0 or s.is_constant else WARNING,
                tensor=p.name,
                message=f"a running variance of {s.smallest:.3g}: outputs of that channel are "
                "divided by the root of epsilon",
                evidence={"smallest": s.smallest},
            )


def _norm_gain(e: Evidence) -> Iterator[Finding]:
    for p, s in e.tensors:
        # A constant below is the start of a branch that is meant to begin small.
        least = 0.0 if s.is_constant else 0.1
        if p.kind == "norm gain" and s.rms and not least <= s.rms <= 10:
            yield Finding(
                id="GI110",
                severity=WARNING,
                tensor=p.name,
                message=f"the gain of a norm has a root mean square of {s.rms:.3g}, where 1 is "
                "usual",
                evidence={"rms": s.rms},
                factor=1 / s.rms,
                weight=abs(math.log(s.rms)),
            )


RULES = (
    Rule(
        id="GI101",
        title="Elements that are not finite",
        severity=ERROR,
        why="One element that is infinite or NaN makes every output, and every gradient, NaN.",
        remedy="Draw the tensor again, and look for the division or the logarithm that made it.",
        look=_nonfinite,
        of_trained=True,
    ),
    Rule(
        id="GI102",
        title="Memory that was never written",
        severity=ERROR,
        why="Frameworks make tensors without writing to them (torch.empty). Where a module's own "
        "initialisation then forgets one, it holds what was in memory: often numbers below "
        "1e-38.",
        remedy="Add the tensor to the module's initialisation.",
        look=_subnormal,
        of_trained=True,
    ),
    Rule(
        id="GI103",
        title="A weight whose elements are all equal",
        severity=ERROR,
        why="Units with equal weights compute the same, get the same gradient, and stay equal: "
        "the layer is as good as one unit.",
        remedy="Draw the weight from a scheme: --scheme he fills weights that are constant.",
        look=_constant,
        of_trained=True,
    ),
    Rule(
        id="GI104",
        title="A weight that is zero, and stays so",
        severity=ERROR,
        why="A zero weight is a good start at the end of a residual branch or at a network's "
        "end, since its own gradient is not zero (then this is a note). Where a second zero, or "
        "a dead activation, stands in the way, no gradient comes and it is never learnt.",
        remedy="Leave one of the two factors nonzero.",
        look=_zero,
        of_trained=True,
    ),
    Rule(
        id="GI105",
        title="Two weights drawn from one seed",
        severity=WARNING,
        why="Weights of the same random numbers are not independent: layers begin as copies of "
        "each other. A key that was used twice, a generator that was made anew, or a layer that "
        "was copied (as PyTorch's TransformerEncoder does) is the usual cause.",
        remedy="Split the key, make one generator, or initialise each copy.",
        look=_same_seed,
    ),
    Rule(
        id="GI106",
        title="Units that are copies of each other",
        severity=ERROR,
        why="Units of a layer with equal weights get equal gradients: training cannot tell them "
        "apart.",
        remedy="Draw every unit for itself.",
        look=_symmetry,
    ),
    Rule(
        id="GI107",
        title="A matrix that lacks rank",
        severity=WARNING,
        why="Directions of the input that the matrix maps to zero are lost to all layers behind "
        "it.",
        remedy="Draw the whole matrix; a repeated or tiled block has the rank of the block.",
        look=_rank,
    ),
    Rule(
        id="GI108",
        title="A distribution that was clipped",
        severity=WARNING,
        why="A truncated normal distribution is drawn again beyond its limits. Clipped, its mass "
        "lies on the limits, and its standard deviation is another one than was asked for.",
        remedy="Use the framework's truncated normal.",
        look=_clipped,
    ),
    Rule(
        id="GI109",
        title="A running variance that is zero or below",
        severity=ERROR,
        why="Batch norm divides by its root: by that of epsilon alone if it is zero, and by NaN "
        "below.",
        remedy="Set running variances to 1 before training.",
        look=_variance,
        of_trained=True,
    ),
    Rule(
        id="GI110",
        title="A norm's gain far from one",
        severity=WARNING,
        why="The gain of a norm decides the size of all that follows it.",
        remedy="Set it to 1, or to 0 at the end of a residual branch.",
        look=_norm_gain,
    ),
)
