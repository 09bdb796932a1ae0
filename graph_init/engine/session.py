"""The interface of engines: what a session is, and which engine opens it for a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from graph_init.engine.choice import Engine, choose
from graph_init.engine.onnxruntime_session import OnnxruntimeSession
from graph_init.ir import Array, Program


class Session(Protocol):
    """A graph ready to run; ``inputs`` and ``outputs`` are its names.

    Arrays go in and come out on the CPU. Outputs are arrays of their own: they share no memory with
    what was fed, nor with each other.
    """

    inputs: frozenset[str]
    outputs: tuple[str, ...]

    def fix(self, tensors: Mapping[str, Array]) -> None:
        """Inputs that stay the same from run to run: on a device they are copied there once."""

    def __call__(
        self, feeds: Mapping[str, Array], into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """The outputs by name; those named in ``into`` are written to its arrays.

        ``feeds`` may hold more than the graph reads. Raises UnsupportedModelError if the engine
        fails, which an index out of range or a lack of memory makes it do.
        """

    def bind(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Array]], None]:
        """A run on fixed arrays of the CPU: these inputs are read, these outputs written.

        What it returns takes the inputs that change, may be called again and again, and costs less
        than :meth:`__call__`. Outputs must be all there are.
        """


def open_session(
    program: Program,
    engine: Engine | None = None,
    *,
    shrinks: bool = False,
    threads: int | None = None,
) -> Session:
    """A session of ``program`` on ``engine``, by default :func:`choose`'s.

    ``shrinks``: give the memory back after each run, for others to take. ``threads``: of one run;
    by default what OMP_NUM_THREADS says, or as many as there are cores. Raises
    UnsupportedModelError if the engine refuses the graph.
    """
    chosen = choose() if engine is None else engine
    if chosen.is_torch:
        from graph_init.engine.torch_session import TorchSession  # imports PyTorch

        return TorchSession(program, chosen.device, shrinks=shrinks, threads=threads)
    return OnnxruntimeSession(program, chosen.device, shrinks=shrinks, threads=threads)
