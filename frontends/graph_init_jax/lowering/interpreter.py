"""Walks through a jaxpr: what is known is computed, calls are entered, loops are unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import source_info_util

from graph_init.errors import UnsupportedModelError
from graph_init_jax.lowering.graph import Graph, Value, is_key, known, widened
from graph_init_jax.lowering.registry import BROADCASTING, RULES, Result

#: Nodes beyond which unrolled loops are refused.
MAX_NODES = 50_000

#: Where a primitive that calls a function has its jaxpr.
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")

#: Calls that run their body once on their operands.
_CALLS = frozenset(
    "jit pjit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr "
    "checkpoint remat remat2 custom_lin".split()
)


class Interpreter:
    """Adds the nodes of jaxprs to ``graph``."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._scopes: list[tuple[str, str]] = []
        self._control = {"scan": self._scan, "while": self._while, "cond": self._cond}

    def run(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
        """The results of a (closed) jaxpr for ``arguments``."""
        jaxpr = getattr(closed, "jaxpr", closed)
        constants = [known(_array(c)) for c in getattr(closed, "consts", ())]
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return (
                known(np.asarray(atom.val, atom.aval.dtype))
                if hasattr(atom, "val")
                else values[atom]
            )

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            if len(self.graph.nodes) > MAX_NODES:
                raise UnsupportedModelError(
                    f"the loops of the model unroll into more than {MAX_NODES} nodes; the last of "
                    f"them is in {self._where(equation)}"
                )
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name = equation.primitive.name
        if name in _CALLS:
            body = next(equation.params[key] for key in _BODIES if key in equation.params)
            self._scopes.append(_place(equation))
            results = self.run(body, inputs)
            self._scopes.pop()
            return results
        out = Result(
            name,
            [tuple(v.aval.shape) for v in equation.outvars],
            [_kind(v.aval.dtype) for v in equation.outvars],
            self._where(equation),
        )
        if name in self._control:
            return self._control[name](inputs, equation.params, out)
        if all(value.known for value in inputs) and not equation.effects:
            return _compute(equation, inputs)
        lower = RULES.get(name)
        if lower is None:
            raise out.refused()
        if name not in BROADCASTING:
            inputs = [self.graph.full(value) for value in inputs]
        results = lower(self.graph, inputs, equation.params, out)
        return results if isinstance(results, list) else [results]

    def _where(self, equation: Any) -> str:
        """The place of an equation: the modules around it, and the line of the user's code."""
        scopes = [*self._scopes, _place(equation)]
        modules = "/".join(module for module, _ in scopes if module)
        line = next((line for _, line in reversed(scopes) if line), "")
        if not modules:
            return line or "the model"
        return f"'{modules}' ({line})" if line else f"'{modules}'"

    # ---- control flow

    def _scan(self, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
        fixed, carried = params["num_consts"], params["num_carry"]
        constants, carry = inputs[:fixed], inputs[fixed : fixed + carried]
        sequences = [self.graph.full(v) for v in inputs[fixed + carried :]]
        steps = range(params["length"])
        rows: list[tuple[int, list[Value]]] = []
        for step in reversed(steps) if params["reverse"] else steps:
            slices = [self._row(sequence, step) for sequence in sequences]
            results = self.run(params["jaxpr"], [*constants, *carry, *slices])
            carry = results[:carried]
            rows.append((step, results[carried:]))
        rows.sort(key=lambda row: row[0])
        stacked = [
            self._stack([results[k] for _, results in rows], shape, dtype)
            for k, (shape, dtype) in enumerate(
                zip(out.shapes[carried:], out.dtypes[carried:], strict=True)
            )
        ]
        return [*carry, *stacked]

    def _row(self, sequence: Value, step: int) -> Value:
        if sequence.known:
            return known(sequence.data[step])
        shape = sequence.shape[1:]
        at = np.array(step, np.int64)
        return self.graph.add("Gather", [sequence, at], shape, sequence.dtype, axis=0)

    def _stack(self, rows: list[Value], shape: tuple[int, ...], dtype: Any) -> Value:
        if all(row.known for row in rows):
            return known(
                np.stack([np.asarray(row.data) for row in rows]) if rows else np.zeros(shape, dtype)
            )
        parts = [self.graph.reshape(self._tensor(row), (1, *shape[1:])) for row in rows]
        if len(parts) == 1:
            return parts[0]
        return self.graph.add("Concat", parts, shape, dtype, axis=0)

    def _tensor(self, value: Value) -> Value:
        """``value`` as a tensor of the graph, if it was known."""
        if not value.known:
            return value
        name = self.graph.reference(value)
        stored = tuple(self.graph.initializers[name].dims)
        return Value(value.shape, value.dtype, stored, name)

    def _while(self, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
        first, second = params["cond_nconsts"], params["body_nconsts"]
        of_condition, of_body = inputs[:first], inputs[first : first + second]
        carry = inputs[first + second :]
        while True:
            (goes_on,) = self.run(params["cond_jaxpr"], [*of_condition, *carry])
            if not goes_on.known:
                raise out.refused("whose end depends on the input")
            if not bool(goes_on.data):
                return carry
            carry = self.run(params["body_jaxpr"], [*of_body, *carry])
            if len(self.graph.nodes) > MAX_NODES:
                raise out.refused(f"of more than {MAX_NODES} nodes")

    def _cond(self, inputs: list[Value], params: dict[str, Any], out: Result) -> list[Value]:
        which, *operands = inputs
        if not which.known:
            raise out.refused("that chooses by the input")
        branches = params["branches"]
        number = int(np.clip(int(which.data), 0, len(branches) - 1))
        return self.run(branches[number], operands)


def _compute(equation: Any, inputs: list[Value]) -> list[Value]:
    """The results of an equation of known values, by JAX itself."""
    if equation.primitive.name == "broadcast_in_dim":
        value = inputs[0]
        if not is_key(value.dtype):
            # A view: a filled tensor of any size stays one number.
            shape = equation.params["shape"]
            axes = dict(enumerate(equation.params["broadcast_dimensions"]))
            own = [1] * len(shape)
            for k, axis in axes.items():
                own[int(axis)] = value.shape[k]
            return [known(np.broadcast_to(np.asarray(value.data).reshape(own), shape))]
    results = equation.primitive.bind(*(value.data for value in inputs), **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    return [known(result) for result in results]


def _kind(dtype: Any) -> Any:
    """The type in the graph; keys of random numbers, which never get there, keep theirs."""
    return dtype if is_key(dtype) else widened(dtype)


def _place(equation: Any) -> tuple[str, str]:
    """The named scopes around an equation, and its line; inside calls either may be empty."""
    source = equation.source_info
    return str(source.name_stack), source_info_util.summarize(source)


def _array(value: Any) -> Any:
    return value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
