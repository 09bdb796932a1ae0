"""Running graphs on onnxruntime: one session a graph, on one device."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from graph_init.engine import failures
from graph_init.engine.runtime import PROVIDERS, SILENT, onnxruntime
from graph_init.ir import Array, Builder, Program

#: A session whose graph takes less than these bytes leaves them to the next one.
_WORTH_RELEASING = 64 << 20
_arena_is_shared = False


def _share_arena(runtime: Any) -> None:
    """One arena for all sessions of this process, which grows by what is asked for.

    Each session's own would grow in powers of two: half as much again is taken by a step of 2 GB.
    """
    global _arena_is_shared
    if _arena_is_shared:
        return
    kind, memory = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, runtime.OrtMemType.DEFAULT
    settings = {
        "max_mem": 0,
        "arena_extend_strategy": 1,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    runtime.create_and_register_allocator(
        runtime.OrtMemoryInfo("Cpu", kind, 0, memory), runtime.OrtArenaCfg(settings)
    )
    _arena_is_shared = True


def _close(engine: list[Any]) -> None:
    """Close a session, and give back what no other one uses, by a run that asks for it."""
    engine.clear()
    runtime = onnxruntime()
    b = Builder()
    x = b.input("x", TensorProto.FLOAT, (1,))
    options = runtime.SessionOptions()
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.use_env_allocators", "1")
    model = b.model([b.op("Neg", x)]).SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    asking = runtime.RunOptions()
    asking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    # An output in the arena would keep the block that it lies in.
    binding, read, written = session.io_binding(), np.zeros(1, np.float32), np.zeros(1, np.float32)
    binding.bind_input("x", **_place(read))
    binding.bind_output(session.get_outputs()[0].name, **_place(written))
    session.run_with_iobinding(binding, asking)


def _place(array: Array) -> dict[str, Any]:
    """Where an array lies in the CPU's memory, as the engine's bindings are told."""
    return {
        "device_type": "cpu",
        "device_id": 0,
        "element_type": array.dtype,
        "shape": array.shape,
        "buffer_ptr": array.ctypes.data,
    }


class OnnxruntimeSession:
    """A graph ready to run on onnxruntime; see :class:`graph_init.engine.session.Session`.

    Large tensors are passed and taken without copies: inputs are read where they lie, and outputs
    are written into the arrays that the caller gives for them.
    """

    def __init__(
        self,
        program: Program,
        device: str = "cpu",
        *,
        shrinks: bool = False,
        threads: int | None = None,
    ) -> None:
        """``shrinks``: give the memory back after each run, for others to take.

        ``threads``: of one run; by default what OMP_NUM_THREADS says, or as many as there are
        cores.
        """
        model = program.model
        runtime = onnxruntime()
        _share_arena(runtime)
        options = runtime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = SILENT
        # The builder has folded and shared what there is. The engine's own optimisers make a
        # session eight times slower to open (light_densenet121: 70 s against 9 s) and no step
        # faster; one of them, GatherSliceToSplitFusion, breaks large graphs.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Else the second run takes one block of the size of all that the first one took.
        options.enable_mem_pattern = False
        # Else what a dead value occupied is kept for the next one of exactly its size, which takes
        # up to a third more where there are many sizes.
        options.enable_mem_reuse = False
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED  # the order of the file
        options.intra_op_num_threads = _threads_by_environment() if threads is None else threads
        self.inputs: frozenset[str] = frozenset(i.name for i in model.graph.input)
        self.outputs: tuple[str, ...] = tuple(o.name for o in model.graph.output)
        self._device = device
        self._sites = program.sites
        self._run_options = runtime.RunOptions()
        if shrinks:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._value = runtime.OrtValue.ortvalue_from_numpy
        self._fixed: dict[str, Any] = {}
        try:
            session = runtime.InferenceSession(
                model.SerializeToString(), options, providers=[PROVIDERS[device]]
            )
        except Exception as error:  # the engine's errors share no base class but this
            raise failures.translated(error, "is refused by the engine", program.sites) from error
        self._engine = [session]  # which the finalizer empties
        if program.peak > _WORTH_RELEASING:
            weakref.finalize(self, _close, self._engine).atexit = False

    def fix(self, tensors: Mapping[str, Array]) -> None:
        """See :meth:`graph_init.engine.session.Session.fix`."""
        for name, array in tensors.items():
            if name in self.inputs:
                self._fixed[name] = self._value(array, self._device, 0)

    def __call__(
        self, feeds: Mapping[str, Array], into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See :meth:`graph_init.engine.session.Session.__call__`."""
        binding = self._engine[0].io_binding()
        kept = dict(self._fixed)  # the binding holds no reference to what it is given
        for name, array in feeds.items():
            if name in self.inputs and name not in kept:
                kept[name] = self._value(np.asarray(array, order="C"), "cpu", 0)
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
        given = into or {}
        for name in self.outputs:
            if name not in given:
                binding.bind_output(name, "cpu")
            else:
                binding.bind_output(name, **_place(given[name]))
        self._run(binding)
        values = zip(self.outputs, binding.get_outputs(), strict=True)
        return {n: given[n] if n in given else v.numpy() for n, v in values}

    def bind(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Array]], None]:
        """See :meth:`graph_init.engine.session.Session.bind`."""
        binding = self._engine[0].io_binding()
        kept = {n: self._value(a, "cpu", 0) for n, a in inputs.items() if n in self.inputs}
        for name, value in {**self._fixed, **kept}.items():
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, **_place(outputs[name]))

        def run(feeds: Mapping[str, Array]) -> None:
            passed = [(n, self._value(a, "cpu", 0)) for n, a in feeds.items() if n in self.inputs]
            for name, value in passed:
                binding.bind_ortvalue_input(name, value)
            self._run(binding)

        run.__dict__["kept"] = (kept, outputs)  # the binding holds no reference to what it is given
        return run

    def _run(self, binding: Any) -> None:
        try:
            self._engine[0].run_with_iobinding(binding, self._run_options)
        except Exception as error:  # as above
            raise failures.translated(error, "fails", self._sites) from error


def _threads_by_environment() -> int:
    """OMP_NUM_THREADS, which PyTorch and NumPy's BLAS heed as well; 0 means all cores.

    The engine does not read it, and threads that outnumber the cores wait for each other.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() else 0
