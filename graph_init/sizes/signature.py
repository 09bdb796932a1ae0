"""The signature of a model: the sizes of its inputs, and the values of those that steer it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from graph_init.errors import UnsupportedModelError, UsageError, printable
from graph_init.ir import Array, Shape
from graph_init.model.reading import dtype_name
from graph_init.sizes import steering
from graph_init.sizes.dry_run import DryRun, Outcome, array_input
from graph_init.sizes.known import Dim, Known
from graph_init.sizes.search import Search
from graph_init.sizes.unknowns import Unknown, declared, key, unknowns

#: The bit of all values that are given; no size that could be changed.
_GIVEN = 1 << 62
#: Combinations of values of inputs that steer, tried at most.
_COMBINATIONS = 24


class Open(NamedTuple):
    """An open axis as it was taken."""

    size: int
    reason: str
    solved: bool


@dataclass(frozen=True)
class Request:
    """What options and data say of the inputs.

    ``dims``: sizes by the names of symbolic axes, or as ``input[axis]``. ``rows``: of a batch.
    ``shapes``: of the arrays that are given, and ``given`` are those of them that could steer.
    ``start``: open axes as they were taken before, by name, and ``steered`` the values.
    ``values``: of inputs, one number for all elements or an array of the input's shape.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    rows: int | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    given: Mapping[str, Array] = field(default_factory=dict)
    start: Mapping[str, Open] = field(default_factory=dict)
    steered: Mapping[str, steering.Choice] = field(default_factory=dict)

    @property
    def key(self) -> Any:
        """Equal for equal requests."""
        arrays = [
            (n, a.tobytes(), str(a.dtype), a.shape)
            for n, a in (*sorted(self.values.items()), *sorted(self.given.items()))
        ]
        named = [sorted(d.items()) for d in (self.dims, self.shapes, self.start)]
        return repr((named, self.rows, arrays))


@dataclass(frozen=True)
class Axis:
    """One axis of an input: what the file declares, the size that was taken, and why."""

    declared: int | str | None
    size: int
    reason: str
    solved: bool = False


@dataclass(frozen=True)
class Signature:
    """The model's inputs as they are fed.

    ``axes``: of each input. ``values``: of inputs that steer, with the reasons. ``rows`` of a
    batch, None where no axis 0 is open; ``any_rows``: as far as is known, others fit as well.
    ``batched`` are the inputs of which each row has its own part, along axis 0, and ``across``
    those that have it along another axis. ``taken``: for each If with a known condition, by name,
    whether its first branch is. ``work``: multiplications of layers in one forward pass.
    """

    axes: Mapping[str, tuple[Axis, ...]]
    values: Mapping[str, steering.Choice]
    rows: int | None
    any_rows: bool
    batched: frozenset[str]
    across: frozenset[str]
    taken: Mapping[str, bool]
    work: int
    dtypes: Mapping[str, str]
    opens: Mapping[str, Open]

    def shape(self, name: str) -> Shape:
        return tuple(axis.size for axis in self.axes[name])

    def notes(self) -> list[str]:
        """What was taken that nobody asked for and that the usual sizes are not, in sentences."""
        found: dict[str, None] = {}
        for name, axes in self.axes.items():
            for k, axis in enumerate(axes):
                if axis.solved:
                    found[f"axis {k} of input '{name}' is {axis.size}: {axis.reason}"] = None
            chosen = self.values.get(name)
            if chosen is not None and not chosen.asked:
                number = chosen.value.reshape(-1)[0].item()
                found[
                    f"sizes or branches of the model depend on input '{name}', which is set to "
                    f"{number}: {chosen.reason}; give another value with --input {name}=VALUE"
                ] = None
        return list(found)

    def inputs(self) -> list[dict[str, Any]]:
        """The entries of ``inspect --json``: type, declared and solved sizes, and values."""
        return [
            {
                "name": name,
                "dtype": self.dtypes[name],
                "declared": [a.declared for a in axes],
                "shape": [a.size for a in axes],
                "reasons": [a.reason for a in axes],
                "value": None if name not in self.values else self.values[name].value.tolist(),
                "value_reason": None if name not in self.values else self.values[name].reason,
            }
            for name, axes in self.axes.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """``dims`` of the JSON: by input and axis, the size and its reason."""
        return {
            name: {str(k): {"size": a.size, "reason": a.reason} for k, a in enumerate(axes)}
            for name, axes in self.axes.items()
        }


def inputs_of(model: ir.Model) -> list[ir.Value]:
    """The graph's inputs that are fed; initializers may be listed among them."""
    return [v for v in model.graph.inputs if v.name not in model.graph.initializers]


def solve(model: ir.Model, request: Request = Request()) -> Signature:
    """Sizes of all inputs, and values of those that steer, under which the model is valid.

    Raises:
        UsageError: An option names no open axis, or contradicts the file.
        UnsupportedModelError: No sizes were found; the message names the nodes.
    """
    return _Solver(model, request)()


class _Solver:
    def __init__(self, model: ir.Model, request: Request) -> None:
        self._inputs = inputs_of(model)
        for value in self._inputs:
            if value.dtype is None or value.shape is None:
                raise UnsupportedModelError(
                    f"input '{printable(value.name or '')}' has no element type or shape; export "
                    "the model with both"
                )
        self._by_name = {v.name or "": v for v in self._inputs}
        self._unknowns = unknowns(self._inputs)
        self._trivial = not self._unknowns and not any(map(steering.steers, self._inputs))
        self._trivial &= not any(n.op_type == "If" for n in model.graph)
        self._order = list(self._unknowns.values())
        self._values: dict[str, steering.Choice] = {}
        self._given = request.given
        self._run = DryRun(model)
        self._apply(request)

    def _apply(self, request: Request) -> None:
        self._values.update(request.steered)
        for name, taken in request.start.items():
            if name in self._unknowns:
                u = self._unknowns[name]
                u.size, u.reason, u.solved = taken
        for name, size in request.dims.items():
            if name not in self._unknowns:
                raise UsageError(
                    f"--dim {name}: the model has no such symbolic dimension; it has "
                    + (", ".join(sorted(self._unknowns)) or "none")
                )
            self._unknowns[name].set(size, "given by --dim", fixed=True)
        if request.rows is not None:
            for u in self._order:
                if u.kind == "rows" and not u.fixed:
                    u.set(request.rows, "the rows of a batch that were asked for", fixed=True)
        for name, shape in request.shapes.items():
            self._take(self._by_name[name], shape)
        for name, array in request.values.items():
            if name not in self._by_name:
                raise UsageError(
                    f"--input {name}: the model has no such input; it has "
                    + (", ".join(self._by_name) or "none")
                )
            self._values[name] = steering.Choice(array, "given by --input", asked=True)

    def _take(self, value: ir.Value, shape: Shape) -> None:
        """The sizes of an array that is given."""
        sizes = declared(value)
        if len(sizes) != len(shape) or any(
            isinstance(d, int) and d != n for d, n in zip(sizes, shape, strict=False)
        ):
            raise UsageError(
                f"--data: '{value.name}' has shape {shape}, but the model declares {sizes}"
            )
        for axis, (size, n) in enumerate(zip(sizes, shape, strict=True)):
            if not isinstance(size, int):
                u = self._unknowns[key(value, axis, size)]
                if not u.fixed or u.reason != "given by --dim":
                    u.set(n, "the data's own", fixed=True)

    def __call__(self) -> Signature:
        outcome = Outcome() if self._trivial else self._solve()
        for _ in self._inputs:
            names = self._steering(outcome)
            if not names:
                break
            better = self._with_values(names, outcome)
            if better is None:
                break
            outcome = better
        return self._signature(outcome)

    def _solve(self) -> Outcome:
        return Search(self._order, self._attempt, self._run).solve()

    def _attempt(self, until: int | None) -> Outcome:
        bits = {u.name: 1 << k for k, u in enumerate(self._order[:60])}
        fed: dict[str, Known] = {}
        for name, value in self._by_name.items():
            dims = tuple(
                Dim(d) if isinstance(d, int) else Dim(self._unknowns[u].size, bits.get(u, 0))
                for axis, d in enumerate(declared(value))
                for u in (key(value, axis, d),)
            )
            assert value.dtype is not None
            fed[name] = Known(int(value.dtype.value), dims)
            given = self._values.get(name)
            if given is not None:
                known = array_input(self._shaped(given.value, dims), _GIVEN)
                fed[name] = Known(known.dtype, dims, known.content, known.marks)
        return self._run(fed, until)

    @staticmethod
    def _shaped(array: Array, dims: Sequence[int]) -> Array:
        """One number for every element, where the input has as many as rows."""
        shape = tuple(int(n) for n in dims)
        return np.full(shape, array.reshape(-1)[0]) if array.shape != shape else array

    # -- inputs that steer ----------------------------------------------------------------------

    def _steering(self, outcome: Outcome) -> list[str]:
        """The inputs without a value from which the sizes behind nodes follow."""
        found: dict[str, None] = {}
        for node, slot in outcome.needed:
            names = steering.behind(node.inputs[slot])
            found.update(dict.fromkeys(sorted(names or ())))
        return [n for n in found if n not in self._values]

    def _with_values(self, names: Sequence[str], before: Outcome) -> Outcome | None:
        """The outcome with the first values under which fewer sizes are left open."""
        start = [(u.size, u.reason, u.solved) for u in self._order]
        for combination in itertools.islice(self._combinations(names), _COMBINATIONS):
            self._values.update(zip(names, combination, strict=True))
            self._run.forget()
            try:
                outcome = self._solve()
            except UnsupportedModelError:
                outcome = None
            if (
                outcome is not None
                and outcome.conflict is None
                and not set(names) & set(self._still(outcome))
            ):
                return outcome
            for u, (size, reason, solved) in zip(self._order, start, strict=True):
                u.size, u.reason, u.solved = size, reason, solved
        for name in names:
            self._values.pop(name, None)
        self._run.forget()
        return None

    def _still(self, outcome: Outcome) -> Iterator[str]:
        """Inputs behind what is still not known, although they have values."""
        for node, slot in outcome.needed:
            yield from steering.behind(node.inputs[slot]) or ()

    def _combinations(self, names: Sequence[str]) -> Iterator[tuple[steering.Choice, ...]]:
        lists = []
        for name in names:
            value = self._by_name[name]
            if name in self._given:
                lists.append([self._chosen(name)])
                continue
            shape = tuple(self._size(value, k) for k in range(len(declared(value))))
            others = [
                (not isinstance(d, int), self._size(v, k))
                for n, v in self._by_name.items()
                if n not in names
                for k, d in enumerate(declared(v))
                if k
            ]
            sizes = [n for _, n in sorted(others, reverse=True)]
            lists.append(list(steering.choices(value, shape, sizes)))
        return itertools.product(*lists)

    def _chosen(self, name: str) -> steering.Choice:
        """The value that the data have: one, since it decides what is computed."""
        array = self._given[name]
        if array.ndim and len(array) > 1 and (array != array[:1]).any():
            raise UsageError(
                f"--data: the sizes or the branches of the model follow from '{name}', so it must "
                f"be the same in every row; give one value with --input {name}=VALUE"
            )
        return steering.Choice(array, "the data's own", asked=True)

    def _size(self, value: ir.Value, axis: int) -> int:
        d = declared(value)[axis]
        return d if isinstance(d, int) else self._unknowns[key(value, axis, d)].size

    # -- the answer -----------------------------------------------------------------------------

    def _signature(self, outcome: Outcome) -> Signature:
        axes: dict[str, tuple[Axis, ...]] = {}
        for name, value in self._by_name.items():
            entries = []
            for k, d in enumerate(declared(value)):
                u = None if isinstance(d, int) else self._unknowns[key(value, k, d)]
                reason = "declared by the file" if u is None else u.reason
                solved = u is not None and u.solved
                entries.append(Axis(d, self._size(value, k), reason, solved))
            axes[name] = tuple(entries)
        values = {
            n: steering.Choice(
                self._shaped(c.value, [a.size for a in axes[n]]).astype(
                    self._dtype(self._by_name[n])
                ),
                c.reason,
                c.asked,
            )
            for n, c in self._values.items()
        }
        rows = self._rows()
        return Signature(
            axes=axes,
            values=values,
            rows=None if rows is None else rows.size,
            any_rows=rows is not None and not rows.fixed and not rows.solved,
            batched=frozenset(self._with_rows(rows, first=True)) - values.keys(),
            across=frozenset(self._with_rows(rows, first=False)) - values.keys(),
            taken=outcome.taken,
            work=outcome.work,
            dtypes={n: dtype_name(v) for n, v in self._by_name.items()},
            opens={n: Open(u.size, u.reason, u.solved) for n, u in self._unknowns.items()},
        )

    @staticmethod
    def _dtype(value: ir.Value) -> Any:
        assert value.dtype is not None
        return value.dtype.numpy()

    def _rows(self) -> Unknown | None:
        """The open size that counts rows: that of the first input whose axis 0 is one."""
        return next((u for u in self._order if u.kind == "rows"), None)

    def _with_rows(self, rows: Unknown | None, *, first: bool) -> Iterator[str]:
        """Inputs of which each row has its own part: along axis 0, or along another."""
        if rows is None:
            return
        for name, value in self._by_name.items():
            here = [
                self._unknowns[key(value, k, d)] if not isinstance(d, int) else None
                for k, d in enumerate(declared(value))
            ]
            # Other names at axis 0 count rows too, where they have come out alike.
            head = here[0] if here else None
            along = head is not None and (head is rows or head.size == rows.size)
            if along if first else not along and any(u is rows for u in here):
                yield name
