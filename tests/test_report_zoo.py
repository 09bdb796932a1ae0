"""The report of a zoo that was really run."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from graph_init.cli import cli
from tests import report_cases

pytest.importorskip("distributed")
pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")


def unpacked(script: str) -> str:
    return gzip.decompress(base64.b64decode(script)).decode()


def test_a_zoo_reports_what_is_in_its_folder(tmp_path: Path) -> None:
    models, out, page = tmp_path / "models", tmp_path / "out", tmp_path / "zoo.html"
    (models / "deep").mkdir(parents=True)
    onnx.save(report_cases.residual(["a", "b"]), models / "deep" / "one.onnx")
    (models / "broken.onnx").write_bytes(b"no model")
    words = ["zoo", str(models), "-o", str(out), "--workers", "1", "--report", str(page)]
    found = CliRunner().invoke(cli, [*words, "--scheme", "he", "--updates", "2"])
    assert found.exit_code == 1, found.output
    html = page.read_text("utf-8")
    whole = re.search(r'data-name="content">([^<]*)<', html)
    assert whole is not None
    rows = {row["name"]: row for row in json.loads(unpacked(whole[1]))["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "broken": "failed",
        "deep/one": "done",
    }
    assert rows["broken"]["reason"] == "ModelFileError" and rows["broken"]["message"]
    assert rows["deep/one"]["peak_memory"] > 1e6 and rows["deep/one"]["seconds"] > 0
    assert rows["deep/one"]["loss_kind"] == "cross-entropy" and rows["deep/one"]["loss_reason"]
    (cells,) = [r for r in csv.DictReader((out / "zoo.csv").open()) if r["name"] == "deep/one"]
    (line,) = [r for r in json.loads((out / "zoo.json").read_text())["rows"] if r["loss_kind"]]
    for key in ("loss_kind", "loss_reason"):
        assert cells[key] == line[key] == rows["deep/one"][key]
        assert f'data-key="{key}"' in html
    pages = re.findall(r'data-page="([^"]*)">([^<]*)<', html)
    assert [name for name, _ in pages] == ["deep%2Fone"]
    inside = re.search(r'data-name="content">(.*?)</script>', unpacked(pages[0][1]), re.DOTALL)
    assert inside is not None
    told = json.loads((out / "deep" / "one.json").read_text("utf-8"))
    assert json.loads(inside[1])["result"]["scales"] == pytest.approx(told["scales"], rel=1e-6)
    assert json.loads(inside[1])["graph"]["order"] == ["a", "b", "head"]


def test_a_bad_place_is_refused_before_the_work(tmp_path: Path) -> None:
    onnx.save(report_cases.residual(["a"]), tmp_path / "one.onnx")
    words = ["zoo", str(tmp_path / "one.onnx"), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(cli, [*words, "--report", str(tmp_path / "none" / "zoo.html")])
    assert found.exit_code == 2 and not (tmp_path / "out").exists()
