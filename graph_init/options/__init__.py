"""Every option once: its default, its help, its choices, and the check of its value.

An option is a field of a frozen dataclass. From these fields come the options of the command line
(:mod:`graph_init.cli.options`), the keys of a manifest (:mod:`graph_init.zoo.manifest`), and what a
result says of how it was made. Values are checked and brought into their own type when an object is
made, so that a size such as ``"8GB"`` is a number of bytes from then on. A new option is a field
here, a line of :mod:`graph_init.options.keywords`, and its use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graph_init.errors import UsageError
from graph_init.options.checks import (
    Data,
    Dimensions,
    Duration,
    Flag,
    Gain,
    Loss,
    Number,
    OneOf,
    Patterns,
    Rules,
    Size,
    Texts,
    Values,
)
from graph_init.options.fields import Checked, of, option

# What is computed, and how ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ParameterOptions(Checked):
    """Which tensors are parameters."""

    trainable: Sequence[str] = option(
        (), "Treat these tensors as parameters.", Patterns(), metavar="REGEX"
    )
    freeze: Sequence[str] = option(
        (), "Do not treat these tensors as parameters.", Patterns(), metavar="REGEX"
    )


@dataclass(frozen=True, kw_only=True)
class ProblemOptions(Checked):
    """What is computed: the loss, and on which batches."""

    data: Any = option(
        None,
        "Real data: arrays by input name, and 'target' ('target:OUTPUT' for one of several); or a "
        "folder of .npy files. Without it: random batches.",
        Data(),
        metavar="FILE.npz",
        summary=lambda value: "random" if value is None else "given",
    )
    batch_size: int | None = option(
        None, "Rows in a batch.", Number(int, 1), metavar="N", absent="16"
    )
    seed: int = option(0, "Seed of all random numbers.", Number(int))
    loss: Any = option(
        "auto",
        "Loss function; auto: chosen from the output.",
        Loss(("auto", "cross-entropy", "binary-cross-entropy", "mse")),
    )
    output_name: str | Sequence[str] | None = option(
        (),
        "The output that the loss reads; several: the sum of their losses.",
        Texts(),
        metavar="NAME",
    )
    dims: Mapping[str, int] | None = option(
        None,
        "Size of a symbolic dimension.",
        Dimensions(),
        flag="dim",
        metavar="NAME=SIZE",
        absent="solved, see inspect",
    )
    input: Mapping[str, float | bool] | None = option(
        None,
        "Value of an input that only steers: a rate, a length, a flag, a mask.",
        Values(),
        metavar="NAME=VALUE",
        absent="found, see inspect",
    )
    batch_norm: str = option(
        "eval",
        "Batch norms use running statistics (eval) or the batch's (train).",
        OneOf(("eval", "train")),
    )


@dataclass(frozen=True, kw_only=True)
class ComputationOptions(Checked):
    """How it is computed."""

    method: str = option(
        "taylor",
        "taylor: exact; finite-difference: from first-order gradients.",
        OneOf(("taylor", "finite-difference")),
    )
    difference_step: float | None = option(
        None,
        "Step along the gradient for finite differences.",
        Number(above=0),
        metavar="H",
        absent="0.0001·‖θ‖/‖g‖",
    )
    micro_batch: int | None = option(
        None,
        "Rows computed at a time: less memory, more time, the same result.",
        Number(int, 1),
        metavar="N",
    )
    device: str = option(
        "cpu",
        "Device that computes; auto: an accelerator if there is one.",
        OneOf(("auto", "cpu", "cuda", "mps")),
    )
    engine: str = option(
        "auto",
        "Library that computes; auto: the installed onnxruntime, else PyTorch.",
        OneOf(("auto", "onnxruntime", "onnxruntime-training", "torch")),
    )
    memory_limit: int | None = option(
        None,
        "Largest memory to use, such as 8GB.",
        Size(),
        metavar="SIZE",
        absent="what is available",
        summary=None,
    )


@dataclass(frozen=True, kw_only=True)
class GradientOptions(Checked):
    """What is computed beside gradient deviation."""

    scale_gradient: bool = option(
        False, "Add the derivative in every log-scale.", Flag(), summary=None
    )


@dataclass(frozen=True, kw_only=True)
class Options(GradientOptions, ComputationOptions, ProblemOptions, ParameterOptions):
    """All that a measurement depends on. ``whole_file``: all rows of the data are one batch."""

    whole_file: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.difference_step is not None and self.method != "finite-difference":
            raise UsageError("--difference-step belongs to --method finite-difference")


@dataclass(frozen=True, kw_only=True)
class WritingOptions(Checked):
    """What is written otherwise than the model has it, beside the weights."""

    free_batch: bool = option(
        False,
        "Write a model that takes batches of any size, where the file fixes one.",
        Flag(),
        summary=None,
    )


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Checked):
    """Which findings there are."""

    ignore: Sequence[str] = option(
        (), "Do not ask this rule, such as GI304.", Rules(), metavar="ID", summary=None
    )


@dataclass(frozen=True, kw_only=True)
class LimitOptions(Checked):
    """What a model of a zoo may take."""

    time_limit: float | None = option(
        None,
        "Time limit of each model, such as 90s or 15m.",
        Duration(),
        metavar="TIME",
        absent="1h",
        summary=None,
    )


# Initial weights ----------------------------------------------------------------------------------

#: What the weights are before tuning; :mod:`graph_init.init.schemes` has what each of them draws.
SCHEMES = tuple(
    "keep he he-uniform xavier xavier-uniform lecun lecun-uniform orthogonal delta-orthogonal lsuv "
    "truncated-normal".split()
)
#: What frameworks call them, to be suggested.
_OTHER_SCHEMES = {
    "kaiming": "he",
    "kaiming-normal": "he",
    "he-normal": "he",
    "kaiming-uniform": "he-uniform",
    "glorot": "xavier",
    "glorot-normal": "xavier",
    "xavier-normal": "xavier",
    "glorot-uniform": "xavier-uniform",
    "lecun-normal": "lecun",
    "trunc-normal": "truncated-normal",
    "none": "keep",
}
#: The setting → the schemes that have it.
_BELONGS_TO = {
    "gain": tuple(n for n in SCHEMES if n not in ("keep", "truncated-normal", "lsuv")),
    "std": ("truncated-normal",),
}


@dataclass(frozen=True)
class InitialWeights(Checked):
    """A scheme with its settings."""

    scheme: str = option(
        "keep",
        f"Weights before tuning: {', '.join(SCHEMES)}.",
        OneOf(SCHEMES, _OTHER_SCHEMES),
    )
    gain: float | str | None = option(
        None,
        "Factor on the scheme's weights, or 'activation': by what follows each layer.",
        Gain(),
        metavar="FACTOR",
    )
    std: float | None = option(
        None, "Standard deviation of truncated-normal.", Number(above=0), absent="0.02"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, schemes in _BELONGS_TO.items():
            if getattr(self, field) is not None and self.scheme not in schemes:
                raise UsageError(f"--{field} belongs to --scheme {', '.join(schemes)}")


# Tuners -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuner(Checked):
    """Base of the tuners' settings. What tunes with them is in :mod:`graph_init.tuning.registry`.

    ``scale_gradient``: whether the tuner needs the derivative of gradient deviation.
    """

    name: ClassVar[str]
    scale_gradient: ClassVar[bool] = False
    #: What an entry of the history is, in the plural.
    entries: ClassVar[str] = "steps"

    @property
    def total(self) -> int | None:
        """Entries that the history will have; None if that turns out on the way."""
        return None

    @property
    def accepts_nonfinite(self) -> bool:
        """Whether it can start where the numbers are not finite."""
        return False


@dataclass(frozen=True)
class Restore(Tuner):
    """The forward signal is restored, and the state is taken that learns best in a short trial.

    Attributes:
        updates: of each trial; with 0 there is none, and the scales stay 1.
    """

    name: ClassVar[str] = "restore"
    entries: ClassVar[str] = "states"

    updates: int = option(30, "Updates of a trial; 0: the scheme alone.", Number(int, 0))

    @property
    def accepts_nonfinite(self) -> bool:
        return self.updates > 0


@dataclass(frozen=True)
class MetaInit(Tuner):
    """The published algorithm, which lowers gradient deviation (MetaInit, NeurIPS 2019).

    Attributes:
        steps: of the descent; with 0 the scales stay 1.
        rate: by which a step moves the norms.
        momentum: share of the last step's movement that the next one keeps.
    """

    name: ClassVar[str] = "metainit"
    scale_gradient: ClassVar[bool] = True

    steps: int = option(500, "Steps of the descent; 0: the scheme alone.", Number(int, 0))
    rate: float = option(0.1, "Change of every norm in a step.", Number(above=0))
    momentum: float = option(
        0.9, "Share of a step that the next one keeps.", Number(least=0, below=1)
    )

    @property
    def total(self) -> int | None:
        return self.steps


TUNERS: dict[str, type[Tuner]] = {kind.name: kind for kind in (Restore, MetaInit)}
#: docs/tuning.md has the experiments that this choice follows from.
DEFAULT_TUNER = Restore.name
#: Names of earlier texts, to be suggested.
OTHER_TUNERS = {"signal": "restore", "sign": "metainit"}


def tuner(
    chosen: str | Tuner,
    settings: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Tuner:
    """The tuner of that name with these settings, of which None stands for the default.

    ``flags`` are the settings' options on the command line, where they have other names there.
    UsageError for an unknown name, and for settings that the tuner does not have.
    """
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    flags = {k: f"--{k}" for k in given} | dict(flags or {})
    if isinstance(chosen, Tuner):
        if given:
            own = ", ".join(f"{k}={v!r}" for k, v in given.items())
            raise UsageError(
                f"a tuner that is given as an object has its settings: write "
                f"{type(chosen).__name__}({own})"
            )
        return chosen
    OneOf(tuple(TUNERS), OTHER_TUNERS)("--tuner", chosen)
    own_options = of(TUNERS[chosen])
    for name in given:
        if name not in own_options:
            owners = [n for n, kind in TUNERS.items() if name in of(kind)]
            raise UsageError(
                f"{flags[name]} belongs to --tuner {', '.join(owners)}; {chosen}, which is chosen, "
                f"has {', '.join(f'--{k}' for k in own_options)}"
            )
    return TUNERS[chosen](**given)


def tuner_settings(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``keywords`` that are settings of some tuner."""
    return {k: v for k, v in keywords.items() if any(k in of(kind) for kind in TUNERS.values())}
