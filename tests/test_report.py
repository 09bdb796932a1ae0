"""Reports: what they show, that names do no harm, and that nothing is written by half."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import graph_init
from graph_init import report
from graph_init.analysis import analyze
from graph_init.cli import cli
from graph_init.errors import GraphInitError, UsageError, escaped
from graph_init.model.load import load
from tests import report_cases
from tests.small_models import deep_mlp, plain_cnn

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")

from graph_init.report import check, graph_layout, initialize
from graph_init.report.graph_summary import summarize

NAMES = ["w0", "w1", "w2"]


@pytest.fixture(scope="module")
def content() -> report_cases.Content:
    return report_cases.initialized(NAMES)


@pytest.fixture(scope="module")
def comparison() -> report_cases.Content:
    return report_cases.compared(NAMES)


class Read(HTMLParser):
    """Elements with the names of their attributes, what these hold, and the text of each cell."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] | None = None
        self._open = False
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.append((tag, tuple(found)))
        self.addresses += [v or "" for k, v in attributes if k in ("href", "src", "action")]
        if tag == "table":
            self._rows = self.tables.setdefault(found.get("id") or "graph", [])
        if tag == "tr" and self._rows is not None:
            self._rows.append([])
        if tag in ("td", "th") and self._rows:
            self._open = True
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False
        if tag == "table":
            self._rows = None

    def handle_data(self, data: str) -> None:
        if self._open and self._rows:
            self._rows[-1][-1] += data


def page_of(content: report_cases.Content, tmp_path: Path) -> str:
    target = tmp_path / "report.html"
    report.write(content, target)
    return target.read_text("utf-8")


def carried(html: str) -> Any:
    """The content that a page carries."""
    found = re.search(r'data-name="content">([^<]*)<', html)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_a_page_has_the_numbers_of_its_result(
    content: report_cases.Content, tmp_path: Path
) -> None:
    html = page_of(content, tmp_path)
    assert carried(html) == json.loads(json.dumps(content))
    result, rows = content["result"], Read(html).tables["tensors"]
    assert [row[1] for row in rows[1:]] == [*NAMES, "head"]
    head = rows[0]
    shares = [float(row[head.index("share of deviation before")][:-1]) for row in rows[1:]]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    for row in rows[1:]:
        assert float(row[head.index("factor")]) == pytest.approx(result["scales"][row[1]], rel=1e-3)
    for when in ("before", "after"):
        assert f"{result[when]['gradient_deviation']:.4g}" in html
    assert content["provenance"]["graph_init.source_sha256"] in html
    history = Read(html).tables["history"]
    assert [row[1] for row in history[1:]] == [entry["state"] for entry in result["history"]]
    assert [row[2] for row in history[1:]].count("yes") == 1


def test_a_check_has_its_findings_and_profiles(tmp_path: Path) -> None:
    content = report_cases.checked(NAMES)
    html = page_of(content, tmp_path)
    assert carried(html) == json.loads(json.dumps(content))
    result, profile, tables = content["result"], content["profile"], Read(html).tables
    head, *rows = tables["found"]
    assert [r[head.index("rule")] for r in rows] == [f["id"] for f in result["findings"]]
    assert [r[head.index("finding")] for r in rows] == [f["message"] for f in result["findings"]]
    assert rows[0][head.index("severity")] == "error" and rows[0][head.index("tensor")] == "w0"
    assert f"Nothing else was found in {result['tensors']} tensors." in html
    for table, names, key, title in (
        ("layers", "node", "std", "standard deviation"),
        ("tensors", "name", "gradient_norm", "gradient norm"),
    ):
        head, *rows = tables[table]
        listed = profile[table]
        assert [r[1] for r in rows] == [p[names] for p in listed]
        place = head.index(title)
        assert [float(r[place]) for r in rows] == pytest.approx([p[key] for p in listed], rel=1e-3)
    assert len(tables["layers"]) == len(tables["tensors"]) == len(NAMES) + 2
    drawn = [c.id for s in check.page(content).sections for c in s.charts]
    assert drawn == ["depth-std", "depth-across", "depth-gradient_norm", "depth-ratio"]


def test_a_check_without_a_pass_shows_what_there_is(tmp_path: Path) -> None:
    content = report_cases.checked(NAMES)
    content["profile"].update(layers=[], output=None, gradient=None)
    for tensor in content["profile"]["tensors"]:
        for key in set(tensor) - {"name", "kind", "shape", "scalable"}:
            del tensor[key]
    content["result"].update(findings=[], notes=["the signal was not looked at"])
    html = page_of(content, tmp_path)
    assert "Nothing was found in" in html and "the signal was not looked at" in html
    assert set(Read(html).tables) == {"graph"}


def test_check_writes_its_report(tmp_path: Path) -> None:
    model, page = tmp_path / "m.onnx", tmp_path / "check.html"
    onnx.save(plain_cnn(), model)
    words = ["check", str(model), "--fail-on", "never", "--report", str(page)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert carried(page.read_text("utf-8"))["kind"] == "check"
    done = CliRunner().invoke(cli, ["check", str(model), str(model), "--report", str(page)])
    assert done.exit_code == 2 and "of one file" in done.output


def test_steps_of_the_published_tuner_are_lines(tmp_path: Path) -> None:
    content = report_cases.initialized(NAMES, tuner="metainit", steps=6)
    html = page_of(content, tmp_path)
    assert len(Read(html).tables["history"]) == 7
    page = initialize.page(content)
    charts = [c for s in page.sections for c in s.charts]
    assert len(charts) == 8 and all(c.description for c in charts)
    assert f"step {content['result']['best_step']} was taken" in charts[0].description


def test_warnings_of_collapsed_states_are_shown(tmp_path: Path) -> None:
    content = report_cases.initialized(NAMES, scheme="truncated-normal", std=1e-6, updates=0)
    warnings = content["result"]["before"]["warnings"]
    assert warnings
    content["result"]["after"]["warnings"] = warnings
    html = page_of(content, tmp_path)
    assert 'class="warnings"' in html and "before and after: " in html


def test_a_comparison_has_its_runs(comparison: report_cases.Content, tmp_path: Path) -> None:
    html = page_of(comparison, tmp_path)
    tables = Read(html).tables
    result = comparison["result"]
    assert len(tables["summary"]) == 1 + len(result["summary"])
    assert len(tables["measurements"]) == 1 + len(result["states"])
    # What diverges at the rate of 1e30 has no final loss, and leaves its place empty.
    rates = [row for row in tables["rates"] if row[4] == "1e+30"]
    assert rates and all(row[5] == "–" and row[6] == "2" for row in rates)
    curves = [row for row in tables["curves"][1:] if row[0] == "keep" and row[3] == "sgd"]
    best = next(r for r in result["summary"] if (r["state"], r["optimizer"]) == ("keep", "sgd"))
    runs = [
        r
        for r in result["runs"]
        if r["state"] == "keep"
        and r["optimizer"] == "sgd"
        and r["learning_rate"] == best["learning_rate"]
    ]
    first = sorted(sum(r["losses"][:10]) / 10 for r in runs)
    assert float(curves[0][5]) == pytest.approx(sum(first) / 2, rel=1e-3)
    assert carried(html)["result"]["runs"] == json.loads(json.dumps(result["runs"]))


def test_names_are_text_and_nothing_else(content: report_cases.Content, tmp_path: Path) -> None:
    names = list(report_cases.HOSTILE)
    hostile = report_cases.initialized(names, names[0])
    tame = report_cases.initialized([f"w{k}" for k in range(len(names))], "tame")
    # Names decide how weights are drawn, so that the numbers are taken from one of them.
    pages = [page_of(c, tmp_path) for c in (hostile, tame)]
    found, expected = map(Read, pages)
    assert found.elements == expected.elements
    assert [row[1] for row in found.tables["tensors"][1:]] == [*map(escaped, names), "head"]
    for character in "\u202e\u2066\x1b\x07\x85\u2028":
        assert character not in pages[0]
    assert "\\u202e" in pages[0]
    assert set(carried(pages[0])["result"]["scales"]) == {*names, "head"}


def test_names_in_a_zoo_are_text_and_nothing_else(
    content: report_cases.Content, tmp_path: Path
) -> None:
    target = tmp_path / "zoo.html"
    rows, contents = report_cases.zoo(6, content, report_cases.HOSTILE)
    report.write_zoo(rows, contents, target)
    found = Read(target.read_text("utf-8"))
    rows, contents = report_cases.zoo(6, content, tuple("abcdefgh"))
    report.write_zoo(rows, contents, target)
    assert found.elements == Read(target.read_text("utf-8")).elements
    assert [r[0] for r in found.tables["models"][7:]] == [*map(escaped, report_cases.HOSTILE)]


def test_a_page_needs_nothing_else(
    content: report_cases.Content, comparison: report_cases.Content, tmp_path: Path
) -> None:
    for each in (content, comparison):
        html = page_of(each, tmp_path)
        found = Read(html)
        assert found.addresses and all(a.startswith(("#", "data:")) for a in found.addresses)
        assert not {"link"} & {t for t, a in found.elements if "rel" in a and "stylesheet" in a}
        assert "@import" not in html.split("<body>")[0] and "url(" not in html.split("<body>")[0]
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
        assert policy and "default-src 'none'" in policy[1]
        scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        assert len(scripts) == 2
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[1]


def test_pages_are_small(content: report_cases.Content, tmp_path: Path) -> None:
    assert len(page_of(content, tmp_path)) < 1.2e6
    sizes = []
    for count in (10, 110):
        target = tmp_path / f"{count}.html"
        report.write_zoo(*report_cases.zoo(count, content), target)
        sizes.append(target.stat().st_size)
    # 80 of 100 more models have pages.
    assert (sizes[1] - sizes[0]) / 100 < 8000


def test_the_same_result_makes_the_same_page(content: report_cases.Content, tmp_path: Path) -> None:
    assert page_of(content, tmp_path) == page_of(json.loads(json.dumps(content)), tmp_path)


def test_nothing_is_written_by_half(content: report_cases.Content, tmp_path: Path) -> None:
    target = tmp_path / "zoo.html"
    target.write_text("mine")
    rows, contents = report_cases.zoo(4, content)

    def fails() -> report_cases.Content:
        raise GraphInitError("a file is gone")

    contents[rows[-2]["name"]] = fails
    with pytest.raises(GraphInitError, match="gone"):
        report.write_zoo(rows, contents, target)
    assert target.read_text() == "mine" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("place", ["missing/report.html", "."])
def test_a_bad_place_is_wrong_usage_before_the_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(graph_init, "initialize", fail)
    monkeypatch.setattr(graph_init, "compare", fail)
    target = str(tmp_path / place)
    for words in (["initialize", "m.onnx", "-o", "o.onnx"], ["compare", "m.onnx", "--data", "d"]):
        found = CliRunner().invoke(cli, [*words, "--report", target])
        assert found.exit_code == 2, found.output
        assert str(tmp_path / place.split("/")[0]).rstrip("/.") in found.stderr.replace("\n", "")


def test_model_scales_and_report_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(plain_cnn(2, 4, 4), tmp_path / "m.onnx")
    out, scales, page = (str(tmp_path / n) for n in ("o.onnx", "s.json", "r.html"))
    words = ["initialize", str(tmp_path / "m.onnx"), "-o", out, "--updates", "1"]
    words += ["--save-scales", scales, "--report", page]

    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(
            sys.modules["graph_init.model.save"], "_serialized", full
        )  # the last that is written
        found = CliRunner().invoke(cli, words)
    assert found.exit_code == 1 and "No space left" in found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "o.onnx", "s.json", "r.html"}
    assert out in Path(page).read_text(encoding="utf-8")
    found = CliRunner().invoke(cli, [*words[:-1], scales])
    assert found.exit_code == 2 and "two outputs are called" in found.stderr


def test_a_missing_extra_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    words = ["initialize", "m.onnx", "-o", "o.onnx", "--report", str(tmp_path / "r.html")]
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 1
    assert "graph-init[report]" in found.stderr and "vl_convert" in found.stderr


def test_commands_write_reports(tmp_path: Path) -> None:
    model, target = tmp_path / "m.onnx", tmp_path / "r.html"
    onnx.save(plain_cnn(2), model)
    words = ["initialize", str(model), "-o", str(tmp_path / "o.onnx"), "--updates", "2"]
    found = CliRunner().invoke(cli, [*words, "--report", str(target), "--json"])
    assert found.exit_code == 0, found.output
    content = carried(target.read_text("utf-8"))
    assert content["model"] == "m.onnx" and content["result"] == json.loads(found.stdout)
    with pytest.raises(UsageError):
        report.write(content, tmp_path)


def test_what_is_not_seen_is_written_out() -> None:
    assert escaped("a\x00b\u202ec\ud800\u2028") == "a\\x00b\\u202ec\\ud800\\u2028"
    assert escaped("Größe/层.1 ✓") == "Größe/层.1 ✓"


def found_outline(model: onnx.ModelProto, limit: int = 250) -> Any:
    loaded = load(model)
    parameters = analyze(loaded.ir)
    scalable = {p.name for p in parameters if p.scalable}
    found = summarize(loaded.ir, parameters, limit)
    assert len(found["rows"]) <= limit
    assert scalable <= {n for row in found["rows"] for n in row["tensors"]} == set(found["order"])
    assert sum(row["nodes"] for row in found["rows"]) == found["computing"] + 1
    for number, row in enumerate(found["rows"]):
        assert all(source < number for source in row["inputs"])
        assert number == 0 or row["inputs"]
    return found


def test_chains_are_folded_and_branches_are_not() -> None:
    chain = found_outline(plain_cnn(4))
    assert [row["operators"] for row in chain["rows"][1:3]] == [[("Conv", 1), ("Relu", 1)]] * 2
    assert len(chain["rows"]) == 6 and chain["joins"] == 0
    assert chain["order"][:4] == ["w0", "b0", "w1", "b1"]
    branches = found_outline(report_cases.residual(NAMES))
    assert branches["joins"] == 3
    inputs = [row["inputs"] for row in branches["rows"]]
    assert inputs == [[], [0], [0, 1], [2], [2, 3], [4], [4, 5], [6]]
    assert branches["rows"][0]["operators"] == [("input", 1)]


@pytest.mark.parametrize(("limit", "folded"), [(600, "tensors"), (100, "runs")])
def test_large_graphs_stay_readable(limit: int, folded: str) -> None:
    large = report_cases.residual([f"w{k}" for k in range(400)])
    found = found_outline(large, limit)
    assert found["nodes"] == 1201 and found["folded"] == folded


def test_a_deep_chain_is_a_row_a_layer() -> None:
    assert len(found_outline(deep_mlp(40))["rows"]) == 42


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_lines_of_a_drawing_meet(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    inputs = [
        sorted(data.draw(st.sets(st.integers(0, row - 1), max_size=3))) if row else []
        for row in range(count)
    ]
    heights = [graph_layout.HEIGHT * data.draw(st.integers(1, 3)) for _ in inputs]
    pieces, width = graph_layout.draw(inputs, heights)
    leaving: set[int] = set()
    for row, (piece, height) in enumerate(zip(pieces, heights, strict=True)):
        above = {int(x) for x in re.findall(r"M(\d+) 0(?=[VC])", piece.lines)}
        assert above == leaving
        down = re.findall(rf"M(\d+) \d+V{height}(?!\d)", piece.lines)
        bent = re.findall(rf" (\d+) {height}(?= |$)", piece.lines)
        leaving = {int(x) for x in (*down, *bent)}
        arriving = re.findall(rf"M(\d+) 0(?:V{graph_layout.HEIGHT // 2}(?!\d)|C)", piece.lines)
        assert len(set(arriving)) == len(set(inputs[row]))
        assert 0 < piece.x < width
    assert not leaving
