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
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("KERAS_BACKEND", "torch")

import torch
from torch import nn

from graph_init.analysis import analyze
from graph_init.frontends.resolve import resolve
from graph_init.options import Options
from graph_init.problem import forward_graph, loss
from graph_init.problem.loss_choice import Choice, Evidence, choose
from graph_init.problem.signature import signature
from tools.loss_models import files, frameworks, hugging_face, modules
from tools.loss_models.model import Model

TABLE = ROOT / "docs" / "losses.md"


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


GROUPS: tuple[Callable[[], list[Model]], ...] = (
    modules.plain,
    hugging_face.transformers,
    frameworks.keras,
    frameworks.jax,
    files.files,
)


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
        "`torch.onnx.export`, one of the onnx package, or one in a wheel of PyPI; “frontend” is "
        f"the model itself, given to graph-init. Right: {_share(rows)}; of those set aside before "
        f"the rules were tuned (marked °): {_share(aside)}; of those where the choice is called "
        f"a guess: {_share(guesses)}.",
        "",
        "| model | as | authors | `auto` | reason | |",
        "|---|---|---|---|---|---|",
    ]
    for m, kind, reason in rows:
        how = "file" if m.file or m.given else "frontend"
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
    rows: list[tuple[Model, str, str]] = []
    failed: list[str] = []
    for group in GROUPS:
        if options.groups and group.__name__ not in options.groups:
            continue
        for model in group():
            if (options.only or "") not in model.name or (options.tuning and model.aside):
                continue
            try:
                choice = decided(model, options.keep)
            except Exception as error:  # whatever an exporter raises; the others take minutes
                failed.append(f"{model.name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            rows.append((model, choice.kind, choice.sentence))
            mark = "" if choice.kind == model.expected else "WRONG "
            if not options.quiet:
                print(f"{mark}{model.name}: {choice.kind}, {choice.sentence}", flush=True)
    print(f"right: {_share(rows)}")
    if failed:
        raise SystemExit("not looked at, so nothing is written:\n" + "\n".join(failed))
    if not (options.only or options.tuning or options.groups):
        TABLE.write_text(page(rows), "utf-8")


if __name__ == "__main__":
    main()
