"""The frontend for PyTorch: a module as ONNX, its tensors, and new values written into them.

Nothing is done to the module itself before the new values are written. What is exported is a copy
in evaluation mode, on the CPU, with half precision made float32; it takes as much memory as the
module does.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
import onnxscript  # noqa: F401 (torch.onnx needs it: that it is missing should be known at once)
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.frontends import Exported, Tensor
from graph_init.ir import Array
from graph_init.problem.loss_choice import AUTO
from graph_init_torch.copies import as_float32, copy_of
from graph_init_torch.export_errors import culprit
from graph_init_torch.losses import stated

#: Modules that only wrap another, by where that is.
_WRAPPERS: Sequence[tuple[str, type[nn.Module]]] = (
    ("module", nn.DataParallel),
    ("module", nn.parallel.DistributedDataParallel),
)
#: Of several outputs of a model, the loss reads the first of these that it has.
_PREDICTIONS = ("logits", "prediction", "output")
#: The output that is no prediction, where a module computes its own loss.
_LOSS = "loss"


def export(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    dynamic_shapes: Any = None,
) -> Exported:
    """``model`` as ONNX; see :class:`graph_init.frontends.Frontend`.

    ``dynamic_shapes`` is that of ``torch.export.export``. Without it the first dimension of every
    tensor is free where the model lets it be, and the others are as in the example; an example of
    one row is repeated, since PyTorch takes a size of one for a constant.
    """
    module = unwrapped(model)
    if not args and not kwargs:
        raise UsageError(
            "a PyTorch module needs an example of what it is called with: args=(x,), or kwargs"
        )
    tensors, originals = _tensors(module)
    example = as_float32((tuple(args), dict(kwargs)))
    with _quiet(), torch.random.fork_rng(devices=[]):
        exported, outputs, used, program = _exported(module, example, dynamic_shapes)
    rows = {x.shape[0] for x in _leaves(example) if x.ndim}
    predictions = [n for n in outputs if n != _LOSS]
    output_name = next((n for n in _PREDICTIONS if n in outputs), None)
    if output_name is None and predictions and _LOSS in outputs:
        output_name = predictions[0]
    loss, reason = stated(module, program, _LOSS in outputs) or (AUTO, "")
    return Exported(
        exported,
        tensors,
        functools.partial(_write, model, originals),
        array,
        output_name=output_name if len(outputs) > 1 else None,
        loss=loss,
        loss_reason=reason,
        dims=_sizes(exported.graph, used),
        batch_size=rows.pop() if len(rows) == 1 and rows != {1} else None,
    )


def array(leaf: Any) -> Array:
    """A tensor of any device and type as NumPy; half precision as float32."""
    if isinstance(leaf, torch.Tensor):
        found: Array = as_float32(leaf).numpy()
        return found
    return np.asarray(leaf)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module behind ``torch.compile`` and the wrappers that distribute it."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "a ScriptModule cannot be exported: give the module that it was made from"
        )
    compiled = getattr(model, "_orig_mod", None)  # what torch.compile returns
    if isinstance(compiled, nn.Module):
        return unwrapped(compiled)
    for attribute, kind in _WRAPPERS:
        if isinstance(model, kind):
            return unwrapped(getattr(model, attribute))
    return model


def _tensors(module: nn.Module) -> tuple[list[Tensor], dict[str, torch.Tensor]]:
    """Floating-point parameters and buffers, and the module's own objects by the same names.

    Tensors in the same memory are tied, whether they are one object or not.
    """
    names: dict[Any, list[str]] = {}
    objects: dict[Any, torch.Tensor] = {}
    parameters = list(module.named_parameters(remove_duplicate=False))
    for name, own in [*parameters, *module.named_buffers(remove_duplicate=False)]:
        if nn.parameter.is_lazy(own):
            raise UsageError(f"'{name}' has no shape yet: call the module once first")
        if own.is_meta:
            raise UsageError(f"'{name}' is on the meta device: it has no values to scale")
        if own.is_floating_point():
            key = (own.data_ptr(), own.shape, own.stride()) if own.numel() else id(own)
            names.setdefault(key, []).append(name)
            objects.setdefault(key, own)
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    found = []
    for key, (name, *aliases) in names.items():
        own = objects[key]
        buffer = not buffers.isdisjoint([name, *aliases])
        trainable = own.requires_grad and not buffer
        found.append(
            Tensor(
                name,
                _to_numpy(name, own),
                trainable=trainable,
                aliases=tuple(aliases),
                buffer=buffer,
            )
        )
    return found, {names[key][0]: own for key, own in objects.items()}


def _to_numpy(name: str, own: torch.Tensor) -> Array:
    """The values, in the tensor's own type, without a copy where they are on the CPU."""
    try:
        here = own.detach().cpu()
        if here.dtype is torch.bfloat16:
            return here.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        found: Array = here.numpy()
        return found
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModelError(
            f"the values of '{name}' ({own.dtype}, {type(own).__name__}) cannot be read: {error}"
        ) from error


def _write(
    model: nn.Module, originals: Mapping[str, torch.Tensor], values: Mapping[str, Array]
) -> nn.Module:
    """Put ``values`` into the module's own tensors; returns ``model``."""
    with torch.no_grad():
        for name, value in values.items():
            if value.dtype == ml_dtypes.bfloat16:
                new = torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
            else:
                new = torch.from_numpy(value)
            originals[name].copy_(new)
    return model


Example = tuple[tuple[Any, ...], dict[str, Any]]


def _exported(
    module: nn.Module, example: Example, dynamic_shapes: Any
) -> tuple[onnx_ir.Model, list[str], Example, torch.export.ExportedProgram]:
    """The ONNX model, the names of its outputs, the example that was used, and PyTorch's export."""
    attempts: list[tuple[Example, Any]] = [(example, dynamic_shapes)]
    if dynamic_shapes is None:
        twice = _twice(example)
        attempts.insert(0, (twice, _free_rows(module, twice)))
    for number, (given, shapes) in enumerate(attempts):
        copy = copy_of(module)
        outputs: list[str] = []
        copy.forward = _flat(copy.forward, outputs)
        program = None
        try:
            with torch.no_grad():
                program = torch.export.export(
                    copy, given[0], given[1], dynamic_shapes=shapes, strict=False
                )
            result = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                output_names=outputs,
                dynamic_shapes=dynamic_shapes,  # for the names of the dimensions
            )
            assert result is not None
            return result.model, outputs, given, program
        except Exception as error:  # the exporter raises whatever the module's code raises
            if number + 1 < len(attempts):
                continue
            raise UnsupportedModelError(culprit(error, copy, program)) from error
    raise AssertionError("there is always one attempt")


def _twice(example: Example) -> Example:
    """A single row repeated, so that the number of rows is none that PyTorch takes for fixed."""
    if any(x.ndim and x.shape[0] != 1 for x in _leaves(example)):
        return example
    found: Example = pytree.tree_map_only(
        torch.Tensor, lambda x: torch.cat([x, x]) if x.ndim else x, example
    )
    return found


def _free_rows(module: nn.Module, example: Example) -> Any:
    """The shapes of the example, with the first dimension of every tensor free."""
    try:
        given = inspect.signature(module.forward).bind(*example[0], **example[1]).arguments
    except TypeError as error:
        raise UsageError(f"the module cannot be called with the example: {error}") from error

    def shape(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] > 1:
            return {0: torch.export.Dim.AUTO}
        return None

    return pytree.tree_map(shape, dict(given))


def _flat(forward: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """``forward`` returning its tensors as a tuple; ``names`` gets theirs."""

    @functools.wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for path, tensor in _outputs(forward(*args, **kwargs)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[path or "output"] = tensor
        names[:] = found
        return tuple(found.values())

    return flat


def _outputs(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in what a module returns, with where they are; caches and such are passed over."""
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    parts: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, Mapping):
        parts = ((str(k), v) for k, v in value.items())
    elif hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        parts = ((str(k) if path else f"output_{k}", v) for k, v in enumerate(value))
    elif dataclasses.is_dataclass(value):
        parts = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    for key, part in parts:
        yield from _outputs(part, f"{path}.{key}" if path else key)


def _leaves(example: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(example) if isinstance(x, torch.Tensor)]


def _sizes(graph: onnx_ir.Graph, example: Example) -> dict[str, int]:
    """Symbolic dimensions other than the first, as they are in the example."""
    sizes: dict[str, int] = {}
    leaves = _leaves(example)
    if len(leaves) == len(graph.inputs):
        for value, leaf in zip(graph.inputs, leaves, strict=True):
            for dim, size in list(zip(value.shape or (), leaf.shape, strict=False))[1:]:
                if not isinstance(dim, int) and dim.value is not None:
                    sizes[str(dim.value)] = size
    return sizes


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of the exporter about what it skips, nor its graphs when it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
