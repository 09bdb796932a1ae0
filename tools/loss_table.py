"""Write docs/losses.md: the loss that ``auto`` takes for models whose authors' loss is known.

Every model is exported as its users do: with torch.onnx.export, by graph-init's own frontends, or
as the file that it is. Only the loss is looked at; nothing is trained. Takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("KERAS_BACKEND", "torch")

import onnx
import torch
from torch import nn

from graph_init.analysis import analyze
from graph_init.frontends.resolve import resolve
from graph_init.options import Options
from graph_init.problem import forward_graph, loss
from graph_init.problem.loss_choice import BINARY, CLASSES, SQUARES, Choice, Evidence, choose
from graph_init.problem.signature import signature
from tests.architectures import ENCODER, tokens

TABLE = ROOT / "docs" / "losses.md"
CE, BCE, MSE = CLASSES, BINARY, SQUARES


@dataclass(frozen=True)
class Model:
    """``build`` gives what :func:`graph_init.measure` takes, and how it is called (None: a file).

    ``expected`` is the loss that the authors train with, or the nearest of the three. Models with
    ``aside`` were set aside before the rules were tuned. ``file`` exports with torch.onnx.export;
    otherwise the frontend does. ``why`` explains an error.
    """

    name: str
    expected: str
    build: Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]
    file: bool = False
    aside: bool = False
    why: str = ""


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

    def build() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        import transformers

        config = getattr(transformers, f"{family}Config")(**options, **more)
        config._attn_implementation = "eager"
        if hasattr(config, "use_cache"):
            config.use_cache = False
        return getattr(transformers, family + head)(config), (), inputs()

    told = ", ".join(f"{k}={v}" for k, v in more.items() if k in ("num_labels", "problem_type"))
    name = f"{family}{head}{f' ({told})' if told else ''}"
    return Model(name=name, expected=expected, build=build, file=file, aside=aside)


class Wrapped(nn.Module):
    """``body``, and then ``last``: a function without parameters."""

    def __init__(self, body: nn.Module, last: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x))


def module(
    name: str,
    expected: str,
    make: Callable[[], nn.Module],
    *shape: int,
    aside: bool = False,
    words: int = 0,
    why: str = "",
) -> Model:
    """A plain PyTorch module, called with one tensor of ``shape``, numbers or ``words``."""

    def build() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        x = torch.randint(0, words, shape) if words else torch.randn(*shape)
        return make(), (x,), {}

    return Model(name=name, expected=expected, build=build, file=True, aside=aside, why=why)


def dense(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def convolutions(*channels: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, stride=stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class WordModel(nn.Module):
    """A recurrent network over words, of which ``pick`` takes what the output layer reads."""

    def __init__(self, words: int, out: int, pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.embed, self.core = nn.Embedding(words, 8), nn.LSTM(8, 16, batch_first=True)
        self.out, self.pick = nn.Linear(16, out), pick

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.pick(self.core(self.embed(ids))[0]))


class TiedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(40, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.mix(self.embed(ids))) @ self.embed.weight.T


class OwnLoss(nn.Module):
    """Returns its loss beside its prediction, as models that are trained by a Trainer do."""

    def __init__(self, function: Callable[..., torch.Tensor], out: int) -> None:
        super().__init__()
        self.body, self.function = dense(12, 32, out), function

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.body(x)
        return {"loss": self.function(y, labels), "y": y}


def own_loss(name: str, expected: str, function: Any, labels: Callable[[], torch.Tensor]) -> Model:
    def build() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        return OwnLoss(function, 5), (), {"x": torch.randn(4, 12), "labels": labels()}

    return Model(name, expected, build)


def _plain() -> list[Model]:
    def pool(*channels: int) -> nn.Sequential:
        return nn.Sequential(convolutions(*channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    f = nn.functional
    return [
        module("MLP of digits", CE, lambda: dense(64, 32, 32, 10), 4, 64),
        module(
            "tanh MLP of digits, deep", CE, lambda: dense(64, *[32] * 12, 10, act=nn.Tanh), 4, 64
        ),
        module(
            "CNN of digits",
            CE,
            lambda: nn.Sequential(pool(1, 8, 8), nn.Linear(8, 10)),
            4,
            1,
            28,
            28,
        ),
        module("fully convolutional classifier", CE, lambda: pool(3, 8, 10), 4, 3, 16, 16),
        module("MLP with two classes", CE, lambda: dense(20, 16, 2), 4, 20, aside=True),
        module(
            "MLP with log_softmax",
            CE,
            lambda: Wrapped(dense(20, 16, 3), lambda x: f.log_softmax(x, -1)),
            4,
            20,
        ),
        module("MLP with sigmoid", BCE, lambda: Wrapped(dense(20, 16, 1), torch.sigmoid), 4, 20),
        module("regression, one column", MSE, lambda: dense(13, 32, 1), 4, 13),
        module(
            "regression, squeezed",
            MSE,
            lambda: Wrapped(dense(13, 32, 1), lambda x: x[:, 0]),
            4,
            13,
            aside=True,
        ),
        module(
            "regression, three columns",
            MSE,
            lambda: dense(13, 32, 3),
            4,
            13,
            why=(
                "three columns of numbers look like scores of three classes; nothing in the file "
                "tells them apart"
            ),
        ),
        module("policy with tanh", MSE, lambda: Wrapped(dense(8, 32, 2), torch.tanh), 4, 8),
        module("autoencoder, dense", MSE, lambda: dense(64, 16, 4, 16, 64), 4, 64),
        module(
            "autoencoder, convolutions",
            MSE,
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
            ),
            4,
            3,
            16,
            16,
        ),
        module(
            "autoencoder of pixels, sigmoid",
            BCE,
            lambda: Wrapped(dense(64, 16, 64), torch.sigmoid),
            4,
            64,
            aside=True,
        ),
        module("denoiser of images", MSE, lambda: convolutions(3, 8, 3), 4, 3, 16, 16),
        module(
            "super-resolution",
            MSE,
            lambda: nn.Sequential(convolutions(3, 8, 12), nn.PixelShuffle(2)),
            4,
            3,
            16,
            16,
        ),
        module("segmentation, 21 classes", CE, lambda: convolutions(3, 8, 21), 4, 3, 16, 16),
        module(
            "segmentation, medical, 4 classes",
            CE,
            lambda: convolutions(1, 8, 4),
            4,
            1,
            16,
            16,
            aside=True,
        ),
        module("depth map", MSE, lambda: convolutions(3, 8, 1), 4, 3, 16, 16, aside=True),
        module(
            "generator of images",
            MSE,
            lambda: nn.Sequential(
                nn.Linear(16, 128),
                nn.Unflatten(1, (8, 4, 4)),
                nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
                nn.Tanh(),
            ),
            4,
            16,
        ),
        module(
            "embedding of images, normalised",
            MSE,
            lambda: Wrapped(
                nn.Sequential(pool(3, 8, 8), nn.Linear(8, 16)), lambda x: f.normalize(x, dim=-1)
            ),
            4,
            3,
            16,
            16,
        ),
        module("language model, LSTM", CE, lambda: WordModel(30, 30, lambda h: h), 4, 9, words=30),
        module("language model, tied", CE, TiedModel, 4, 9, words=40),
        module(
            "tagger of words", CE, lambda: WordModel(30, 7, lambda h: h), 4, 9, words=30, aside=True
        ),
        module(
            "sentiment of a text", CE, lambda: WordModel(30, 2, lambda h: h[:, -1]), 4, 9, words=30
        ),
        module(
            "score of a text, regression",
            MSE,
            lambda: WordModel(30, 1, lambda h: h[:, -1]),
            4,
            9,
            words=30,
        ),
        module(
            "forecast of a series",
            MSE,
            lambda: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)),
            4,
            12,
            6,
        ),
        module(
            "vectors of a transformer",
            MSE,
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
                2,
                enable_nested_tensor=False,
            ),
            4,
            5,
            8,
            aside=True,
        ),
        own_loss("own loss: cross_entropy", CE, f.cross_entropy, lambda: torch.arange(4) % 5),
        own_loss(
            "own loss: binary_cross_entropy_with_logits",
            BCE,
            f.binary_cross_entropy_with_logits,
            lambda: torch.ones(4, 5),
        ),
        own_loss("own loss: smooth_l1_loss", MSE, f.smooth_l1_loss, lambda: torch.ones(4, 5)),
    ]


def _transformers() -> list[Model]:
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
        h("Roberta", sequence, MSE, ENCODER, file=False, num_labels=3, problem_type="regression"),
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
    ]


def _keras() -> list[Model]:
    import keras

    from tests import keras_models

    def compiled(with_loss: Any, build: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
            model, example = build()
            if with_loss is not None:
                model.compile(loss=with_loss)
            return model, (example,), {}

        return made

    small = keras_models.SMALL
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return [
        Model("Keras MLP with softmax", CE, compiled(None, small["mlp"])),
        Model("Keras CNN of four classes", CE, compiled(None, small["cnn"])),
        Model("Keras ResNet of four classes", CE, compiled(None, small["resnet"]), aside=True),
        Model("Keras language model, tied", CE, compiled(None, small["tied"])),
        Model("Keras transformer, compiled: sparse", CE, compiled(sparse, small["transformer"])),
    ]


def _jax() -> list[Model]:
    from tests.jax_models import MODELS

    def build(name: str) -> Callable[[], Any]:
        def made() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
            model, params, example = MODELS[name]()
            return model, example, {"params": params}

        return made

    names = (
        "function",
        "function, tied embedding",
        "Linen, convolutions",
        "NNX, transformer",
        "Equinox, MLP",
    )
    return [Model(f"JAX: {name}", CE, build(name)) for name in names]


#: The light zoo: classifiers of ImageNet.
_LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def _files() -> list[Model]:
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    return [
        Model(f"light zoo: {name}", CE, partial(_given, folder / f"light_{name}.onnx"))
        for name in _LIGHT
    ]


def _given(path: Path) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return path, (), {}


def _export(module: nn.Module, args: Any, kwargs: Any, path: Path) -> None:
    """A file by the older exporter, which is quick, or by the newer one where that cannot."""
    try:
        torch.onnx.export(module, args, path, kwargs=kwargs, dynamo=False)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError):
        torch.onnx.export(
            module, args, path, kwargs=kwargs, dynamo=True, optimize=False, verbose=False
        )


def gathered(model: Model) -> Choice | Evidence:
    """What a framework says of the loss, or else the evidence that ``auto`` decides by."""
    torch.manual_seed(0)
    subject, args, kwargs = model.build()
    if "params" in kwargs:
        from graph_init_jax import Function

        if kwargs["params"] is not None:
            subject = Function(subject, kwargs["params"])
        kwargs = {}
    with tempfile.TemporaryDirectory() as folder:
        if model.file:
            path = Path(folder) / "model.onnx"
            _export(subject.eval(), args, kwargs, path)
            subject, args, kwargs = path, (), {}
        found = resolve(subject, args or None, kwargs or None)
        told = found.loss("auto", None)
        if isinstance(told, Choice):
            return told
        loaded = found.loaded
        parameters = analyze(loaded.ir, trained=found.trained, buffers=found.buffers)
        with patch.object(loss, "choose", wraps=choose) as choosing:
            options = Options.of({"dims": found.dims(None)})
            settings = forward_graph.GraphSettings(
                signature(loaded, options, rows=found.batch_size(None)),
                output_names=[n for n in [found.output_name(None)] if n],
            )
            values = forward_graph.initial_values(loaded)
            forward_graph.build(loaded, parameters, values, settings)
    evidence: Evidence = choosing.call_args.args[0]
    return evidence


def decided(model: Model, keep: Path | None) -> Choice:
    """The loss that ``auto`` takes for ``model``; with ``keep``, by the evidence that is there."""
    file = keep and keep / (quote(f"{model.name} {model.file}", safe=" ") + ".pickle")
    if file and file.exists():
        found = pickle.loads(file.read_bytes())
    else:
        found = gathered(model)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps(found))
    return choose(found) if isinstance(found, Evidence) else found


GROUPS: tuple[Callable[[], list[Model]], ...] = (_plain, _transformers, _keras, _jax, _files)


def _share(rows: list[tuple[Model, str, str]]) -> str:
    right = sum(kind == m.expected for m, kind, _ in rows)
    return f"{right} of {len(rows)} ({100 * right / max(len(rows), 1):.0f}%)"


def page(rows: list[tuple[Model, str, str]]) -> str:
    aside = [r for r in rows if r[0].aside]
    guesses = [r for r in rows if "a guess" in r[2]]
    lines = [
        "# Which loss `auto` takes",
        "",
        "Written by `python tools/loss_table.py`; do not edit. PyTorch "
        f"{torch.__version__.partition('+')[0]}.",
        "",
        "Models whose authors' loss is known: the loss they train with (or the nearest of the "
        "three), and the one that `--loss auto` takes. “File” is a file written by "
        "`torch.onnx.export`, or one of the onnx package; “frontend” is the model itself, given to "
        f"graph-init. Right: {_share(rows)}; of those set aside before the rules were tuned "
        f"(marked °): {_share(aside)}; of those where the choice is called a guess: "
        f"{_share(guesses)}.",
        "",
        "| model | as | authors | `auto` | reason | |",
        "|---|---|---|---|---|---|",
    ]
    for m, kind, reason in rows:
        how = "file" if m.file or m.name.startswith("light") else "frontend"
        wrong = "" if kind == m.expected else f"wrong: {m.why or 'not explained'}"
        name = m.name + ("°" if m.aside else "")
        lines.append(f"| {name} | {how} | {m.expected} | {kind} | {reason} | {wrong} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="models with this in their name; nothing is written then")
    parser.add_argument("--tuning", action="store_true", help="leave out those set aside")
    parser.add_argument("--quiet", action="store_true", help="print only the share")
    parser.add_argument("--groups", nargs="*", help="plain, transformers, keras, jax or files")
    parser.add_argument(
        "--keep",
        type=Path,
        help="a folder of evidence, to try rules without exporting again; what is there is read",
    )
    options = parser.parse_args()
    rows = []
    for group in GROUPS:
        if options.groups and group.__name__.strip("_") not in options.groups:
            continue
        for model in group():
            if (options.only or "") not in model.name or (options.tuning and model.aside):
                continue
            choice = decided(model, options.keep)
            rows.append((model, choice.kind, choice.sentence))
            mark = "" if choice.kind == model.expected else "WRONG "
            if not options.quiet:
                print(f"{mark}{model.name}: {choice.kind}, {choice.sentence}", flush=True)
    print(f"right: {_share(rows)}")
    if not (options.only or options.tuning or options.groups):
        TABLE.write_text(page(rows), "utf-8")


if __name__ == "__main__":
    main()
