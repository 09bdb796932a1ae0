"""Finds the model that a public function is called with: a file, or a framework's model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir

from graph_init.errors import NumericalError, OutputError, UsageError
from graph_init.frontends import Exported, Tensor, find, is_saved_model
from graph_init.frontends.correspondence import bind
from graph_init.ir import Array
from graph_init.model.load import LoadedModel, load
from graph_init.model.save import save, with_values
from graph_init.output import scratch
from graph_init.problem.data_files import Data
from graph_init.problem.loss_choice import AUTO, Choice

#: What needs no frontend.
_ONNX = (str, os.PathLike, onnx.ModelProto, onnx_ir.Model, LoadedModel)
#: Models of more bytes go through a file, from which weights are mapped into memory: as messages
#: they would be there several times over, and none holds 2 GiB.
_MESSAGE_LIMIT = 1 << 28


@dataclass(frozen=True)
class ResolvedModel:
    """A loaded model; with ``exported``, a framework's model and which initializers are its.

    ``owners``: the framework's tensors that each of the initializers stands for.
    """

    loaded: LoadedModel
    exported: Exported | None = None
    owners: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def trained(self) -> Mapping[str, bool] | None:
        """For each initializer that is a tensor of the framework's: whether that is trained.

        None for a model file, which does not say.
        """
        if self.exported is None:
            return None
        return {n: all(t.trainable for t in owners) for n, owners in self.owners.items()}

    @property
    def buffers(self) -> frozenset[str]:
        """Initializers that no option makes trainable."""
        return frozenset(n for n, owners in self.owners.items() if any(t.buffer for t in owners))

    def data(self, data: Data | None) -> Data | None:
        """``data`` with the framework's arrays as NumPy's."""
        if self.exported is None or data is None or isinstance(data, str | os.PathLike):
            return data
        array = self.exported.array
        if isinstance(data, Mapping):
            return {str(k): array(v) for k, v in data.items()}
        if not isinstance(data, Iterable):
            return data  # refused, with all that would do, where data is read
        items = iter(data)
        if items is data:
            return (_converted(item, array) for item in items)
        return _Batches(data, array)

    def dims(self, given: Mapping[str, int] | None) -> dict[str, int]:
        """Sizes of symbolic dimensions: the example's, unless ``given``."""
        own = {} if self.exported is None else self.exported.dims
        return {**own, **(given or {})}

    def batch_size(self, given: int | None) -> int | None:
        return given if given is not None or self.exported is None else self.exported.batch_size

    def output_name(self, given: str | Sequence[str] | None) -> str | Sequence[str] | None:
        return given if given or self.exported is None else self.exported.output_name

    def loss(self, given: str, output_name: str | Sequence[str] | None) -> str | Choice:
        """The loss; for ``auto`` on the frontend's own choice of output, what that knows of it."""
        own = self.exported
        if given != AUTO or output_name or own is None or own.loss == AUTO:
            return given
        return Choice(own.loss, own.loss_reason)

    def onnx(self, path: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
        """The ONNX model as it is, its weights embedded; also written to ``path``."""
        if path is not None:
            save(self.loaded, {}, path)
        return with_values(self.loaded, {})

    def new_values(
        self, factors: Mapping[str, float], filled: Mapping[str, Array]
    ) -> dict[str, Array]:
        """New values by ``Tensor.name``: ``filled`` or the old ones, times ``factors``.

        Computed in float64 and rounded once, to the framework's own element type. Raises
        NumericalError if a number does not fit that.
        """
        new = {}
        for name in dict.fromkeys([*filled, *factors]):
            for tensor in self.owners.get(name, ()):
                dtype = tensor.value.dtype
                base = filled.get(name, tensor.value)
                with np.errstate(over="ignore"):
                    exact = base.astype(np.float64) * factors.get(name, 1.0)
                    new[tensor.name] = exact.astype(dtype).reshape(tensor.value.shape)
                if not np.isfinite(new[tensor.name].astype(np.float64)).all():
                    raise NumericalError(
                        f"'{tensor.name}' times {factors.get(name, 1.0):g} does not fit {dtype}; "
                        "nothing was changed. Use a wider type for the model"
                    )
        return new

    def write(self, new: Mapping[str, Array]) -> Any:
        """Put ``new`` into the framework's model: all of it, or nothing. Returns the model."""
        assert self.exported is not None
        tensors = (t for owners in self.owners.values() for t in owners)
        # The frontend's arrays may be views of what is written.
        old = {t.name: np.array(t.value) for t in tensors if t.name in new}
        try:
            return self.exported.write(new)
        except BaseException:
            self.exported.write(old)
            raise


class _Batches:
    """An iterable of batches, each converted when it is asked for."""

    def __init__(self, batches: Iterable[Any], array: Any) -> None:
        self._batches, self._array = batches, array

    def __iter__(self) -> Iterator[Any]:
        return (_converted(item, self._array) for item in self._batches)


def _converted(item: Any, array: Any) -> Any:
    if isinstance(item, Mapping):
        return {str(k): array(v) for k, v in item.items()}
    if isinstance(item, tuple | list):
        return [array(v) for v in item]
    return item  # refused, with all that would do, where batches are read


def resolve(
    model: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    export: Mapping[str, Any] | None = None,
) -> ResolvedModel:
    """``model`` made ready: a path, an ONNX model, or an object of a framework with a frontend.

    ``args`` and ``kwargs`` are an example of what a framework's model is called with; ``export``
    are options of its frontend.
    """
    is_file = isinstance(model, _ONNX) and not is_saved_model(model)
    frontend = None if is_file else find(model)
    if frontend is None:
        if not isinstance(model, _ONNX):
            raise UsageError(
                f"a model cannot be {type(model).__name__}: give a path, an ONNX model, or a model "
                "of a framework that has a frontend (PyTorch, Keras, JAX)"
            )
        if args is not None or kwargs is not None or export is not None:
            raise UsageError(
                "args, kwargs and export are for a framework's model; leave them out for ONNX"
            )
        return ResolvedModel(load(model))
    if isinstance(args, str) or not isinstance(args, Sequence | None):
        raise UsageError(
            f"args is the tuple of positional arguments of the model, not {type(args).__name__}: "
            "write (x,) for a single one"
        )
    exported = frontend.export(model, tuple(args or ()), dict(kwargs or {}), **(export or {}))
    bound = bind(exported.model, exported.tensors)
    loaded, folder = _loaded(bound.model)
    return ResolvedModel(loaded, exported, bound.owners, folder)


def _loaded(model: onnx_ir.Model) -> tuple[LoadedModel, tempfile.TemporaryDirectory[str] | None]:
    size = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    if size < _MESSAGE_LIMIT:
        return load(onnx_ir.to_proto(model)), None
    try:
        folder = tempfile.TemporaryDirectory(prefix=scratch.PREFIX)
        path = Path(folder.name) / "model.onnx"
        onnx_ir.save(model, path, external_data="model.onnx.data")
    except OSError as error:
        raise OutputError(
            f"the temporary folder cannot take the exported model's {size / 1e6:,.0f} MB: "
            f"{error.strerror or error}; set TMPDIR to a folder with more space"
        ) from error
    return load(path), folder
