"""Models of transformers, with small random configurations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.architectures import ARCHITECTURES, ENCODER, tokens
from tools.loss_models.model import BCE, CE, MSE, Model, Subject


def hugging(
    family: str,
    head: str,
    expected: str,
    options: dict[str, Any],
    inputs: Callable[[], Any],
    aside: bool = False,
    file: bool = True,
    **more: Any,
) -> Model:
    """A model of transformers with a small random configuration."""

    def build() -> Subject:
        import transformers

        config = getattr(transformers, f"{family}Config")(**options, **more)
        config._attn_implementation = "eager"
        if hasattr(config, "use_cache"):
            config.use_cache = False
        return getattr(transformers, family + head)(config), (), inputs()

    told = ", ".join(f"{k}={v}" for k, v in more.items() if k in ("num_labels", "problem_type"))
    name = f"{family}{head}{f' ({told})' if told else ''}"
    return Model(name=name, expected=expected, build=build, file=file, aside=aside)


def transformers() -> list[Model]:
    distil = {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    sequence, h = "ForSequenceClassification", partial(hugging, inputs=tokens)
    return [
        h("Bert", sequence, CE, ENCODER, num_labels=3),
        h("Bert", sequence, MSE, ENCODER, num_labels=1),
        h(
            "Bert",
            sequence,
            BCE,
            ENCODER,
            file=False,
            num_labels=4,
            problem_type="multi_label_classification",
        ),
        h(
            "Roberta",
            sequence,
            MSE,
            ENCODER,
            file=False,
            num_labels=3,
            problem_type="regression",
        ),
        h("Bert", "ForMaskedLM", CE, ENCODER),
        h("Bert", "ForTokenClassification", CE, ENCODER),
        h("Bert", "ForQuestionAnswering", CE, ENCODER),
        h("Bert", "ForNextSentencePrediction", CE, ENCODER, aside=True),
        h("Roberta", "ForMaskedLM", CE, ENCODER),
        h("Roberta", sequence, CE, ENCODER, aside=True),
        h("Electra", "ForTokenClassification", CE, {**ENCODER, "embedding_size": 16}),
        h("Albert", "ForMaskedLM", CE, {**ENCODER, "embedding_size": 16}, aside=True),
        h("DistilBert", sequence, CE, distil),
        h("DistilBert", "ForQuestionAnswering", CE, distil, aside=True),
        *_of_architectures(),
    ]


#: Heads of the architectures of the tests: language models and classifiers are trained by cross-
#: entropy, Wav2Vec2ForCTC by CTC, which is cross-entropy over alignments; depths by distances.
_HEADS = (
    ("GPT2", "LMHeadModel", CE),
    ("GPTNeoX", "ForCausalLM", CE),
    ("Llama", "ForCausalLM", CE),
    ("Mistral", "ForCausalLM", CE),
    ("Qwen2", "ForCausalLM", CE),
    ("Gemma", "ForCausalLM", CE),
    ("OPT", "ForCausalLM", CE),
    ("T5", "ForConditionalGeneration", CE),
    ("Bart", "ForConditionalGeneration", CE),
    ("ModernBert", "ForMaskedLM", CE),
    ("ViT", "ForImageClassification", CE),
    ("ResNet", "ForImageClassification", CE),
    ("Segformer", "ForSemanticSegmentation", CE),
    ("Wav2Vec2", "ForCTC", CE),
    ("ViT", "Model", MSE),
)


def _of_architectures() -> list[Model]:
    known = {a.name: a for a in ARCHITECTURES}
    return [
        hugging(
            name,
            head,
            loss,
            dict(known[name].options),
            inputs=known[name].inputs,
            aside=True,
        )
        for name, head, loss in _HEADS
    ]
