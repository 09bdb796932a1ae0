"""Print the program's rooms as floors, its circles of imports, and counts of how it is written.

    python tools/import_graph.py [REVISION …]

Without a revision the files of the working tree are read, else those of each git revision, so that
two states stand side by side. A room is a folder of ``graph_init/`` or a module at its top. A room
stands one floor above the highest room that it imports from, wherever in a file the import is
written: also in a function, and under ``TYPE_CHECKING``. Rooms that import from each other in a
circle share a floor.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import networkx

ROOT = Path(__file__).parent.parent
PACKAGE = "graph_init"
#: The folders of which calls, signatures, comments and lines are counted.
COUNTED = (PACKAGE, "frontends", "tools", "tests")
#: More positional arguments than a call should have.
POSITIONAL = 4
#: Functions of libraries that take any number of arguments, as those with ``*args`` here do: there
#: an argument's place does not say what it means.
ANY_NUMBER = frozenset("Progress Sequential Table add_row permute reshape".split())

Sources = Mapping[str, str]


def working_tree(root: Path = ROOT) -> dict[str, str]:
    """The source of every Python file of the counted folders, by path."""
    files = (path for folder in COUNTED for path in sorted((root / folder).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files}


def revision(name: str, root: Path = ROOT) -> dict[str, str]:
    """The same as :func:`working_tree`, of a git revision."""
    command = ["git", "archive", "--format=tar", name, *COUNTED]
    archive = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            if member.isfile() and member.name.endswith(".py"):
                file = tar.extractfile(member)
                assert file is not None
                sources[member.name] = file.read().decode("utf-8")
    return sources


def _module(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, module: str, modules: Iterable[str]) -> Iterator[str]:
    """The modules of the package that a file of it names in an import."""
    known = set(modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}: a relative import, which the program does not use")
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module or ""


def module_graph(sources: Sources) -> networkx.DiGraph[str]:
    """An edge from each of the package's modules to each that it imports from."""
    paths = {_module(p): p for p in sources if p.startswith(f"{PACKAGE}/")}
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(paths)
    for module, path in paths.items():
        for other in _imports(ast.parse(sources[path]), module, paths):
            if other != module:
                graph.add_edge(module, other)
    return graph


def room(module: str) -> str:
    """The folder, or the module at the top of the package, that ``module`` is in."""
    return (module.split(".") + [module])[1] if "." in module else module


def room_graph(modules: networkx.DiGraph[str]) -> networkx.DiGraph[str]:
    """An edge from each room to each that it imports from."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(map(room, modules))
    graph.add_edges_from({(room(a), room(b)) for a, b in modules.edges if room(a) != room(b)})
    return graph


def circles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    """The groups of nodes that reach each other."""
    groups = networkx.strongly_connected_components(graph)
    return sorted(sorted(group) for group in groups if len(group) > 1)


def floors(rooms: networkx.DiGraph[str]) -> list[list[str]]:
    """The rooms by floor, the lowest first; a circle is on one floor."""
    condensed = networkx.condensation(rooms)
    height: dict[int, int] = {}
    for group in reversed(list(networkx.topological_sort(condensed))):
        height[group] = 1 + max((height[below] for below in condensed[group]), default=-1)
    levels: list[list[str]] = [[] for _ in range(1 + max(height.values(), default=-1))]
    for group, level in height.items():
        levels[level] += condensed.nodes[group]["members"]
    return [sorted(level) for level in levels]


@dataclass(frozen=True)
class Counts:
    """How the counted files are written.

    ``signature`` is the largest number of parameters of a function (``self`` and ``cls`` are not
    counted) and ``longest`` the function that has it; ``positional`` the number of
    :func:`positional_calls`; ``skips`` that of comments that turn the formatter off.
    """

    signature: int
    longest: str
    positional: int
    skips: int
    lines: int


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return sum(n not in ("self", "cls") for n in names) + bool(a.vararg) + bool(a.kwarg)


def positional_calls(sources: Sources) -> list[str]:
    """Where a call has more than four positional arguments, as ``path:line``.

    Not counted are calls of functions that take any number. Which function a call means is told by
    its name: that of the same file, if there is one, else any.
    """
    trees = {path: ast.parse(source) for path, source in sources.items()}
    local = {path: _takes_any(tree) for path, tree in trees.items()}
    anywhere = ANY_NUMBER.union(*({n for n, yes in own.items() if yes} for own in local.values()))
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) > POSITIONAL:
                name = _called(node)
                if not local[path].get(name, name in anywhere):
                    found.append(f"{path}:{node.lineno}")
    return found


def _takes_any(tree: ast.Module) -> dict[str, bool]:
    """Whether each function takes any number of positional arguments."""
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name: f.args.vararg is not None for f in functions}


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "id", None) or getattr(function, "attr", "")


def counts(sources: Sources, folder: str = "") -> Counts:
    """The counts of the files of ``sources`` in ``folder``, which call functions of all of them."""
    positional = [place for place in positional_calls(sources) if place.startswith(folder)]
    sources = {path: source for path, source in sources.items() if path.startswith(folder)}
    functions = [
        (_parameters(node), f"{path}:{node.name}")
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    signature, longest = max(functions, key=lambda f: f[0], default=(0, ""))
    return Counts(
        signature=signature,
        longest=longest,
        positional=len(positional),
        skips=sum(source.count("# fmt: " + "skip") for source in sources.values()),
        lines=sum(len(source.splitlines()) for source in sources.values()),
    )


def describe(title: str, sources: Sources) -> str:
    """What the program prints of one state of the files."""
    modules = module_graph(sources)
    rooms = room_graph(modules)
    levels = floors(rooms)
    loose = [r for r in sorted(rooms) if f"{PACKAGE}/{r}.py" in sources]
    lines = [f"{title}: {len(rooms)} rooms on {len(levels)} floors", ""]
    lines += [f"  {k + 1:2}  {' '.join(levels[k])}" for k in reversed(range(len(levels)))]
    lines += ["", f"  modules at the top: {len(loose)} ({' '.join(loose)})"]
    for name, graph in (("rooms", rooms), ("modules", modules)):
        groups = circles(graph)
        lines.append(f"  circles of {name}: {len(groups)}")
        lines += [f"    {' ↔ '.join(group)}" for group in groups]
    whole = Counts(signature=0, longest="", positional=0, skips=0, lines=0)
    lines += ["", "  folder      longest signature  positional calls  fmt: skip   lines"]
    for folder in (*COUNTED, ""):
        whole = counts(sources, folder)
        lines.append(
            f"  {folder or 'all':<12}{whole.signature:>17}{whole.positional:>18}{whole.skips:>11}"
            f"{whole.lines:>8}"
        )
    lines.append(f"  the longest signature is that of {whole.longest}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help="a git revision")
    parser.add_argument(
        "--positional", action="store_true", help="list the calls with too many arguments"
    )
    arguments = parser.parse_args()
    states = {name: revision(name) for name in arguments.revisions}
    for title, sources in (states or {"working tree": working_tree()}).items():
        print(describe(title, sources), end="\n\n")
        if arguments.positional:
            print("\n".join(positional_calls(sources)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
