"""Copies to export: of a module, and of an example of its input."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graph_init.errors import UnsupportedModelError

_HALF = (torch.float16, torch.bfloat16)


def as_float32(example: Any) -> Any:
    """Tensors detached, on the CPU, half precision as float32; anything else as it is."""
    return pytree.tree_map_only(torch.Tensor, _plain, example)


def copy_of(module: nn.Module) -> nn.Module:
    """``module`` in evaluation mode, on the CPU, half precision as float32.

    Tied weights stay tied. Models of ``transformers`` write attention out: the fused one computes
    the same, but not all of its forms can be exported. Raises UnsupportedModelError where the
    module cannot be copied.
    """
    memo: dict[int, Any] = {}
    shared: dict[Any, torch.Tensor] = {}
    for part in module.modules():
        for own in [*part._parameters.values(), *part._buffers.values(), *vars(part).values()]:
            if isinstance(own, torch.Tensor) and id(own) not in memo:
                # deepcopy would copy on the tensor's device, and refuses computed tensors, such
                # as the weight that torch.nn.utils.weight_norm leaves behind.
                memo[id(own)] = _like(own, shared)
    try:
        found: nn.Module = copy.deepcopy(module, memo)
    except Exception as error:  # whatever a module holds may refuse in its own way
        raise UnsupportedModelError(f"the module cannot be copied to export it: {error}") from error
    write_out = getattr(found, "set_attn_implementation", None)
    if callable(write_out):
        # An architecture without the choice refuses, and stays as it is.
        with suppress(Exception):
            write_out("eager")
    return found.eval()


def _like(own: torch.Tensor, shared: dict[Any, torch.Tensor]) -> torch.Tensor:
    key = (own.data_ptr(), own.shape, own.stride(), own.dtype) if own.numel() else id(own)
    if key not in shared:
        shared[key] = _plain(own).clone()
    if isinstance(own, nn.Parameter):
        return nn.Parameter(shared[key], requires_grad=own.requires_grad)
    return shared[key]


def _plain(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to("cpu", torch.float32 if x.dtype in _HALF else x.dtype)
