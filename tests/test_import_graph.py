"""The import graph: the tool sees what there is, and the program keeps the rules of its house."""

from __future__ import annotations

import pytest

from tools import import_graph
from tools.import_graph import Sources

#: A house of four rooms: zoo → api → model ↔ engine, with a circle of modules in each of two ways.
HOUSE = {
    "graph_init/__init__.py": "from graph_init.api import measure\n",
    "graph_init/api.py": "from graph_init import engine\nfrom graph_init.model.load import load\n",
    "graph_init/model/__init__.py": "",
    "graph_init/model/load.py": "import graph_init.engine.session\n",
    "graph_init/engine/__init__.py": "",
    "graph_init/engine/session.py": (
        "def run(self, a, *, b=f(1, 2, 3, 4, 5), **more):\n"
        "    from graph_init.model.load import load\n"
        "    return g(1, 2, 3, 4)\n"
    ),
    "tests/test_model.py": "def test(): f(*a, 1, 2, 3, b, c=1)  # fmt: " + "skip\n",
}


def test_a_circle_is_found_and_stands_on_one_floor() -> None:
    modules = import_graph.module_graph(HOUSE)
    assert import_graph.circles(modules) == [["graph_init.engine.session", "graph_init.model.load"]]
    rooms = import_graph.room_graph(modules)
    assert import_graph.circles(rooms) == [["engine", "model"]]
    assert import_graph.floors(rooms) == [["engine", "model"], ["api"], ["graph_init"]]


def test_floors_without_a_circle() -> None:
    house = HOUSE | {"graph_init/engine/session.py": ""}
    rooms = import_graph.room_graph(import_graph.module_graph(house))
    assert import_graph.circles(rooms) == []
    assert import_graph.floors(rooms) == [["engine"], ["model"], ["api"], ["graph_init"]]


def test_counts() -> None:
    counts = import_graph.counts(HOUSE)
    assert (counts.signature, counts.longest) == (3, "graph_init/engine/session.py:run")
    assert (counts.positional, counts.skips, counts.lines) == (2, 1, 8)
    assert import_graph.positional_calls(HOUSE) == [
        "graph_init/engine/session.py:1",
        "tests/test_model.py:1",
    ]


def test_a_function_that_takes_any_number_has_no_positions() -> None:
    sources = {
        "tests/a.py": "def run(*command): ...\nrun(1, 2, 3, 4, 5)\nlog(1, 2, 3, 4, 5)\n",
        "tests/b.py": "from a import run\nrun(1, 2, 3, 4, 5)\nx.reshape(1, 2, 3, 4, 5)\n",
        "tests/c.py": "def run(a, b, c, d, e): ...\nrun(1, 2, 3, 4, 5)\n",
    }
    assert import_graph.positional_calls(sources) == ["tests/a.py:3", "tests/c.py:2"]
    assert import_graph.counts(sources, "tests/b").positional == 0


@pytest.fixture(scope="module")
def program() -> Sources:
    return import_graph.working_tree()


def _of_the_program(sources: Sources) -> Sources:
    return {p: s for p, s in sources.items() if p.startswith(("graph_init/", "frontends/"))}


def test_the_house_has_at_most_fourteen_floors_and_no_circles(program: Sources) -> None:
    modules = import_graph.module_graph(program)
    rooms = import_graph.room_graph(modules)
    assert import_graph.circles(modules) == []
    assert import_graph.circles(rooms) == []
    assert len(import_graph.floors(rooms)) <= 14


def test_nothing_lies_loose_at_the_top(program: Sources) -> None:
    top = {p.removeprefix("graph_init/") for p in program if p.startswith("graph_init/")}
    loose = {p for p in top if "/" not in p}
    face = {"__init__.py", "__main__.py", "api.py"}
    assert loose <= face | {"errors.py", "options.py", "results.py", "version.py"}


def test_calls_name_their_arguments(program: Sources) -> None:
    assert import_graph.positional_calls(program) == []


def test_the_formatter_is_never_turned_off(program: Sources) -> None:
    own = "tools/import_graph.py"  # which prints the comment's name
    assert import_graph.counts({p: s for p, s in program.items() if p != own}).skips == 0


def test_no_file_of_the_program_is_long(program: Sources) -> None:
    long = [p for p, s in _of_the_program(program).items() if s.count("\n") > 400]
    assert long == []
