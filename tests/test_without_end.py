"""Sources that are small on the disk and without end in memory, and values that no number holds."""

from __future__ import annotations

import json
import os
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import graph_init
from graph_init.cli import cli
from graph_init.errors import GraphInitError, ModelFileError, UnsupportedModelError, UsageError
from graph_init.model import load, scales_file
from graph_init.problem import batches, data_files, streams
from graph_init.zoo import catalog, manifest
from tests.small_models import one_layer
from tests.test_hostile import archive, header, npy, product
from tests.test_regular_files import within

LONG = "a" * 5000
#: Each line is a list of the line before, eight times.
BOMB = "a: &a [1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n"
    for before, name in pairwise("abcdefghijkl")
)


# -- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [False, True])
def test_an_archive_is_measured_by_the_memory_limit_before_it_is_unpacked(
    tmp_path: Path, fixed: bool
) -> None:
    """Also where a batch that the file fixes lets the data be read earlier."""
    model = product()
    if fixed:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = archive(tmp_path / "d.npz", x=npy(np.zeros(1 << 22, np.float32)))
    with pytest.raises(UsageError, match=r"allowed by --memory-limit; give a folder"):
        graph_init.measure(model, data=path, memory_limit="8MB")


def _sparse(path: Path, *shape: int) -> None:
    """An array of zeros that takes no place on the disk."""
    path.write_bytes(header(str(shape)))
    os.truncate(path, len(header(str(shape))) + 4 * int(np.prod(shape)))


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("x", "target"):
        _sparse(tmp_path / f"{name}.npy", 1 << 36, 4)
    with within(60), pytest.raises(UnsupportedModelError, match="data of fewer rows"):
        graph_init.measure(product(), data=tmp_path)


def test_arrays_of_another_shape_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(batches, "_converted", read)
    data = {"x": np.zeros((8, 5), np.float64), "target": np.zeros((8, 4))}
    with pytest.raises(UsageError, match=r"'x' has shape \(8, 5\)"):
        graph_init.measure(product(), data=data)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_rows_are_looked_at_in_parts(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_LOOKED_AT", 48)  # three rows
    x = np.zeros((10, 4), np.float32)
    x[place, 2] = np.nan
    data = {"x": x, "target": np.zeros((10, 4), np.float32)}
    with pytest.raises(UsageError, match=rf"holds 1 NaN .* of 40 \(the first in row {place}\)"):
        graph_init.measure(product(), data=data)


def test_of_too_many_rows_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_ROWS", 100)
    rows = np.arange(10_000, dtype=np.float32)[:, None]
    source = streams.of_rows({"x": rows}, 5, seed=0)
    seen = {}
    for name in ("search", "select", "report"):
        stream: streams.Stream = getattr(source, name)
        seen[name] = {float(v) for k in range(40) for v in stream.batch(k)["x"].flat}
    assert not seen["search"] & seen["select"] and not seen["search"] & seen["report"]
    assert sum(map(len, seen.values())) <= 100
    assert max(seen["search"]) > 5000  # from all of the file


def test_a_compressed_archive_that_is_longer_than_it_says(tmp_path: Path) -> None:
    path = archive(tmp_path / "d.npz", x=npy(np.zeros(1 << 16, np.float32)))
    content = bytearray(path.read_bytes())
    size = (len(npy(np.zeros(1 << 16, np.float32)))).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(bytes(content).replace(size, (200).to_bytes(4, "little")))
    with pytest.raises(UsageError, match=r"d\.npz' is not a readable"):
        data_files.read(path)
    assert zipfile.is_zipfile(path)


# -- scales --------------------------------------------------------------------------------------


def _scales(path: Path, names: list[str]) -> Path:
    pairs = ",".join(f"{json.dumps(name)}:1.0" for name in names)
    path.write_text(f'{{"format": "graph-init/scales", "version": 1, "scales": {{{pairs}}}}}')
    return path


def test_a_key_that_comes_twice_is_found_among_many(tmp_path: Path) -> None:
    names = [f"w{k}" for k in range(300_000)]
    with within(60), pytest.raises(ModelFileError, match="'w299999' occurs twice"):
        scales_file.read(_scales(tmp_path / "s.json", [*names, names[-1]]))


def test_scales_of_more_items_than_any_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scales_file, "_MOST", 1000)
    few, many = (_scales(tmp_path / f"{n}.json", [f"w{k}" for k in range(n)]) for n in (400, 600))
    assert len(scales_file.read(few).factors) == 400
    with pytest.raises(ModelFileError, match="holds more than 1,000 items"):
        scales_file.read(many)


# -- sources of a zoo ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "names no model"),
        ("  ", "names no model"),
        ("a\0b", r"'a\\x00b' names no model"),
        (LONG, r"cannot read 'a+… \(5000 characters\)': File name too long"),
        (f"{LONG}/*.onnx", "File name too long"),
        ("none.onnx", "there is no file or folder"),
    ],
)
def test_sources_that_are_none(source: str, words: str) -> None:
    with pytest.raises(GraphInitError, match=words):
        catalog.collect([source], "out", {})


def test_a_pattern_of_all_folders_gives_each_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m", "a/m", "a/b/m", "out/m"):
        Path(name).parent.mkdir(exist_ok=True)
        onnx.save(one_layer(), f"{name}.onnx")
    for pattern in ("**", "**/*"):
        found = [entry.name for entry in catalog.collect([pattern], "out", {})]
        assert sorted(found) == ["a/b/m", "a/m", "m"]


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        ("yaml", BOMB, "stands for more than"),
        ("yaml", "a: &a [*a]", "stands for more than|not valid YAML"),
        ("yaml", "[" * 100_000, "nested too deep"),
        ("json", "[" * 100_000, "nested too deep"),
        ("yaml", "format: 2001-99-99", "not valid YAML"),
        ("yaml", "format: " + "1" * 5000, "not valid YAML"),
        ("json", "1" * 5000, "not valid JSON"),
        ("json", "\ufeff", "not valid JSON"),
    ],
)
def test_manifests_without_end(suffix: str, text: str, words: str) -> None:
    with within(60), pytest.raises(UsageError, match=words) as raised:
        manifest.read(text.encode(), f"zoo.{suffix}")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


# -- values of options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("std", 10**400),
        ("seed", 10**400),
        ("seed", 16**5000),
        ("steps", 2**64),
        ("memory-limit", "9" * 400),
        ("memory-limit", 16**5000),
        ("time-limit", "9" * 400 + "d"),
        ("gain", 10**400),
        ("input", {"x": 10**400}),
        ("scheme", 16**5000),
        ("scheme", LONG),
    ],
    ids=range(11),
)
def test_values_that_no_number_holds_are_one_short_line(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as raised:
        manifest.checked({name: value})
    assert name in str(raised.value)
    assert len(str(raised.value)) < 600 and "\n" not in str(raised.value)


def test_names_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="File name too long"):
        graph_init.inspect(f"{LONG}.onnx")
    with pytest.raises(ModelFileError, match="File name too long"):
        load(f"{LONG}.onnx")
    with pytest.raises(UsageError, match="File name too long"):
        data_files.read(f"{LONG}.npz")
    with pytest.raises(ModelFileError, match="File name too long"):
        scales_file.read(f"{LONG}.json")
    result = graph_init.apply(
        {"format": "graph-init/scales", "version": 1, "scales": {}}, product()
    )
    with pytest.raises(GraphInitError, match="File name too long"):
        result.save(tmp_path / LONG)


@pytest.mark.parametrize(
    "command",
    [
        "initialize m.onnx -o m.onnx/out",
        "initialize m.onnx -o out.onnx --save-scales m.onnx/s.json",
        "initialize m.onnx -o out.onnx --report m.onnx/r.html",
        "apply s.json m.onnx -o m.onnx/out",
        "compare m.onnx --data d.npz -o m.onnx/out",
        "zoo m.onnx -o m.onnx/out",
        "measure m.onnx --debug m.onnx/log",
    ],
)
def test_an_output_below_a_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(product().SerializeToString())
    _scales(Path("s.json"), ["w"])
    np.savez("d.npz", x=np.ones((8, 4)), target=np.ones((8, 4)))
    before = sorted(os.listdir())
    found = CliRunner().invoke(cli, command.split())
    assert found.exit_code in (1, 2) and "unexpected" not in found.output
    assert found.output.count("\n") == 1 and found.output.startswith("error: ")
    assert sorted(os.listdir()) == before
