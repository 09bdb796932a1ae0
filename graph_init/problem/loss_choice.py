"""Which loss ``auto`` takes for an output, and why: rules, the strongest evidence first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graph_init.ir import Array, Shape
from graph_init.problem import class_axis
from graph_init.problem.class_axis import ClassAxis, Layout, places
from graph_init.problem.output_head import Head

CLASSES, BINARY, SQUARES = "cross-entropy", "binary-cross-entropy", "mse"
AUTO = "auto"
#: Rows of the targets that are looked at.
_SEEN = 4096


@dataclass(frozen=True)
class Choice:
    """A loss and why it is that one, a sentence. What only looks like it is a ``guess``.

    ``axis`` says why the classes are where they are, if that is a guess.
    """

    kind: str
    reason: str
    guess: bool = False
    axis: str = ""

    @property
    def sentence(self) -> str:
        """The reason; of a guess also that it is one, and which option overrules it."""
        kind = self.reason + (" (a guess; --loss overrules it)" if self.guess else "")
        axis = f"; {self.axis} (a guess; class numbers in --data overrule it)" if self.axis else ""
        return kind + axis


@dataclass(frozen=True)
class Target:
    """What the data's labels are: rows and all, and the least and the greatest of those seen."""

    shape: Shape
    integer: bool
    low: float
    high: float
    binary: bool  # nothing but zeros and ones, and both


def targets(arrays: Mapping[str, Array], prefix: str) -> dict[str, Target]:
    """The targets among ``arrays``, whose names are ``prefix``, or go on with a colon behind it."""
    found = {}
    for name, array in arrays.items():
        if name.split(":")[0] != prefix or array.dtype.kind not in "biuf" or not array.size:
            continue
        seen = np.asarray(array[:_SEEN] if array.ndim else array)
        low, high = float(seen.min()), float(seen.max())
        binary = (low, high) == (0, 1) and bool(((seen == 0) | (seen == 1)).all())
        found[name] = Target(
            shape=array.shape, integer=array.dtype.kind in "iu", low=low, high=high, binary=binary
        )
    return found


@dataclass(frozen=True)
class Evidence:
    """What is known of an output.

    ``last`` is the operator that it comes from in the lowered graph, behind views; ``inputs`` are
    the shapes of the model's float inputs.
    """

    output: str
    shape: Shape
    last: str = ""
    head: Head = field(default_factory=Head)
    inputs: Sequence[Shape] = ()
    target: Target | None = None

    @property
    def axis(self) -> ClassAxis:
        """Where classes would be."""
        t = self.target
        known = t.shape if t is not None and t.integer and len(t.shape) < len(self.shape) else None
        return class_axis.find(Layout(self.shape, self.head.axis, self.inputs, known))

    @property
    def single(self) -> bool:
        """Whether there is one number a row (or a place): no choice between classes."""
        return len(self.shape) < 2 or self.classes == 1

    @property
    def classes(self) -> int:
        """The size of the axis on which classes would be."""
        return self.shape[self.axis.index]

    @property
    def image(self) -> bool:
        return len(self.shape) >= 4 and math.prod(places(self.shape, self.axis.index)) > 1


@dataclass(frozen=True)
class Facts:
    """What is known of a model before its outputs are: ``heads`` by output, ``targets`` by name."""

    heads: Mapping[str, Head] = field(default_factory=dict)
    inputs: Sequence[Shape] = ()
    targets: Mapping[str, Target] = field(default_factory=dict)

    def of(self, output: str, shape: Shape, last: str, names: Sequence[str]) -> Evidence:
        """The evidence on ``output``, whose target may have any of ``names``."""
        target = next((self.targets[n] for n in names if n in self.targets), None)
        head = self.heads.get(output, Head())
        return Evidence(
            output=output, shape=shape, last=last, head=head, inputs=self.inputs, target=target
        )


def choose(evidence: Evidence) -> Choice:
    """The loss that the first rule with an answer gives."""
    for rule in RULES:
        found = rule(evidence)
        if found is not None:
            return found
    raise AssertionError("the last rule always answers")


# ---- what is certain

_OPERATORS = {"Softmax": CLASSES, "LogSoftmax": CLASSES, "Sigmoid": BINARY}


def _operator(e: Evidence) -> Choice | None:
    kind = _OPERATORS.get(e.last)
    if kind == BINARY and e.target is not None and not 0 <= e.target.low <= e.target.high <= 1:
        return Choice(SQUARES, f"targets go from {e.target.low:.3g} to {e.target.high:.3g}")
    if kind is None or (kind == CLASSES and len(e.shape) < 2):
        return None
    if kind == BINARY and (word := _known(e.output, _OUTPUTS)) and word[1] == SQUARES:
        return Choice(SQUARES, f"the output is called '{e.output}'", guess=True)
    return Choice(kind, f"the output '{e.output}' comes from {e.last}")


def _targets(e: Evidence) -> Choice | None:
    t = e.target
    if t is None:
        return None
    if t.integer and len(t.shape) == len(e.shape) - 1 and not e.single:
        return Choice(CLASSES, "the targets are class numbers")
    # One number a row needs no axis of its own.
    if t.shape[1:] == e.shape[1:] or math.prod(t.shape[1:]) == math.prod(e.shape[1:]) == 1:
        if t.binary:
            return Choice(BINARY, "the targets are zeros and ones, in the output's shape")
        return Choice(SQUARES, "the targets are numbers in the output's shape")
    return None


def _tied(e: Evidence) -> Choice | None:
    if e.head.table is None or e.single:
        return None
    if e.classes not in {rows for name, rows in e.head.tables if name == e.head.table}:
        return None
    return Choice(CLASSES, f"the last layer's weight is the embedding table '{e.head.table}'")


# ---- guesses

_BOTH = {
    CLASSES: "logit logits class classes classifier classification category categories label "
    "labels score scores softmax vocab cls",
    SQUARES: "box boxes bbox bboxes regression regressor regress reconstruction reconstructed "
    "recon denoised denoise noise eps velocity depth disparity flow pose keypoints landmarks "
    "heatmap heatmaps offset offsets coordinates distance price restored upscaled rgb waveform "
    "spectrogram forecast quantiles",
}
_OUTPUTS_MORE = {
    CLASSES: "prob probs probability probabilities prediction_scores",
    SQUARES: "mask masks embedding embeddings embed embeds hidden feature features latent latents "
    "pooled pooler mu sample value values image images pixels audio decoded grid",
}
_PARAMETERS_MORE = {CLASSES: "lm predictions", SQUARES: "pixel pixels"}


def _table(*parts: Mapping[str, str]) -> dict[str, str]:
    return {w: kind for part in parts for kind, words in part.items() for w in words.split()}


_OUTPUTS = _table(_BOTH, _OUTPUTS_MORE)
_PARAMETERS = _table(_BOTH, _PARAMETERS_MORE)


def _known(name: str, table: Mapping[str, str]) -> tuple[str, str] | None:
    """The last word of ``name`` that the table has, and the loss that it speaks for."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    found = [(w, table[w.lower()]) for w in words if w.lower() in table]
    return found[-1] if found else None


def _named(names: Iterable[str], table: Mapping[str, str], what: str, e: Evidence) -> Choice | None:
    for name in names:
        word = _known(name, table)
        if word is None:
            continue
        if word[1] == SQUARES:
            return Choice(SQUARES, f"{what} is called '{name}'", guess=True)
        if e.single:
            return Choice(SQUARES, f"{what} is called '{name}', but has one column", guess=True)
        return Choice(CLASSES, f"{what} is called '{name}', as scores of classes are", guess=True)
    return None


def _output_name(e: Evidence) -> Choice | None:
    return _named([e.output], _OUTPUTS, "the output", e)


def _layer_name(e: Evidence) -> Choice | None:
    return _named(e.head.names, _PARAMETERS, "the last layer", e)


def _vocabulary(e: Evidence) -> Choice | None:
    if e.single or len(e.shape) < 2:
        return None
    for name, rows in e.head.tables:
        if rows == e.classes and rows > 2:
            words = f"the class axis has as many elements, {rows}, as the table '{name}' has rows"
            return Choice(CLASSES, words, guess=True)
    return None


def _column(e: Evidence) -> Choice | None:
    if e.single and not e.image:
        words = "row" if len(e.shape) <= 2 else "position"
        return Choice(SQUARES, f"the output has one number for each {words}", guess=True)
    return None


def _like_an_input(e: Evidence) -> Choice | None:
    if e.shape in e.inputs:
        return Choice(SQUARES, "the output has the shape of an input", guess=True)
    return None


#: Operators that bound or normalise what a regression or an embedding gives, not logits.
_BOUNDED = frozenset(
    "Tanh LayerNormalization RMSNormalization SimplifiedLayerNormalization "
    "SkipLayerNormalization BatchNormalization LpNormalization Sin Cos Exp Softplus".split()
)


def _last_operator(e: Evidence) -> Choice | None:
    found = next((op for op in (e.head.last, e.last) if op in _BOUNDED), None)
    if found is None:
        return None
    return Choice(SQUARES, f"the output comes from {found}, and logits do not", guess=True)


def _image(e: Evidence) -> Choice | None:
    """Images of classes have their input's size and other channels; other images are regression."""
    if not e.image:
        return None
    axis, channels = e.axis.index, e.classes
    for given in e.inputs:
        # An input may have its channels where the output does not.
        for own in (1, len(given) - 1) if len(given) == len(e.shape) and channels > 1 else ():
            if channels in (3, given[own]) or places(given, own) != places(e.shape, axis):
                continue
            words = f"the output has {channels} channels in the size of an input"
            return Choice(CLASSES, words + ", like a segmentation", guess=True)
    return Choice(SQUARES, "the output is an image", guess=True)


def _sequence(e: Evidence) -> Choice | None:
    if len(e.shape) != 3:
        return None
    widths = {s[-1] for s in e.inputs if s}
    if e.head.layer in ("MatMul", "Gemm", "FusedMatMul") and e.classes not in widths:
        return Choice(
            CLASSES, f"the last layer gives {e.classes} numbers for each position", guess=True
        )
    return Choice(SQUARES, "the output is a sequence of vectors", guess=True)


def _columns(e: Evidence) -> Choice | None:
    if len(e.shape) < 2 or e.image:
        return None
    return Choice(
        CLASSES, f"the output has {e.classes} columns, like scores of classes", guess=True
    )


def _rest(e: Evidence) -> Choice | None:
    return Choice(SQUARES, "nothing suggests that its elements are classes", guess=True)


#: The strongest first. What is certain, names, sizes.
RULES: Sequence[Callable[[Evidence], Choice | None]] = (
    _operator,
    _targets,
    _tied,
    _output_name,
    _layer_name,
    _vocabulary,
    _column,
    _like_an_input,
    _last_operator,
    _image,
    _sequence,
    _columns,
    _rest,
)
