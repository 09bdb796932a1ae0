"""Faults put into writing: the k-th call of the system fails, or the process is killed there.

Also the outputs to which this is done, each with what it was before and what it is to become.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_init.errors import GraphInitError
from graph_init.model import load, save, scales_file
from graph_init.output import folders

#: Calls that change something; those that only remove do not fail for want of space.
_CHANGING = ("open", "replace", "rename", "link", "mkdir", "fsync", "write", "fdopen")
_REMOVING = ("unlink", "rmdir")
_TEMPORARY = re.compile(r"\.graph-init\.[0-9a-f]{16}\.tmp")


class Injector:
    """Counts the calls of ``os`` that write, and does something instead of the ``at``-th."""

    def __init__(self, at: int, instead: Callable[[], None], removing: bool) -> None:
        self._at, self._instead = at, instead
        self._names = _CHANGING + (_REMOVING if removing else ())
        self.count = 0

    def _meet(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._instead()

    @contextmanager
    def active(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in self._names}

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                self._meet()
                result = real[name](*args, **options)
                return _Stream(result, self._meet) if name == "fdopen" else result

            return call

        try:
            for name in self._names:
                setattr(os, name, counted(name))
            yield
        finally:
            for name in self._names:
                setattr(os, name, real[name])


class _Stream:
    """A stream whose writes are counted."""

    def __init__(self, stream: Any, meet: Callable[[], None]) -> None:
        self._stream, self._meet = stream, meet

    def write(self, data: Any) -> Any:
        self._meet()
        return self._stream.write(data)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def fail() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Case:
    """An output: how to make the old one, how to write the new one, and what there is."""

    prepare: Callable[[Path], None]
    write: Callable[[Path], None]
    state: Callable[[Path], Any]
    #: States that a killed process may leave besides the old one and the new one.
    between: Callable[[Any, Any], list[Any]] = lambda old, new: []


def matrix(value: float, external: bool = False) -> onnx.ModelProto:
    """x @ a @ b, both matrices full of ``value``."""
    weights = [numpy_helper.from_array(np.full((3, 3), value, np.float32), n) for n in "ab"]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("MatMul", ["h", "b"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def store(path: Path, value: float, external: bool) -> None:
    options: dict[str, Any] = {"size_threshold": 0, "location": f"{path.stem}.data"}
    onnx.save(matrix(value), path, save_as_external_data=external, **(options if external else {}))


def values(path: Path) -> list[bytes] | None:
    """The weights of a model with all its data, None if there is none."""
    if not path.exists():
        return None
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    return [t.raw_data for t in proto.graph.initializer]


def _times(factor: float, source: str, out: str, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        loaded = load(folder / source)
        new = {
            n: v.const_value.numpy() * np.float32(factor)
            for n, v in loaded.ir.graph.initializers.items()
            if v.const_value is not None
        }
        beside = {folder / k: v for k, v in options.items()}
        save(loaded, new, folder / out, beside=[(p, c(factor)) for p, c in beside.items()])

    return write


def _model(external: bool, old: bool, out: str = "out.onnx") -> Case:
    def prepare(folder: Path) -> None:
        store(folder / "in.onnx", 1, external)
        if old and out != "in.onnx":
            _times(5, "in.onnx", out)(folder)

    return Case(prepare, _times(2, "in.onnx", out), lambda folder: values(folder / out))


def _pair() -> Case:
    def scales(factor: float) -> bytes:
        return scales_file.content({"a": factor, "b": factor}, {})

    def prepare(folder: Path) -> None:
        store(folder / "in.onnx", 1, False)
        _times(5, "in.onnx", "out.onnx", scales=scales)(folder)

    def state(folder: Path) -> tuple[Any, float]:
        return values(folder / "out.onnx"), scales_file.read(folder / "scales").factors["a"]

    def between(old: Any, new: Any) -> list[Any]:
        return [(old[0], new[1])]  # from the scales, `apply` makes the new model

    return Case(prepare, _times(2, "in.onnx", "out.onnx", scales=scales), state, between)


def _folder(others: bool) -> Case:
    """``others``: the folder holds a file of the user's, so that ours are moved one by one."""
    names = ("checkpoint", "training_model.onnx")

    def write(content: bytes) -> Callable[[Path], None]:
        def into(folder: Path) -> None:
            with folders.replaced(folder / "out") as at:
                for name in names:
                    (at / name).write_bytes(content)

        return into

    def prepare(folder: Path) -> None:
        write(b"old")(folder)
        if others:
            (folder / "out" / "mine").write_text("mine")

    def state(folder: Path) -> tuple[bytes, ...]:
        assert not others or (folder / "out" / "mine").read_text() == "mine"
        return tuple((folder / "out" / name).read_bytes() for name in names)

    def between(old: Any, new: Any) -> list[Any]:
        return [(new[0], old[1])] if others else []

    return Case(prepare, write(b"new"), state, between)


CASES: Mapping[str, Case] = {
    "new file": _model(False, old=False),
    "over an old file": _model(False, old=True),
    "onto the input": _model(False, old=True, out="in.onnx"),
    "external data, new": _model(True, old=False),
    "external data, over an old model": _model(True, old=True),
    "external data, onto the input": _model(True, old=True, out="in.onnx"),
    "model and scales": _pair(),
    "folder": _folder(others=False),
    "folder with another file": _folder(others=True),
}


@dataclass
class Outcome:
    """What became of the faults put into one case."""

    faults: int = 0
    lost: int = 0
    left: int = 0  # files that the failed run, or the run after a kill, left behind
    between: int = 0
    unclear: int = 0  # failures without a message of ours


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything in the folder, by relative path."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def fail_everywhere(case: Case, folder: Path) -> Outcome:
    """Let the k-th call fail, for every k until the writing succeeds."""
    outcome = Outcome()
    new = _finished(case, folder.with_name(folder.name + ".finished"))
    for k in range(1, 1000):
        _fresh(case, folder)
        before = listing(folder)
        injector = Injector(k, fail, removing=False)
        try:
            with injector.active():
                case.write(folder)
        except GraphInitError as error:
            outcome.unclear += os.strerror(errno.ENOSPC) not in str(error)
        if injector.count < k:
            return outcome
        outcome.faults += 1
        after = listing(folder)
        if case.state(folder) != new:
            outcome.lost += any(after.get(n) != c for n, c in before.items())
            outcome.left += len(after.keys() - before.keys())
    raise AssertionError("there is no end to it")


def kill_everywhere(case: Case, folder: Path) -> Outcome:
    """Kill the process at the k-th call, for every k until the writing succeeds."""
    outcome = Outcome()
    other = folder.with_name(folder.name + ".finished")
    finished = [_finished(case, other)]
    case.write(other)
    finished.append(case.state(other))
    for k in range(1, 1000):
        _fresh(case, folder)
        old = case.state(folder)
        if not killed_at(k, lambda: case.write(folder)):
            return outcome
        outcome.faults += 1
        new, twice = finished
        found = case.state(folder)
        if found not in (old, new):
            outcome.between += found in case.between(old, new)
            outcome.lost += found not in case.between(old, new)
        case.write(folder)  # a later run, which onto the input is the second
        outcome.lost += case.state(folder) not in (new, twice)
        outcome.left += len(strays(folder))
    raise AssertionError("there is no end to it")


def killed_at(k: int, action: Callable[[], None]) -> bool:
    """Whether a child process was killed at its ``k``-th call; False if it made fewer."""
    child = os.fork()
    if not child:
        try:
            with Injector(k, kill, removing=True).active():
                action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def strays(folder: Path) -> list[str]:
    """Temporary files, and data files to which no model in the folder refers."""
    found = [n for n in listing(folder) if _TEMPORARY.fullmatch(Path(n).name)]
    referred = set()
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            referred |= {e.value for e in tensor.external_data if e.key == "location"}
    data = [n for n in listing(folder) if ".data" in n]
    # That of the input before the output was written onto it may be another model's, too.
    return found + [n for n in data if n not in referred | {"in.data", "ext.data"}]


def _fresh(case: Case, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case.prepare(folder)


def _finished(case: Case, folder: Path) -> Any:
    """The state after the writing; ``folder`` is used up."""
    _fresh(case, folder)
    case.write(folder)
    return case.state(folder)
