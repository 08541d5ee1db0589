"""Where text comes from: one function, `documents`, for every kind of source.

A document is a string of clean UTF-8 text. The order of documents is the same at every call: files
are sorted by their path inside the source, rows keep their order in the file.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparsing.actors.data.fetching.corpora import corpus_file
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError

STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
"""Folders of the standard library that are no part of its sources: packages, test suites."""

SUFFIXES = {"jsonl": (".jsonl", ".jsonl.gz"), "parquet": (".parquet",)}


def documents(source: Source) -> Iterator[str]:
    """The documents of `source`, none of them empty, in an order that never changes.

    Raises DefinitionError, naming source and path, for what is missing, unreadable, empty, or
    has no such column.
    """
    found = False
    for text in READERS[source.kind](source):
        if text := _clean(text):
            found = True
            yield text
    if not found:
        raise DefinitionError(f"{describe(source)} holds no text; give a source that does")


def describe(source: Source) -> str:
    """How messages name a source: its kind, and its path or name."""
    return f"source {source.kind} {source.path or source.name or ''}".rstrip()


def fingerprint(source: Source) -> list[list[Any]]:
    """What changes when the source's content does, without reading it.

    Files give name, size and modification time; a Hugging Face data set gives the fingerprint
    that its library keeps. Raises DefinitionError as `documents` does.
    """
    if source.kind == "huggingface":
        return [[_dataset(source)._fingerprint]]
    root, files = _listing(source)
    stats = [(path.relative_to(root).as_posix(), path.stat()) for path in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def size_bytes(source: Source) -> int | None:
    """Bytes of the source's files, an estimate of its text; None where only reading would tell."""
    if source.kind in ("huggingface", "parquet"):
        return None
    return sum(path.stat().st_size for path in _listing(source)[1])


def _clean(text: str) -> str:
    """Lines end in one newline, lone surrogates (not encodable as UTF-8) become `?`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n\ufeff")
    return text.encode("utf-8", "replace").decode("utf-8")


def _listing(source: Source) -> tuple[Path, list[Path]]:
    """A source's folder and its sorted files."""
    if source.kind == "python-stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        # By hash: in the order of paths the first megabytes would be tables of character sets.
        return root, sorted(_walk(root, (".py",), STDLIB_LEFT_OUT), key=_hash_of_name)
    if source.kind == "fetched":
        path = corpus_file(str(source.name))
        return path.parent, [path]
    path = Path(str(source.path)).expanduser()
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise DefinitionError(f"{describe(source)}: no such file or folder; correct 'path'")
    suffixes = SUFFIXES.get(source.kind, ("",))
    if not (files := _walk(path, suffixes, set())):
        wanted = " or ".join(suffixes) or "plain text"
        raise DefinitionError(f"{describe(source)}: no {wanted} files in it; correct 'path'")
    return path, files


def _hash_of_name(path: Path) -> str:
    return hashlib.sha256(path.name.encode()).hexdigest()


def _walk(root: Path, suffixes: tuple[str, ...], left_out: set[str]) -> list[Path]:
    """Sorted files under `root` with one of the suffixes; hidden ones are left out."""
    found = []
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = [n for n in names if n not in left_out and not n.startswith(".")]
        found += [Path(folder, f) for f in files if f.endswith(suffixes) and not f.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _read_python(source: Source) -> Iterator[str]:
    for path in _listing(source)[1]:
        try:
            with tokenize.open(path) as file:
                yield file.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise _unreadable(source, path, error, "mend the Python installation") from error


def _read_text(source: Source) -> Iterator[str]:
    for path in _listing(source)[1]:
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            remedy = "convert it to UTF-8, or keep only text files in the folder"
            raise _unreadable(source, path, error, remedy) from error
        except OSError as error:
            raise _unreadable(source, path, error, "make it readable") from error


def _read_jsonl(source: Source) -> Iterator[str]:
    for path in _listing(source)[1]:
        opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                yield from _json_texts(source, path, file)
        except (UnicodeDecodeError, OSError, EOFError) as error:
            raise _unreadable(source, path, error, "make it a readable UTF-8 file") from error


def _json_texts(source: Source, path: Path, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(
                source, f"{path}:{number}", error, "one JSON object a line"
            ) from error
        if not isinstance(row, dict) or source.field not in row:
            keys = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise _no_field(source, f"{path}:{number}", keys)
        yield _text_or_error(source, f"{path}:{number}", row[source.field])


def _read_parquet(source: Source) -> Iterator[str]:
    for path in _listing(source)[1]:
        try:
            file = pq.ParquetFile(path)
            if source.field not in file.schema_arrow.names:
                raise _no_field(source, path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024, columns=[source.field]):
                for value in batch.column(0).to_pylist():
                    yield _text_or_error(source, path, value)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(source, path, error, "give a complete Parquet file") from error


def _read_huggingface(source: Source) -> Iterator[str]:
    rows = _dataset(source)
    if source.field not in rows.column_names:
        raise _no_field(source, str(source.name), rows.column_names)
    for row in rows.select_columns([source.field]):
        yield _text_or_error(source, str(source.name), row[source.field])


@functools.cache
def _dataset(source: Source) -> Any:
    """The Hugging Face data set of `source`, which its library downloads once and caches."""
    try:
        import datasets
    except ImportError as error:
        message = f"{describe(source)} needs the package 'datasets'; pip install datasets"
        raise DefinitionError(message) from error
    try:
        return datasets.load_dataset(source.name, source.config, split=source.split)
    except Exception as error:  # the library's errors have no common root
        version = importlib.metadata.version("datasets")
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DefinitionError(
            f"{describe(source)}: datasets {version} cannot load it ({first_line}); "
            "check name, config, split and the network"
        ) from error


def _text_or_error(source: Source, where: object, value: object) -> str:
    """`value` if it is text, "" if it is null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DefinitionError(
            f"{describe(source)}: {where}: '{source.field}' holds {type(value).__name__}, not "
            "text; give the 'field' that holds the text"
        )
    return value


def _no_field(source: Source, where: object, there: object) -> DefinitionError:
    return DefinitionError(
        f"{describe(source)}: {where}: no '{source.field}', only {there}; "
        "set 'field' to the one that holds the text"
    )


def _unreadable(source: Source, where: object, error: Exception, remedy: str) -> DefinitionError:
    return DefinitionError(f"{describe(source)}: {where}: unreadable ({error}); {remedy}")


READERS: dict[str, Callable[[Source], Iterator[str]]] = {
    "python-stdlib": _read_python,
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "huggingface": _read_huggingface,
    "fetched": _read_jsonl,
}
