"""``zoo --check``: findings of every model in the overview, and a status that CI reads."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

import graph_init
from graph_init import zoo
from graph_init.cli import cli
from graph_init.errors import UsageError
from graph_init.zoo import messages
from graph_init.zoo.plan import Plan
from graph_init.zoo.records import CHECK, INITIALIZE, Finding, Record
from tests.small_models import plain_cnn
from tests.zoo_runs import contents, journal

pytest.importorskip("distributed")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound network, and in a folder one with a weight that is no number."""
    monkeypatch.chdir(tmp_path)  # without a pyproject.toml
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    onnx.save(plain_cnn(2, 4, 4, seed=1), folder / "sound.onnx")
    broken = plain_cnn(2, 4, 4, seed=2)
    tensor = broken.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(broken, folder / "deep" / "broken.onnx")
    return folder


def run(*arguments: object) -> Result:
    words = ["zoo", *map(str, arguments), "--check", "--workers", "1"]
    return CliRunner().invoke(cli, words)


def test_findings_are_in_the_journal_and_the_overview(models: Path) -> None:
    out = models.parent / "out"
    done = run(models, "-o", out)
    assert done.exit_code == 6, done.output
    assert "2 models: 2 done, 0 failed; found: 3 errors" in done.stdout
    assert "GI101 w0: 1 of" in re.sub(r"\s+", " ", done.stdout.replace("│", ""))
    assert set(contents(out)) == {"sound.json", "deep/broken.json"}

    expected = graph_init.check(models / "deep" / "broken.onnx").to_json()
    found = zoo.read(str(out))
    broken, sound = found.rows
    assert (broken.name, sound.name) == ("deep/broken", "sound")
    assert broken.findings == expected["findings"]
    assert broken.count("error") == 3 and sound.count("error") == 0
    assert found.summary["work"] == "check" and found.summary["findings"]["error"] == 3
    told = found.result(broken)
    assert {k: told[k] for k in expected} == expected
    assert {r["name"]: r["findings"] for r in journal(out)}["deep/broken"] == broken.findings
    cells = {r["name"]: r for r in csv.DictReader((out / "zoo.csv").open())}
    assert cells["deep/broken"]["errors"] == "3" and cells["sound"]["errors"] == "0"
    assert cells["deep/broken"]["findings"].startswith("GI101 w0; ")


def test_the_status_is_what_fail_on_says(models: Path) -> None:
    out = models.parent / "out"
    assert run(models / "sound.onnx", "-o", out).exit_code == 0
    assert run(models, "-o", out, "--resume", "--fail-on", "never").exit_code == 0
    assert zoo.read(str(out)).summary["kept"] == 1
    (models.parent / "pyproject.toml").write_text('[tool.graph-init.check]\nfail-on = "never"\n')
    assert run(models, "-o", out, "--resume").exit_code == 0
    assert run(models, "-o", out, "--resume", "--fail-on", "error").exit_code == 6
    # A model that could not be checked weighs more than what was found in others.
    (models / "no.onnx").write_bytes(b"no model")
    assert run(models, "-o", out, "--resume", "--fail-on", "error").exit_code == 1


def test_rules_that_are_not_asked(models: Path) -> None:
    ignored = ["GI101", "GI202", "GI306"]
    found = zoo.check([str(models)], "out", workers=1, ignore=ignored)
    assert not found.fails("error")
    found = zoo.check([str(models)], "out", workers=1, resume=True, ignore=ignored[1:])
    assert found.summary["kept"] == 0 and found.summary["findings"]["error"] == 1
    assert found.fails("error") and found.fails("note")


@pytest.mark.parametrize(
    ("begin", "options", "words"),
    [
        (zoo.check, {"scheme": "he"}, "--scheme is of an initialisation"),
        (zoo.check, {"updates": 3}, "--updates is of an initialisation"),
        (zoo.run, {"ignore": ["GI304"]}, "--ignore is of a check"),
        (zoo.check, {"ignore": ["nonsense"]}, "no identifier of a rule"),
    ],
)
def test_options_of_the_other_work_are_refused(
    begin: Any, options: dict[str, Any], words: str, models: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        begin([str(models)], "out", **options)
    assert not (models.parent / "out").exists()


def test_fail_on_without_a_check_is_refused(models: Path) -> None:
    words = ["zoo", str(models), "-o", "out", "--fail-on", "error"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2 and "--fail-on is of a check" in done.output


def test_one_manifest_serves_both(models: Path) -> None:
    manifest = models / "zoo.yaml"
    manifest.write_text(
        "format: graph-init/zoo\nversion: 1\ndefaults: {scheme: he, batch-size: 4}\nmodels:\n"
        "  - source: sound.onnx\n    options: {ignore: [GI304], batch-norm: eval}\n"
    )

    def options(work: str) -> dict[str, Any]:
        plan = Plan(work=work, sources=[str(manifest)], output="out", options={})
        (entry,) = plan.entries()
        return plan.own(entry.options)

    # Batch norms of a check use the batch's statistics unless the manifest says otherwise.
    assert options(CHECK) == {"batch_size": 4, "ignore": ["GI304"], "batch_norm": "eval"}
    assert options(INITIALIZE) == {"batch_size": 4, "scheme": "he"}


def test_records_of_a_check_are_read_back() -> None:
    finding = graph_init.Finding(
        "GI101", "error", "w", "…", evidence={"std": float("nan")}
    ).to_json()
    found = Finding(outputs=["a.json"], notes=[], findings=[finding])
    row = zoo.Row(name="a", source="/in/a.onnx", status="done", **vars(found))
    record = Record(row, "key")
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    answer = messages.Answer(found)
    assert messages.decoded(messages.encoded(answer)) == answer
    assert row.worst == "GI101 w: …" and row.count("error") == 1


def test_the_report_has_counts_and_a_page_a_model(models: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("vl_convert")
    assert run(models, "-o", "out", "--report", "zoo.html").exit_code == 6
    html = Path("zoo.html").read_text("utf-8")
    for key in ("errors", "warnings", "notes", "worst"):
        assert f'data-key="{key}"' in html
    assert 'data-key="gradient_deviation_before"' not in html
    pages = dict(re.findall(r'data-page="([^"]*)">([^<]*)<', html))
    assert sorted(pages) == ["deep%2Fbroken", "sound"]
    page = gzip.decompress(base64.b64decode(pages["deep%2Fbroken"])).decode()
    assert "elements are infinite or NaN" in page
    assert 'id="findings"' in page
