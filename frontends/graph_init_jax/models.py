"""JAX's kinds of model, each as a function of named leaves.

| kind | its leaves | trained are | what is given back |
| --- | --- | --- | --- |
| a function and a pytree of parameters | the pytree's arrays | all floats | a new pytree |
| Flax Linen module and its variables | the variables | the collection `params` | new variables |
| Flax NNX module | its Variables | its `Param`s | the module, changed in place |
| Equinox module | its arrays | all floats | a new module |
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from graph_init.errors import UsageError
from graph_init.frontends.inputs import unique

Leaves = Mapping[str, Any]


@dataclass(frozen=True)
class Functional:
    """A model as ``call(leaves, args, kwargs)``, with its leaves in the order of their names.

    ``rebuild`` makes the model again from all its leaves. ``frozen`` names those that JAX code
    never trains. ``signature`` is the callable whose parameters name the inputs.
    """

    call: Callable[[Sequence[Any], Sequence[Any], Mapping[str, Any]], Any]
    leaves: Leaves
    rebuild: Callable[[Leaves], Any]
    frozen: frozenset[str]
    signature: Callable[..., Any]


@dataclass(frozen=True)
class Function:
    """A function, or a Linen module, with its parameters: one object for ``graph_init``."""

    function: Any
    params: Any


def functional(model: Any, params: Any, vmap: bool | None) -> Functional:
    """``model``, recognised by its class; UsageError if it is none of JAX's."""
    if isinstance(model, Function):
        model, params = model.function, model.params
    for module, name, kind in KINDS:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and isinstance(model, base):
            return kind(model, params, vmap)
    if callable(model) and params is not None:
        return _function(model, params, vmap)
    if callable(model):
        raise UsageError(
            f"{_label(model)} is a function: give its parameters too, as in "
            "initialize(function, params, (example,))"
        )
    raise UsageError(f"a {type(model).__name__} is not a model of JAX, Flax or Equinox")


def _flatten(tree: Any) -> tuple[dict[str, Any], Callable[[Sequence[Any]], Any]]:
    """A pytree's arrays by their place in it, and the tree again from as many others."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    values = [value for _, value in paths]
    places = [k for k, value in enumerate(values) if _is_array(value)]
    names = [jax.tree_util.keystr(paths[k][0], simple=True, separator="/") for k in places]
    names = unique([name or "parameter" for name in names])

    def build(arrays: Sequence[Any]) -> Any:
        filled = list(values)
        for k, array in zip(places, arrays, strict=True):
            filled[k] = array
        return jax.tree_util.tree_unflatten(structure, filled)

    return {name: values[k] for name, k in zip(names, places, strict=True)}, build


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _mapped(function: Callable[..., Any], vmap: bool) -> Callable[..., Any]:
    """``function`` on each row of its positional arguments, if so wanted."""
    if not vmap:
        return function
    return lambda *args, **kwargs: jax.vmap(lambda *rows: function(*rows, **kwargs))(*args)


def _function(function: Callable[..., Any], params: Any, vmap: bool | None) -> Functional:
    leaves, build = _flatten(params)

    def call(arrays: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tree = build(arrays)
        return _mapped(lambda *a, **k: function(tree, *a, **k), bool(vmap))(*args, **kwargs)

    def signature(*args: Any) -> None: ...

    signature.__signature__ = _without_first(function)  # type: ignore[attr-defined]
    return Functional(
        call,
        leaves,
        rebuild=lambda new: build([*new.values()]),
        frozen=frozenset(),
        signature=signature,
    )


def _without_first(function: Callable[..., Any]) -> inspect.Signature:
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature()
    return found.replace(parameters=list(found.parameters.values())[1:])


def _linen(module: Any, variables: Any, vmap: bool | None) -> Functional:
    if variables is None:
        raise UsageError(
            f"{_label(module)} is a Linen module, whose parameters are outside of it: give its "
            "variables too, as in initialize(module, variables, (example,))"
        )
    if "params" not in variables:
        raise UsageError(
            "a Linen module's variables are {'params': …, …}, as module.init gives them; these "
            f"have {', '.join(map(str, variables)) or 'nothing'}"
        )
    leaves, build = _flatten(variables)

    def call(arrays: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tree = build(arrays)
        return _mapped(lambda *a, **k: module.apply(tree, *a, **k), bool(vmap))(*args, **kwargs)

    frozen = frozenset(name for name in leaves if name.partition("/")[0] != "params")
    return Functional(
        call,
        leaves,
        rebuild=lambda new: build([*new.values()]),
        frozen=frozen,
        signature=module.__call__,
    )


def _nnx(module: Any, params: Any, vmap: bool | None) -> Functional:
    from flax import nnx

    _no_params(module, params)
    flat = nnx.to_flat_state(nnx.state(module))
    names = unique(["/".join(map(str, path)) for path, _ in flat])
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    definition = nnx.split(copy)[0]

    def state(arrays: Sequence[Any]) -> Any:
        pairs = zip(flat, arrays, strict=True)
        return nnx.from_flat_state([(path, old.replace(array)) for (path, old), array in pairs])

    def call(arrays: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return _mapped(nnx.merge(definition, state(arrays)), bool(vmap))(*args, **kwargs)

    def rebuild(leaves: Leaves) -> Any:
        nnx.update(module, state([*leaves.values()]))
        return module

    leaves = {n: v.get_value() for n, (_, v) in zip(names, flat, strict=True)}
    frozen = frozenset(
        n for n, (_, v) in zip(names, flat, strict=True) if not isinstance(v, nnx.Param)
    )
    return Functional(call, leaves, rebuild=rebuild, frozen=frozen, signature=module.__call__)


def _equinox(module: Any, params: Any, vmap: bool | None) -> Functional:
    import equinox

    _no_params(module, params)
    leaves, build = _flatten(module)
    evaluated = _flatten(equinox.nn.inference_mode(module))[1]

    def call(arrays: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return _mapped(evaluated(arrays), vmap is not False)(*args, **kwargs)

    return Functional(
        call,
        leaves,
        rebuild=lambda new: build([*new.values()]),
        frozen=frozenset(),
        signature=module.__call__,
    )


def _no_params(module: Any, params: Any) -> None:
    if params is not None:
        raise UsageError(
            f"{_label(module)} holds its own parameters: give the example only, as in "
            "initialize(module, (example,))"
        )


def _label(model: Any) -> str:
    return getattr(model, "__name__", None) or type(model).__name__


#: Where each kind's class is, if the user has imported it at all.
KINDS: tuple[tuple[str, str, Callable[[Any, Any, bool | None], Functional]], ...] = (
    ("flax.linen", "Module", _linen),
    ("flax.nnx", "Module", _nnx),
    ("equinox", "Module", _equinox),
)
