"""What a PyTorch module itself says of the loss that it is trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

_CLASSES, _BINARY, _SQUARES = "cross-entropy", "binary-cross-entropy", "mse"

#: PyTorch's functions of a loss, and the loss of this program that is the same or the nearest.
_FUNCTIONS = {
    "cross_entropy_loss": _CLASSES,
    "nll_loss": _CLASSES,
    "nll_loss_nd": _CLASSES,
    "nll_loss2d": _CLASSES,
    "binary_cross_entropy": _BINARY,
    "binary_cross_entropy_with_logits": _BINARY,
    "mse_loss": _SQUARES,
    "l1_loss": _SQUARES,
    "smooth_l1_loss": _SQUARES,
    "huber_loss": _SQUARES,
}

#: ``problem_type`` of a configuration of transformers.
_PROBLEMS = {
    "regression": _SQUARES,
    "single_label_classification": _CLASSES,
    "multi_label_classification": _BINARY,
}

#: Ends of class names of transformers of which the configuration has a problem type or labels.
_CLASSIFIERS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
)

#: Ends of other class names; those with CTC sum over alignments, of which this is the nearest.
_HEADS = {
    "ForCausalLM": _CLASSES,
    "LMHeadModel": _CLASSES,
    "LMHead": _CLASSES,
    "ForMaskedLM": _CLASSES,
    "ForConditionalGeneration": _CLASSES,
    "ForTokenClassification": _CLASSES,
    "ForQuestionAnswering": _CLASSES,
    "ForMultipleChoice": _CLASSES,
    "ForNextSentencePrediction": _CLASSES,
    "ForSemanticSegmentation": _CLASSES,
    "ForCTC": _CLASSES,
    "ForDepthEstimation": _SQUARES,
    "ForImageSuperResolution": _SQUARES,
    "ForMaskedImageModeling": _SQUARES,
}


def stated(module: nn.Module, program: Any, with_loss: bool) -> tuple[str, str] | None:
    """The loss and where that stands, a sentence; None where the module does not say.

    ``program`` is the module as ``torch.export`` has it, and ``with_loss`` says that a loss is
    among its outputs: then the function that computes it is looked up there.
    """
    if with_loss:
        called = dict.fromkeys(f for f in _called(program) if f in _FUNCTIONS)
        kinds = {_FUNCTIONS[f] for f in called}
        if len(kinds) == 1:
            return kinds.pop(), f"the module's own loss calls {', '.join(called)}"
    config = getattr(module, "config", None)
    if not any(c.__module__.startswith("transformers.") for c in type(module).__mro__):
        return None
    name = type(module).__name__
    if name.endswith(_CLASSIFIERS):
        problem = getattr(config, "problem_type", None)
        if problem in _PROBLEMS:
            return _PROBLEMS[problem], f"the configuration's problem_type is {problem}"
        labels = getattr(config, "num_labels", None)
        if isinstance(labels, int):
            kind = _SQUARES if labels == 1 else _CLASSES
            return kind, f"the configuration of {name} has num_labels={labels}"
    for end, kind in _HEADS.items():
        if name.endswith(end):
            return kind, f"a {name} of transformers is trained with it"
    return None


def _called(program: Any) -> Iterator[str]:
    """Names of the operators that an exported program calls, without their overloads."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            yield str(node.target).removeprefix("aten.").partition(".")[0]
