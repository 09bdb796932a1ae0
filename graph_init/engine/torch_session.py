"""Running graphs on PyTorch: node by node, in the graph's order, without its autograd.

The derivatives are in the graph. A value is given up behind the last node that reads it. What an
operator of :mod:`graph_init.engine.torch_ops` is not there for (integers that only arrange things,
random numbers, texts) is computed by ONNX's reference implementation, on the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graph_init.engine import failures, pytorch
from graph_init.engine.torch_ops import OPERATORS, TYPES, Operator
from graph_init.errors import UsageError
from graph_init.ir import Array, Program

#: A tensor; an array of texts, or of what else PyTorch has no type for.
Held = Any


@dataclass(frozen=True)
class _Step:
    """One node: ``run`` takes the values at ``reads`` and gives those at ``writes`` (None: unread).

    ``dead`` are the places of what nobody reads any more.
    """

    name: str
    run: Callable[..., Any]
    reads: tuple[int, ...]
    writes: tuple[int | None, ...]
    single: bool
    dead: tuple[int, ...] = ()


class TorchSession:
    """A graph ready to run on PyTorch; see :class:`graph_init.engine.session.Session`."""

    def __init__(
        self,
        program: Program,
        device: str = "cpu",
        *,
        shrinks: bool = False,
        threads: int | None = None,
    ) -> None:
        graph = program.model.graph
        self.inputs: frozenset[str] = frozenset(i.name for i in graph.input)
        self.outputs: tuple[str, ...] = tuple(o.name for o in graph.output)
        self._device = device
        self._sites = program.sites
        self._shrinks = shrinks
        self._threads = threads
        self._types = _types(graph)
        if device == "mps" and TensorProto.DOUBLE in self._types.values():
            raise UsageError("--device mps has no float64; take --device cpu for this model")
        self._fixed: dict[str, Held] = {}
        self._places: dict[str, int] = {}
        self._constants: list[Held] = [None]  # the first place is that of absent inputs
        for tensor in graph.initializer:
            self._put(tensor.name, self._held(numpy_helper.to_array(tensor)))
        for name in self.inputs:
            self._put(name, None)
        self._numbers: dict[str, int] = {}
        steps = [self._step(node, program) for node in graph.node]
        self._steps = _with_deaths(steps, {self._places[n] for n in self.outputs})

    # -- opening --------------------------------------------------------------------------------

    def _put(self, name: str, value: Held) -> int:
        self._constants.append(value)
        self._places[name] = len(self._constants) - 1
        return self._places[name]

    def _held(self, array: Array) -> Held:
        return _held(array, self._device)

    def _step(self, node: onnx.NodeProto, program: Program) -> _Step:
        native = all(
            self._types.get(n, TensorProto.FLOAT) in TYPES for n in (*node.input, *node.output) if n
        )
        operator = OPERATORS.get(node.op_type) if native else None
        if operator is None:
            run: Callable[..., Any] = self._by_reference(node, program)
            reads = [self._places[n] if n else 0 for n in node.input]
        else:
            run, reads = self._bound(node, operator)
        writes = [self._put(n, None) if n else None for n in node.output]
        single = operator is not None and not operator.mask
        return _Step(
            name=node.name, run=run, reads=tuple(reads), writes=tuple(writes), single=single
        )

    def _bound(
        self, node: onnx.NodeProto, operator: Operator
    ) -> tuple[Callable[..., Any], list[int]]:
        """The operator with its attributes, and the places of what it reads."""
        attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        if operator.mask:
            attributes["wanted"] = tuple(bool(n) for n in node.output)
        run: Callable[..., Any] = operator.function
        if attributes:
            run = functools.partial(run, **attributes)
        reads, late = [], []
        for k, name in enumerate(node.input):
            if not name or k not in operator.host:
                reads.append(self._places[name] if name else 0)
            elif self._constants[self._places[name]] is None:  # made when the graph runs
                reads.append(self._places[name])
                late.append(k)
            else:
                reads.append(self._as_numbers(name))
        if late:
            run = _reading(run, frozenset(late))
        if not node.input or 0 in operator.host and node.op_type == "ConstantOfShape":
            run = _placed(run, self._device)
        return run, reads

    def _by_reference(self, node: onnx.NodeProto, program: Program) -> Callable[..., Any]:
        """The node by ONNX's reference implementation."""
        try:
            return _by_reference(node, program.model.opset_import, self._device)
        except Exception as error:  # of many kinds: it has no such operator
            site = self._sites.get(node.name)
            raise failures.of_site(error, "is refused by the engine", site) from error

    def _as_numbers(self, name: str) -> int:
        """The place of a constant as a list of numbers."""
        if name not in self._numbers:
            self._constants.append(self._constants[self._places[name]].tolist())
            self._numbers[name] = len(self._constants) - 1
        return self._numbers[name]

    # -- running --------------------------------------------------------------------------------

    def fix(self, tensors: Mapping[str, Array]) -> None:
        """See :meth:`graph_init.engine.session.Session.fix`."""
        for name, array in tensors.items():
            if name in self.inputs:
                self._fixed[name] = self._held(array)

    def __call__(
        self, feeds: Mapping[str, Array], into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See :meth:`graph_init.engine.session.Session.__call__`."""
        given = into or {}
        held = dict(self._fixed)
        for name, array in feeds.items():
            if name in self.inputs and name not in held:
                held[name] = self._held(np.asarray(array))
        with self._running():
            found = self._run(held)
            taken = {_memory(v) for v in (*held.values(), *self._constants)}
            result = {}
            for name, value in zip(self.outputs, found, strict=True):
                if name in given:
                    _as_tensor(given[name]).copy_(value)
                    result[name] = given[name]
                else:
                    result[name] = _own_array(value, taken)
                    taken.add(_memory(value))
        return result

    def bind(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Array]], None]:
        """See :meth:`graph_init.engine.session.Session.bind`."""

        def run(feeds: Mapping[str, Array]) -> None:
            self({**inputs, **feeds}, outputs)

        return run

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        exact = (
            torch.backends.cudnn.flags(allow_tf32=False)
            if self._device == "cuda"
            else contextlib.nullcontext()
        )
        with pytorch.limited_to(self._threads), torch.inference_mode(), exact:
            yield
        if self._shrinks and self._device == "cuda":
            torch.cuda.empty_cache()

    def _run(self, held: Mapping[str, Held]) -> list[Held]:
        values = list(self._constants)
        for name, value in held.items():
            values[self._places[name]] = value
        for step in self._steps:
            try:
                found = step.run(*[values[k] for k in step.reads])
            except Exception as error:  # PyTorch's share no base class but this
                site = self._sites.get(step.name)
                raise failures.of_site(error, "fails", site) from error
            if step.single:
                found = (found,)
            for k, value in zip(step.writes, found, strict=False):
                if k is not None:
                    values[k] = value
            del found
            for k in step.dead:
                values[k] = None
        return [values[self._places[n]] for n in self.outputs]


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element types by name, as far as the graph says them."""
    infos = (*graph.value_info, *graph.input, *graph.output)
    return {
        **{i.name: i.type.tensor_type.elem_type for i in infos},
        **{t.name: t.data_type for t in graph.initializer},
    }


def _with_deaths(steps: Sequence[_Step], kept: set[int]) -> list[_Step]:
    """``steps`` with what is dead behind each, of all that they make but what is ``kept``."""
    made = {k for step in steps for k in step.writes if k is not None}
    found = []
    seen = set(kept)
    for step in reversed(steps):
        last = {k for k in (*step.reads, *step.writes) if k in made and k not in seen}
        seen |= last
        found.append(_Step(**{**vars(step), "dead": tuple(last)}))
    return found[::-1]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _reading(run: Callable[..., Any], late: frozenset[int]) -> Callable[..., Any]:
    """``run`` with the tensors at ``late`` as numbers."""

    def reading(*operands: Held) -> Any:
        return run(*(v.tolist() if k in late else v for k, v in enumerate(operands)))

    return reading


def _placed(run: Callable[..., Any], device: str) -> Callable[..., Any]:
    return lambda *operands: run(*operands).to(device)


def _by_reference(
    node: onnx.NodeProto, opsets: Sequence[onnx.OperatorSetIdProto], device: str
) -> Callable[..., Any]:
    untyped = onnx.TypeProto()
    names = list(dict.fromkeys(n for n in node.input if n))
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_value_info(n, untyped) for n in names],
        [helper.make_value_info(n, untyped) for n in node.output if n],
    )
    model = helper.make_model(graph, opset_imports=opsets)
    reference = ReferenceEvaluator(model)

    def run(*operands: Held) -> tuple[Held, ...]:
        given = {n: _array(v) for n, v in zip(node.input, operands, strict=True) if n}
        with np.errstate(all="ignore"):
            found = iter(reference.run(None, given))
        return tuple(_held(np.asarray(next(found)), device) if n else None for n in node.output)

    return run


# -- arrays and tensors ---------------------------------------------------------------------------


def _held(array: Array, device: str) -> Held:
    """``array`` as a tensor on ``device``; on the CPU without a copy. Texts stay as they are."""
    return array if array.dtype.kind in "OUS" else _as_tensor(array).to(device)


def _as_tensor(array: Array) -> torch.Tensor:
    """The tensor of the same memory."""
    if array.dtype.name == "bfloat16":
        return _as_tensor(array.view(np.int16)).view(torch.bfloat16)
    array = np.asarray(array, order="C")
    if not array.size:
        array = np.empty(array.shape, array.dtype)
    elif not array.flags.writeable:
        # PyTorch warns of such arrays, since it cannot keep their memory from being written to.
        # Nothing here writes to an operand.
        raw = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
        raw._kept = array  # type: ignore[attr-defined]
        array = np.frombuffer(memoryview(raw), array.dtype).reshape(array.shape)
    return torch.from_numpy(array)


def _array(value: Held) -> Array:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.dtype == torch.bfloat16:
        return np.asarray(value.float().cpu().numpy())
    return np.asarray(value.cpu().numpy())


def _memory(value: Held) -> int:
    """The address of a tensor's memory; 0 for what has none."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else 0


def _own_array(value: Held, taken: set[int]) -> Array:
    """``value`` as an array whose memory is not among ``taken``."""
    if not isinstance(value, torch.Tensor):
        return np.array(value)
    value = value.detach().cpu().contiguous()
    array = _array(value)
    return array.copy() if _memory(value) in taken else array
