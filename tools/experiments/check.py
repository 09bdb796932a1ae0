"""How often `check` raises a false alarm, and how often it finds a fault that was planted.

    python tools/experiments/check.py [--part tuning] [--quick] [--write] [--cache FOLDER]

Models that are initialised as they are meant, of transformers, Keras, Flax, the onnx package, and
of PyTorch under each scheme; and the same with one fault. Half of the models, by the digest of
their names, are held out: rules were only changed for what the other half shows, which is what
`--part tuning` prints. What was computed is kept in the cache under a digest of the program, so
that an interrupted run goes on. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import pickle
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "frontends")]

import numpy as np
import onnx

import graph_init
from graph_init.analysis import Parameter
from graph_init.check.evidence import Evidence
from graph_init.check.gradient import Gradient
from graph_init.check.signal import Signal
from graph_init.check.verdict import gathered, ruled
from graph_init.errors import GraphInitError
from graph_init.frontends.call import resolve_call
from graph_init.options.keywords import CheckKeywords
from tools.experiments import check_faults, check_models, study
from tools.experiments.check_faults import Model, Planted
from tools.experiments.check_models import Sound
from tools.experiments.check_tables import Case, missed, page

PAGE = study.FOLDER / "check.md"
MARK = "<!-- tools/experiments/check.py --write -->"
#: What decides which models there are, beside the program.
_OWN = ("tools/experiments/check_models.py", "tools/experiments/check_flax.py")
_MODELS = (*_OWN, "tests/architectures.py")
_FAULTS = "tools/experiments/check_faults.py"
#: What judges the evidence, or prints what was found, has no part in it.
_JUDGES = tuple(
    "check/rules/*.py check/scales.py check/schemes.py check/verdict.py check/evidence.py "
    "check/findings.py check/sarif.py check/junit.py cli/*.py testing/*.py".split()
)
#: Of ``--quick``.
QUICK = ("torch/mlp/he", "torch/mlp/lecun")
#: Models that are planted with a residual stream that is not scaled.
_DEEP = [("residual", d, s) for d in (16, 32) for s in ("he", "xavier", "lecun")]
_DEEP += [("pre_norm", d, s) for d in (12, 24) for s in ("he", "xavier", "0.02")]


@dataclass(frozen=True)
class Gathered:
    """The evidence on a file but for its values, and what was planted in it.

    Rules judge it anew in every run, so that a rule that has changed costs no forward pass.
    """

    parameters: Sequence[Parameter] = ()
    signal: Signal | None = None
    gradient: Gradient | None = None
    planted: Planted | None = None
    failure: str = ""

    def case(self, model: str, fault: str, values: Mapping[str, Any]) -> Case:
        """What rules find, where the file without what was planted has ``values``."""
        if self.failure:
            return Case(model, fault, failure=self.failure)
        made = self.planted or Planted({}, ())
        # Constants of the graph have no initializer, and nothing is planted there.
        own = {n: np.asarray(v, values[n].dtype) for n, v in made.values.items()}
        known = [p for p in self.parameters if p.name in values]
        found = ruled(Evidence(known, {**values, **own}, self.signal, self.gradient), ())
        return Case(
            model,
            fault,
            found=[(f.id, f.severity, f.tensor, f.message) for f in found.findings],
            right=made.right,
            undone=made.undone,
            trained=found.evidence.is_trained,
        )


class Cache:
    """Files of results under a digest of what they follow from.

    ``only``: what is not there is not computed; asked for, it is a LookupError.
    """

    def __init__(self, folder: Path, only: bool = False) -> None:
        self.only = only
        files = set((ROOT / "graph_init").rglob("*.py"))
        judges = {f for name in _JUDGES for f in (ROOT / "graph_init").glob(name)}
        program = _digest(files - judges)
        tools = _digest([ROOT / f for f in (*_MODELS, _FAULTS)])
        models = _digest([ROOT / f for f in _MODELS])
        frontends = _digest((ROOT / "frontends").rglob("*.py"))
        self._cases = folder / f"cases-{program}-{tools}"
        self._models = folder / f"models-{models}-{frontends}"
        for made in (self._cases, self._models):
            made.mkdir(parents=True, exist_ok=True)

    def model(self, name: str, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        path = self._models / f"{_file(name)}.onnx"
        if not path.exists():
            new = make()
            _write(path, new.SerializeToString())
        return onnx.load(path)

    def has(self, name: str) -> bool:
        """Whether the model has been made."""
        return (self._models / f"{_file(name)}.onnx").exists()

    def evidence(self, name: str, compute: Callable[[], Gathered]) -> Gathered:
        """Of the case of that name."""
        path = self._cases / f"{_file(name)}.pickle"
        if path.exists():
            found = pickle.loads(path.read_bytes())
            assert isinstance(found, Gathered)
            return found
        if self.only:
            raise LookupError(name)
        found = compute()
        _write(path, pickle.dumps(found))
        return found


def _file(name: str) -> str:
    return name.replace("/", "-").replace(" ", "_")


def _write(path: Path, content: bytes) -> None:
    """Whole, or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def _digest(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return found.hexdigest()[:12]


def evidence(proto: onnx.ModelProto, planted: Planted | None = None) -> Gathered:
    """What `check` gathers on a file."""
    try:
        call = resolve_call(proto, {"batch_norm": "train"}, CheckKeywords, whole_file=True)
        found, _ = gathered(call.loaded, call.parameters, call.options)
    except GraphInitError as error:
        return Gathered(failure=str(error))
    return Gathered(found.parameters, found.signal, found.gradient, planted)


def run(cache: Cache, sound: Sound) -> list[Case]:
    """The model as it is, and with each fault that it can have."""
    if cache.only and not cache.has(sound.name):
        raise LookupError(sound.name)
    try:
        proto = cache.model(sound.name, sound.make)
        model = Model(sound.name, proto, graph_init.inspect(proto).parameters)
    except Exception as error:  # of a framework that cannot make or export it
        return [Case(sound.name, failure=f"{type(error).__name__}: {error}".split("\n")[0])]
    plain = cache.evidence(sound.name, lambda: evidence(proto)).case(sound.name, "", model.values)
    cases = [plain]
    for name, fault in () if plain.failure else _faults(sound.name).items():

        def planted(fault: check_faults.Fault = fault) -> Gathered:
            made = next(fault(model), None)
            if made is None:
                return Gathered(failure="the model has no place for it")
            return evidence(model.with_values(made.values), made)

        found = cache.evidence(f"{sound.name} {name}", planted).case(sound.name, name, model.values)
        cases.append(replace(found, known=[[f[0], f[2]] for f in plain.severe]))
    return cases


def _faults(name: str) -> dict[str, check_faults.Fault]:
    found = dict(check_faults.EVERY)
    family, kind = name.split("/")[:2]
    if family == "torch":
        own = dict(check_faults.OWN)
        if kind not in check_faults.PLAIN:
            del own["all zero, in a plain network"]
        found |= own
    return found


def deep(cache: Cache) -> list[Case]:
    """Residual networks of many blocks, scaled by their number and not."""
    cases = []
    for kind, depth, scheme in _DEEP:
        for scaled in (True, False):
            name, fault = f"deep/{kind}-{depth}/{scheme}", "" if scaled else "not scaled"
            make = partial(
                check_models.deep_model, kind=kind, depth=depth, scheme=scheme, scaled=scaled
            )
            if cache.only and not cache.has(f"{name} {fault}".strip()):
                continue
            proto = cache.model(f"{name} {fault}".strip(), make)
            with contextlib.suppress(LookupError):
                found = cache.evidence(f"{name} {fault}", partial(evidence, proto))
                cases.append(found.case(name, fault, Model(name, proto, found.parameters).values))
    return cases


def experiment(given: argparse.Namespace) -> list[str]:
    cache = Cache(Path(given.cache), given.cached)
    chosen = [
        s
        for s in check_models.sound()
        if (s.name in QUICK if given.quick else True)
        and any(part in s.name for part in given.models or [""])
        and (given.part == "all" or s.held_out == (given.part == "held-out"))
    ]
    cases = []
    for number, sound in enumerate(chosen):
        with contextlib.suppress(LookupError):
            cases += run(cache, sound)
        print(f"{number + 1}/{len(chosen)} {sound.name}", file=sys.stderr)
    all_of_them = not given.quick and (not given.models or "deep" in given.models)
    done = len({c.model for c in cases})
    lines = [f"{done} of {len(chosen)} models were run, on one core of {_processor()}.", ""]
    lines += page(cases, deep(cache) if all_of_them else [])
    if given.missed:
        lines += missed(cases)
    return lines


def _processor() -> str:
    """The kind of the CPU, where the system says it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("all", "tuning", "held-out"), default="all")
    parser.add_argument("--models", nargs="*", help="parts of names [all]")
    parser.add_argument("--quick", action="store_true", help="two models")
    parser.add_argument("--cached", action="store_true", help="only models that are done")
    parser.add_argument("--missed", action="store_true", help="list what is not named first")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--cache", default=str(home / "graph-init-check"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = experiment(given)
    print("\n".join(lines))
    if given.write:
        head, found, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
        assert found, f"{PAGE} has no line {MARK}"
        PAGE.write_text("\n".join([head + MARK, "", *lines]).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
