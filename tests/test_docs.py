"""Every code block of the documentation is run, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import docs_pages
from tests.docs_fixtures import FIXTURES
from tests.docs_pages import ROOT, Block, unlike

pytest.importorskip("onnxruntime")

INSTALLS = "installs packages: tools/empty_environment.py does, in an empty environment"
#: Blocks that are not run, by page and how the first line begins, and why.
NOT_RUN = {
    (
        "CONTRIBUTING.md",
        "git clone URL",
    ): "is continuous integration itself (.ci/run); the site is built below",
    (
        "CONTRIBUTING.md",
        ".venv/bin/python -m pytest -q tests/test_tangent.py ",
    ): "the tests themselves",
    (
        "docs/threat-model.md",
        "python tools/fuzz.py ",
    ): "half an hour; tests/test_fuzz.py is shorter",
    (
        "CONTRIBUTING.md",
        "python tools/operator_table.py ",
    ): "takes minutes; tests/test_operators.py renders the table",
    ("CONTRIBUTING.md", "python -m pip wheel "): "a release: sets a tag",
    ("docs/engines.md", "python tools/accelerator.py"): "needs an accelerator",
    ("CONTRIBUTING.md", "pip install --require-hashes "): INSTALLS,
    ("README.md", "make demo "): "a minute of the same functions on a larger model",
    ("README.md", "pip install "): INSTALLS,
    ("docs/jax.md", "pip install "): INSTALLS,
    ("docs/keras.md", "pip install 'graph-init[cpu,keras"): INSTALLS,
    ("docs/keras.md", "pip install 'graph-init[cpu,tensorflow"): INSTALLS,
    ("docs/pytorch.md", "pip install "): INSTALLS,
    ("docs/tutorial.md", "python3 -m venv "): INSTALLS,
    ("docs/zoo.md", "pip install "): INSTALLS,
    ("docs/zoo.md", "dask scheduler "): "servers: tests/test_zoo_remote.py has them on loopback",
    ("docs/tutorial.md", "pip install torch"): INSTALLS,
}

#: Pages that take longer than the rest together, and why.
LONG = {
    "docs/comparison.md": "README.md runs a smaller comparison",
    "docs/keras.md": "Keras and TensorFlow again: README.md runs the same lines",
}


def not_run(block: Block) -> bool:
    return any(block.page == p and block.code.startswith(start) for p, start in NOT_RUN)


def with_code(page: str) -> bool:
    return any(b.language in docs_pages.RUN and not not_run(b) for b in docs_pages.blocks(page))


@pytest.mark.seeded("pages show numbers of one seed")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.long] if page in LONG else [])
        for page in docs_pages.pages()
        if with_code(page)
    ],
)
def test_the_code_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    docs_pages.run(page, FIXTURES, not_run)
    for name in set(sys.modules) - before:  # the page's own modules
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_what_is_not_run_is_there() -> None:
    """Each entry stands for one block: nothing else hides behind it."""
    for page, start in NOT_RUN:
        assert sum(b.code.startswith(start) for b in docs_pages.blocks(page)) == 1, (page, start)


def test_every_need_is_known() -> None:
    needs = {n for p in docs_pages.pages() for b in docs_pages.blocks(p) for n in b.needs}
    assert needs == set(FIXTURES)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("loss 2.30", "loss  2.31", True),
        ("loss 2.30", "loss 2.90", False),
        ("loss 2.30", "gain 2.30", False),
        ("… loss 2", "a b loss 2", True),
        ("took … s", "took 2.5 s", True),
        ("a", "a b", False),
        ("│ 1,234 │", "│ 1234 │", True),
        ("┏━━━┳━━━━┓", "┏━━━━━┳━━┓", True),
        ("┏━━━┳━━━━┓", "┏━━━━━━━━┓", False),
    ],
)
def test_outputs_are_compared_by_words_and_numbers(shown: str, printed: str, same: bool) -> None:
    assert (unlike(shown, printed) == "") is same


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode: a warning (a broken link or anchor, a page that the
    navigation lacks, a docstring's unknown reference) fails."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**docs_pages.environment(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    outside = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//"
    )
    found = [str(p) for p in site.rglob("*.html") if outside.search(p.read_text("utf-8"))]
    assert not found
    styles = "".join(p.read_text("utf-8") for p in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?(?:https?:)?//", styles)


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "mathematics.html").read_text("utf-8")
    assert page.count("<math ") > 10 and r"\(" not in page and r"\[" not in page


def test_the_reference_documents_what_is_public(site: Path) -> None:
    import graph_init
    from graph_init import errors

    page = (site / "api" / "graph_init.html").read_text("utf-8")
    for name in set(graph_init.__all__) - {"__version__", "GraphInitError"}:
        assert f'id="graph_init.{name}"' in page, name
    for name in vars(errors):
        if name.endswith("Error"):
            assert f'id="graph_init.errors.{name}"' in page, name


def test_the_reference_of_commands_has_every_option(site: Path) -> None:
    import click

    from graph_init.cli import cli

    page = (site / "command-line.html").read_text("utf-8")
    for name, command in cli.commands.items():
        assert f"graph-init {name}" in page
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in page, (name, parameter.opts)


# ---- figures


@pytest.mark.seeded("figures show numbers of one seed")
def test_the_figures_are_current() -> None:
    from tools import figures

    assert not figures.check(), "run python tools/figures.py"
