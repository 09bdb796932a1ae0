"""The initialised tensors as a ``safetensors`` file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from graph_init.errors import UsageError
from graph_init.results import Initialized
from graph_init_torch.frontend import unwrapped


def save_safetensors(
    module: nn.Module, path: str | os.PathLike[str], result: Initialized | None = None
) -> None:
    """Write the ``state_dict`` of ``module``; the file's metadata say how it came about.

    Of tensors that share memory (tied weights) the first name is written; read the file with
    ``module.load_state_dict(safetensors.torch.load_file(path), strict=False)`` or
    ``safetensors.torch.load_model``. The writing is atomic.
    """
    first: dict[tuple[int, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, own in unwrapped(module).state_dict().items():
        key = (own.data_ptr(), own.numel()) if own.numel() else (id(own),)
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            tensors[name] = _alone(own)
    provenance = dict(result.provenance) if result is not None else {}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # The aliases are written as safetensors' own save_model does.
        save_file(tensors, temporary, metadata={"format": "pt", **provenance, **aliases})
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"'{target}' cannot be written: {error}") from error


def _alone(own: torch.Tensor) -> torch.Tensor:
    """The values in memory that nothing else is in: safetensors refuses parts of a larger one."""
    found = own.detach().contiguous()
    whole = found.untyped_storage().nbytes() == found.numel() * found.element_size()
    return found if whole else found.clone()
