"""The tool that tries real files: packages are unpacked, limits hold, results are told."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import onnx
import pytest

from tests.small_models import deep_mlp
from tools.real_files import __main__ as tool
from tools.real_files import catalog, fetch, page, runs

pytest.importorskip("onnxruntime")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel ``models`` with a model, the same again, one with external data, and a broken one."""
    folder, wheels = tmp_path / "package", tmp_path / "wheels"
    folder.mkdir()
    wheels.mkdir()
    onnx.save(deep_mlp(depth=2, width=8), folder / "a.onnx")
    onnx.save(deep_mlp(depth=2, width=8), folder / "again.onnx")
    model = deep_mlp(depth=3, width=8)
    onnx.save(
        model, folder / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0
    )
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "other.bin").write_bytes(b"not referred to")
    info = "models-1.5.dist-info"
    with zipfile.ZipFile(wheels / "models-1.5-py3-none-any.whl", "w") as wheel:
        for file in folder.iterdir():
            wheel.write(file, f"models/weights/{file.name}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: models\nVersion: 1.5\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(catalog, "LIST", tmp_path / "files.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    return tmp_path / "cache"


def test_from_a_package_to_the_page(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool.add(registry, "models")
    files = catalog.read()
    assert {(f.package, f.version) for f in files} == {("models", "1.5")}
    assert len(files) == 3  # two have the same bytes
    kept = {p.name for p in registry.rglob("*") if p.is_file()}
    assert kept == {"a.onnx", "again.onnx", "b.onnx", "b.bin", "broken.onnx"}
    tool.add(registry, "models==1.5")
    assert catalog.read() == files

    tool.try_all(registry, files, 1)
    outcomes = {Path(f.path).stem: o for f, o in tool.kept(registry, files)}
    good = outcomes["b"]
    assert good.initialized and good.measured and good.elements == 3 * 64 + 80
    assert good.ran == "ran" and not good.differences and good.measure.peak > 1e7
    broken = outcomes["broken"]
    assert not broken.measured and "broken.onnx" in broken.failure
    capsys.readouterr()
    tool.try_all(registry, files, 1)
    assert not capsys.readouterr().out  # nothing is tried again

    tool.write_page(registry, files)
    written = page.PAGE.read_text("utf-8")
    assert "3 files with different bytes from 1 packages" in written
    assert "| all | 3 | 2 (67%) | 2 (67%) |" in written
    assert "| 1 | " in written.split("## Why files are refused")[1].split("##")[0]
    assert "zoo" not in written


def test_what_is_set_aside_is_only_counted() -> None:
    """Until it is asked for: neither its line nor its numbers."""
    run = runs.Run(status=4, error="node 'a' fails", seconds=77.7, processor=1.0, peak=1)
    outcome = runs.Outcome(runs.Facts("pytorch"), inspect=run, measure=run)
    digests = (f"{k:08x}" + 56 * "0" for k in (0, 1))
    files = [catalog.RealFile("p", "1", "p.whl", f"{d}.onnx", sha256=d) for d in digests]
    assert [f.aside for f in files] == [True, False]
    hidden = page.text([(files[0], outcome)], page.Setting("now"))
    assert "| set aside | 1 | 0 (0%) |" in hidden
    assert "fails" not in hidden and "77.7" not in hidden and "pytorch" in hidden
    shown = page.text([(files[0], outcome)], page.Setting("now", revealed=True))
    assert shown.count("fails") == 2 and "77.7" in shown
    assert "fails" in page.text([(files[1], outcome)], page.Setting("now"))


def test_files_without_weights_are_counted_apart() -> None:
    outcomes = []
    for k, words in enumerate(("the model has no trainable parameter", "node 'a' fails")):
        run = runs.Run(status=5 - k, error=words, seconds=1.0, processor=1.0, peak=1)
        file = catalog.RealFile("p", "1", "p.whl", f"{k}.onnx", sha256=f"{k + 1:08x}" + 56 * "0")
        outcomes.append((file, runs.Outcome(runs.Facts("pytorch"), inspect=run, measure=run)))
    shown = page.text(outcomes, page.Setting("now"))
    assert "| all | 2 | 0 (0%) |" in shown
    assert "| all, with weights | 1 | 0 (0%) |" in shown
    assert "no trainable parameter" in shown.split("## Why files are refused")[1]


def test_other_bytes_than_those_of_the_list(registry: Path) -> None:
    tool.add(registry, "models")
    file = catalog.read()[0]
    path = fetch.fetched(registry, file)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(fetch.Missing, match="SHA-256"):
        fetch.fetched(registry, file)
    with pytest.raises(fetch.Missing, match="nothing"):
        tool.fetch.contents(registry, "nothing", None)


def test_no_package_speaks_for_all() -> None:
    files = [
        catalog.RealFile("p", "1", "p.whl", f"{k}.onnx", sha256=f"{k:064x}") for k in range(40)
    ]
    taken = catalog.added([], reversed(files))
    assert [int(f.sha256, 16) for f in taken] == list(range(catalog.MOST))
    assert catalog.added(taken, files[: catalog.MOST]) == taken


def test_limits_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "TIME", 1)
    monkeypatch.setattr(runs, "PATIENCE", 1000)  # other programs may keep the machine busy
    busy, _ = runs.process([sys.executable, "-c", "while True: pass"])
    assert (busy.status, busy.error) == (None, "ended after 1 s of a processor's time")
    monkeypatch.setattr(runs, "PATIENCE", 2)
    idle, _ = runs.process([sys.executable, "-c", "import time; time.sleep(60)"])
    assert (idle.status, idle.error) == (None, "ended after 2 s")
    monkeypatch.setattr(runs, "PATIENCE", 1000)
    monkeypatch.setattr(runs, "MEMORY", 1 << 27)
    code = "import time; held = bytearray(1 << 28); held[:] = b'1' * (1 << 28); time.sleep(60)"
    large, _ = runs.process([sys.executable, "-c", code])
    assert large.status is None and large.error.startswith("ended at")
    assert large.peak > 1 << 27


def test_a_file_that_is_written_wrongly_is_not_initialised() -> None:
    run = runs.Run(status=0, error="", seconds=1.0, processor=1.0, peak=1)
    outcome = runs.Outcome(
        runs.Facts(),
        inspect=run,
        measure=run,
        initialize=run,
        elements=5,
        differences=["tensor 'w' is missing"],
        ran="ran",
    )
    assert not outcome.initialized
    assert outcome.failure == "written wrongly: tensor 'w' is missing"
    assert runs.from_json(json.loads(json.dumps(runs.to_json(outcome)))) == outcome


def test_lines_that_differ_in_names_and_numbers_are_one_cause() -> None:
    lines = (
        "node 'a/Conv' (Conv) does not fit its inputs of shapes (16, 3), (2, 4)",
        "node 'b' (Conv) does not fit its inputs of shapes (1, 30, 2), (2,)",
    )
    assert len({page.cause(line) for line in lines}) == 1
    counts = ("3 MatMulInteger, 1 QLinearConv", "12 ConvInteger")
    assert len({page.cause(f"{n[0]}.onnx: it is quantized: {n}; no") for n in counts}) == 1
    assert page.cause("the loss is nan") != page.cause(lines[0])


def test_the_list_is_whole() -> None:
    """Every file once, by its bytes, and each marked that its digest sets aside."""
    entries = json.loads(catalog.LIST.read_text("utf-8"))
    assert len({e["sha256"] for e in entries}) == len(entries)
    for entry, file in zip(entries, catalog.read(), strict=True):
        assert entry.get("aside", False) == file.aside
