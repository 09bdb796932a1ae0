"""Chooses the outputs that the loss reads, and says which tensors get no gradient then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graph_init.errors import UnsupportedModelError, UsageError
from graph_init.ir import Builder, Value

#: So many outputs are named in a note.
_NAMED = 3

Output = tuple[str, Value]


@dataclass(frozen=True)
class Reading:
    """The outputs that are ``read``, and what is said of the others, in sentences."""

    read: Sequence[Output]
    notes: tuple[str, ...] = ()


def choose(
    b: Builder, outputs: Sequence[Output], names: Sequence[str], several: bool = True
) -> Reading:
    """The outputs called ``names``. Without names the first that has a gradient.

    Where ``several`` may be read, these are that one and each output behind it to which a trainable
    tensor leads that leads to none before: the boxes beside the classes. Hidden states, attention
    and the next state of a recurrent layer bring no new tensor, so that a loss on them would only
    add a second aim for the same weights.

    Raises UsageError (there is no such output) or UnsupportedModelError (no trainable tensor leads
    to it).
    """
    usable = [(name, v) for name, v in outputs if v.requires_grad and v.is_float]
    seen: set[int] = set()
    if names:
        read = [_named(outputs, name) for name in dict.fromkeys(names)]
    else:
        read = []
        for output in usable:
            if (not read or several) and trainable(b, [output[1]], seen):
                read.append(output)
    if not read:
        raise UnsupportedModelError(
            "no output depends on a trainable parameter through differentiable operators; "
            "see `graph-init inspect`, and --trainable to mark parameters"
        )
    return Reading(read, _left_out(b, read, usable))


def trainable(b: Builder, values: Iterable[Value], seen: set[int] | None = None) -> list[str]:
    """Names of the trainable tensors that lead to ``values`` through what has a gradient.

    What is in ``seen`` (ids of values) is not looked at again, and what was looked at is added.
    """
    seen = set() if seen is None else seen
    leaves = {id(v) for v in b.inputs}
    waiting, found = list(values), []
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not value.requires_grad:
            continue
        seen.add(id(value))
        if id(value) in leaves:
            found.append(value.name)
        elif value.node is not None:
            waiting += [v for v in value.node.inputs if v is not None]
    return found


def _named(outputs: Sequence[Output], name: str) -> Output:
    for output, value in outputs:
        if output == name:
            if not value.requires_grad:
                raise UnsupportedModelError(
                    f"output '{name}' does not depend on any trainable parameter"
                )
            return output, value
    raise UsageError(
        f"--output-name: the model has no output '{name}'; it has "
        + ", ".join(o for o, _ in outputs)
    )


def _left_out(b: Builder, read: Sequence[Output], usable: Sequence[Output]) -> tuple[str, ...]:
    seen: set[int] = set()
    reached = len(trainable(b, [v for _, v in read], seen))
    more = {name: len(trainable(b, [v], seen)) for name, v in usable}
    others = [name for name, count in more.items() if count]
    if not others:
        return ()
    lost = sum(more.values())
    words = ", ".join(f"'{name}'" for name in others[:_NAMED])
    if len(others) > _NAMED:
        words += f" and {len(others) - _NAMED} more"
    return (
        f"{lost} of {lost + reached} trainable tensors lead only to outputs that the loss does not "
        f"read ({words}), and get no gradient; name every output that the loss should read with an "
        "--output-name of its own",
    )
