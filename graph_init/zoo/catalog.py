"""From sources to models: files, folders, globs, manifests, and addresses that fsspec knows."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from graph_init.errors import ModelFileError, UsageError, printable
from graph_init.files import opening
from graph_init.zoo import extra, manifest, size

SUFFIX = ".onnx"
#: What is written for a model, after its name.
MODEL, SCALES, RESULT = ".onnx", ".scales.json", ".json"
#: What the output has beside the models.
OVERVIEW, TABLE, JOURNAL = "zoo.json", "zoo.csv", "journal"


@dataclass(frozen=True)
class Entry:
    """One model: where it comes from, and what it is called in the output (without a suffix).

    ``size`` is in bytes, that of the weights as far as it is known. ``problem`` says why the model
    cannot be read, where the catalog has met that already.
    """

    name: str
    source: str
    size: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def is_remote(source: str) -> bool:
    """Whether ``source`` is an address that fsspec reads, not a path."""
    return "://" in source


def collect(
    sources: Sequence[str],
    output: str,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> list[Entry]:
    """The models of ``sources``, by name; ``options`` are those of every model.

    Options at their default are left out; ``defaults`` are those that differ from
    ``initialize``'s.

    UsageError if a source holds no model, or if two models would write the same file;
    ModelFileError if a source is not there.
    """
    entries = [entry for source in sources for entry in _expand(source, output, options, defaults)]
    _check_names(entries)
    return sorted(entries, key=lambda e: e.name)


def neighbours(name: str, names: Sequence[str]) -> Sequence[str]:
    """Those of the sorted ``names`` that a data file called after ``name`` may belong to as well.

    ``a`` with its data file ``b.c`` and ``a.b`` with ``c`` would both write ``a.b.c``.
    """
    return names[bisect_left(names, f"{name}.") : bisect_left(names, f"{name}/")]


def shared(files: Iterable[str], near: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``files`` that has the name of a file of a model of ``near``, and that model."""
    return next(((f, n) for f in files for n in near if f.startswith(f"{n}.")), None)


def _expand(
    source: str, output: str, options: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> Iterator[Entry]:
    if not source.strip() or "\0" in source:
        raise UsageError(f"'{printable(source)}' names no model; give a file, a folder or a glob")
    if source.endswith(manifest.SUFFIXES):
        yield from _manifest(source, output, options, defaults)
        return
    checked = manifest.together(options, defaults)
    empty = True
    for entry in _remote(source) if is_remote(source) else _local(source, output):
        empty = False
        yield Entry(
            name=entry.name,
            source=entry.source,
            size=entry.size,
            options=checked,
            problem=entry.problem,
        )
    if empty:
        raise UsageError(f"'{source}' holds no {SUFFIX} file")


def _manifest(
    source: str, output: str, options: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> Iterator[Entry]:
    if is_remote(source):
        fs, path = filesystem(source)
        try:
            content = fs.cat_file(path)
        except Exception as error:
            raise ModelFileError(f"cannot read manifest {source}: {reason(error)}") from error
        base = source.rpartition("/")[0]
    else:
        try:
            content = opening.read(source, manifest.LARGEST)
        except OSError as error:
            raise ModelFileError(f"cannot read manifest {source}: {error.strerror}") from error
        base = str(Path(source).parent)
    for item in manifest.read(content, source):
        absolute = is_remote(item.source) or os.path.isabs(item.source)
        where = item.source if absolute else f"{base}/{item.source}"
        if where.endswith(manifest.SUFFIXES):
            raise UsageError(f"manifest {source}: '{item.source}' is another manifest")
        own = dict(item.options)
        if "data" in own and not is_remote(source):
            own["data"] = os.path.abspath(os.path.join(base, own["data"]))
        try:
            found = list(_expand(where, output, manifest.over(options, own), defaults))
        except UsageError as error:
            raise UsageError(f"manifest {source}: {error}") from error
        if item.name is not None:
            if len(found) != 1 or not where.endswith(SUFFIX):
                raise UsageError(
                    f"manifest {source}: name '{item.name}' needs a source that is one file, and "
                    f"'{item.source}' is not"
                )
            found = [Entry(item.name.removesuffix(SUFFIX), *_but_name(found[0]))]
        elif not absolute and where.endswith(SUFFIX) and not _is_glob(where):
            # The manifest's folder is mirrored.
            mirrored = os.path.normpath(item.source).removesuffix(SUFFIX).replace(os.sep, "/")
            if not mirrored.startswith("../"):
                found = [Entry(mirrored, *_but_name(e)) for e in found]
        yield from found


def _but_name(entry: Entry) -> tuple[str, int, dict[str, Any], str | None]:
    return entry.source, entry.size, entry.options, entry.problem


def _is_glob(source: str) -> bool:
    return any(c in source for c in "*?[")


def _local(source: str, output: str) -> Iterator[Entry]:
    path = Path(source)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long
        raise ModelFileError(f"cannot read '{printable(source)}': {error.strerror}") from error
    if is_folder:
        yield from _folder(path, path, output)
    elif os.path.lexists(path):
        yield _entry(path, path.parent)
    elif _is_glob(source):
        parts = PurePosixPath(source).parts
        fixed = next(k for k, part in enumerate(parts) if _is_glob(part))
        root = Path(*parts[:fixed]) if fixed else Path()
        yield from _found(root, str(PurePosixPath(*parts[fixed:])), output)
    else:
        raise ModelFileError(f"there is no file or folder '{printable(source)}'")


def _found(root: Path, pattern: str, output: str) -> Iterator[Entry]:
    """Models below ``root`` that ``pattern`` matches, or that lie in a folder that it matches."""
    own = None if is_remote(output) else Path(output).resolve()
    walked: set[Path] = set()
    for found in sorted(root.glob(pattern)):
        # `**` matches a folder and all folders in it, the output's too; each model is one entry.
        above = found.parents
        if not walked.isdisjoint(above) or own in (found.resolve(), *found.resolve().parents):
            continue
        if found.is_dir():
            walked.add(found)
            yield from _folder(found, root, output)
        elif found.suffix == SUFFIX:
            yield _entry(found, root)


def _folder(folder: Path, root: Path, output: str) -> Iterator[Entry]:
    """Models below ``folder``; one that cannot be listed is an entry with a problem."""
    problems: list[OSError] = []
    own = None if is_remote(output) else Path(output).resolve()
    for here, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and Path(here, f).resolve() != own
        )
        for file in sorted(files):
            if file.endswith(SUFFIX) and not file.startswith("."):
                yield _entry(Path(here, file), root)
    for error in problems:
        where = Path(error.filename)
        name = PurePosixPath(where.relative_to(root).as_posix())
        yield Entry(
            str(name) if name.parts else root.absolute().name,
            str(where.absolute()),
            problem=f"cannot list folder {where}: {error.strerror}",
        )


def _entry(path: Path, root: Path) -> Entry:
    name = path.relative_to(root).as_posix().removesuffix(SUFFIX)
    return Entry(name, str(path.absolute()), size.of_file(path))


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for ``url``, and the path in it. UsageError if it has none."""
    fsspec = extra.module("fsspec")
    protocol = url.partition("://")[0]
    if protocol == "memory":
        raise UsageError(
            f"'{url}': what is in this process's memory is not seen by the processes that work on "
            "the models; write it to files"
        )
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"'{url}': {error}; pip install 'fsspec[{protocol}]'") from error
    except ValueError as error:
        raise UsageError(f"'{url}': fsspec knows no file system '{protocol}'") from error
    return fs, path


def reason(error: BaseException) -> str:
    """One line of what a file system raised."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        words = "it is not there"
    return " ".join(str(words).split())


def _remote(source: str) -> Iterator[Entry]:
    fs, path = filesystem(source)
    protocol = source.partition("://")[0]

    def entry(found: str, root: str, info: Mapping[str, Any]) -> Entry:
        name = found.removeprefix(root).lstrip("/").removesuffix(SUFFIX)
        address = found if "://" in found else f"{protocol}://{found}"
        return Entry(name, address, int(info.get("size") or 0))

    try:
        if _is_glob(path):
            root = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]
            found = fs.glob(path, detail=True)
        elif path.endswith(SUFFIX):
            yield entry(path, path.rpartition("/")[0], fs.info(path))
            return
        else:
            root = path.rstrip("/")
            found = fs.find(root, detail=True)
    except Exception as error:
        raise ModelFileError(f"cannot list {source}: {reason(error)}") from error
    for name in sorted(found):
        if name.endswith(SUFFIX):
            yield entry(name, root, found[name])


def _check_names(entries: Sequence[Entry]) -> None:
    """UsageError if what two models write has the same name, or one that is the output's own."""
    writers: dict[str, Entry] = {}
    for entry in entries:
        first, *rest = entry.name.split("/")
        own = entry.name + RESULT == OVERVIEW or (rest and first == JOURNAL)
        if own or first.startswith("."):
            raise UsageError(
                f"'{entry.source}' would be written as '{entry.name}', a name that the output "
                "needs for itself; give it another one in a manifest"
            )
        for suffix in (MODEL, SCALES, RESULT):
            other = writers.setdefault(entry.name + suffix, entry)
            if other is not entry:
                raise UsageError(
                    f"'{other.source}' and '{entry.source}' would both be written to "
                    f"'{entry.name + suffix}'; name one of them in a manifest, or give a folder "
                    "that holds both"
                )
