"""Other roundings and other seeds than this machine's: what a test must not depend on.

With ``GRAPH_INIT_JITTER=k`` every float32 weight that is loaded or drawn, and is no constant, is
multiplied by 1 + 1e-6·N(0, 1), about what another order of summation changes, and random batches
get other seeds. ``k`` decides the noise. Both settings are variables of the environment, read at
each use, so that commands which tests start have those of the test: ``sitecustomize`` in this
folder does it there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

JITTER = 1e-6
#: The noise's seed, unless it is unset or 0; a test that is marked ``exact`` has none.
NOISE = "GRAPH_INIT_JITTER"
#: What is added to the seeds of random batches; nothing in a test that is marked ``seeded``.
SHIFT = "GRAPH_INIT_JITTER_SEEDS"


def amount() -> int:
    """The noise's seed; 0 without noise."""
    return int(os.environ.get(NOISE) or 0)


def python_path(*folders: Path) -> str:
    """``PYTHONPATH`` of a command that takes part, with ``folders`` before this repository."""
    here = Path(__file__).parent
    root = here.parent.parent
    own = [here] if amount() else []
    return os.pathsep.join(map(str, (*own, *folders, root, root / "frontends")))


def jittered(values: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The float32 arrays among ``values`` with noise that ``k`` and their names decide."""
    return {name: _noisy(name, array, k) for name, array in values.items()}


def _noisy(name: str, array: Any, k: int) -> Any:
    import numpy as np

    if not k or array.dtype.name != "float32" or not array.size:
        return array
    # An exponent, an epsilon or a placeholder is no sum that another order would round otherwise.
    if (array == array.flat[0]).all():
        return array

    rng = np.random.default_rng([k, zlib.crc32(name.encode())])
    noise = 1 + JITTER * rng.standard_normal(array.shape)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array * noise, np.float32)


def _weights(name: str) -> Callable[[ModuleType], None]:
    """Patches the function of that name, which returns arrays by name."""

    def patch(module: ModuleType) -> None:
        original = getattr(module, name)
        setattr(module, name, lambda *a, **k: jittered(original(*a, **k), amount()))

    return patch


def _seeds(module: ModuleType) -> None:
    original = module.random

    def random(layout: Any, ranges: Any, seed: int) -> Any:
        return original(layout, ranges, seed + int(os.environ.get(SHIFT) or 0))

    module.random = random  # type: ignore[attr-defined]


#: Module → what is done to it as soon as it is loaded, before others take names from it.
PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "graph_init.problem.forward_graph": _weights("initial_values"),
    "graph_init.init.schemes": _weights("fill"),
    "graph_init.problem.streams": _seeds,
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            PATCHES[fullname](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Before anything of graph_init is imported; without the variable nothing is done."""
    if amount():
        assert not any(name in sys.modules for name in PATCHES)
        sys.meta_path.insert(0, _Finder())
