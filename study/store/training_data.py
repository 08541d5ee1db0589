"""What a study trains on, as it was recorded at its first step: the study's from then on.

    <study>/data.json          which prepared data, their digests, each domain's tokens and source
    <study>/data-files.parquet the sources' files: domain, name, bytes, digest

The prepared data themselves are beside the studies, in `<store>/data/<name>`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sparsing.study.errors import DamagedError
from sparsing.study.plan.runs import Run
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.objects import Place

RECORD = "data.json"
FILES = "data-files.parquet"
METADATA = "metadata.json"
FOLDER = "data"
"""Of a store: its prepared data."""
CHUNK_BYTES = 2**20

FileOfSource = tuple[str, int, str]
SourceFiles = dict[str, list[FileOfSource]]
"""By domain: name, bytes and digest of each file."""


@dataclass(frozen=True, kw_only=True)
class DomainData:
    """A domain of the data that a study trains on."""

    weight: float
    """Share in the mixture; they sum to 1."""
    train_tokens: int
    """Of one epoch."""
    documents: int
    bytes: int
    """Of UTF-8 text."""
    source: str | None
    """Digest of the source's files; None for data from before sources were recorded."""
    files: int | None
    """Files of the source."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The record of what a study trains on."""

    prepared: str
    """Folder in the store's `data`."""
    content: str
    """SHA-256 over the digests of all files of the prepared data."""
    tokenizer_fingerprint: str
    vocabulary_size: int
    sequence_tokens: int
    adopted: bool
    """Was it recorded after training had begun, by a version that began to record?"""
    domains: dict[str, DomainData]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def epochs(self, tokens: float) -> dict[str, float]:
        """How many times a run of this many tokens sees each domain's text."""
        return {
            name: tokens * domain.weight / domain.train_tokens
            for name, domain in self.domains.items()
        }

    def first_repeat_tokens(self) -> tuple[float, str]:
        """Training tokens at which the first domain begins its second epoch, and which it is."""
        return min((d.train_tokens / d.weight, name) for name, d in self.domains.items())


def content_digest(metadata: dict[str, Any]) -> str:
    """One digest for all files of prepared data, from their metadata."""
    digests = {name: about["sha256"] for name, about in metadata["files"].items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def read_record(study: Place) -> TrainingData | None:
    """The record of a study; None before its first step.

    Raises DamagedError where it cannot be read.
    """
    file = study / RECORD
    try:
        values = json.loads(file.read_text("utf-8"))
        domains = {name: DomainData(**each) for name, each in values["domains"].items()}
        return TrainingData(**values | {"domains": domains})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{file} is damaged ({error}); restore it from a copy") from error


def write_record(
    study: Place, record: TrainingData, files: Mapping[str, Sequence[FileOfSource]] | None
) -> None:
    """Record what a study trains on, with the files of its sources where they are known."""
    if files is not None:
        table = pa.table(
            {
                "domain": pa.array([d for d, each in files.items() for _ in each], pa.string()),
                "file": pa.array([f[0] for each in files.values() for f in each], pa.string()),
                "bytes": pa.array([f[1] for each in files.values() for f in each], pa.int64()),
                "digest": pa.array([f[2] for each in files.values() for f in each], pa.string()),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        commits.replace(buffer.getvalue(), study / FILES)
    commits.replace((json.dumps(record.as_json(), indent=2) + "\n").encode(), study / RECORD)


def read_files(study: Place) -> SourceFiles | None:
    """The files of the sources, as recorded; None where they are not."""
    try:
        rows = pq.read_table(io.BytesIO((study / FILES).read_bytes())).to_pylist()
    except FileNotFoundError:
        return None
    except pa.ArrowException as error:
        raise DamagedError(f"{study / FILES} is damaged ({error})") from error
    found: SourceFiles = {}
    for row in rows:
        found.setdefault(row["domain"], []).append((row["file"], row["bytes"], row["digest"]))
    return found


class DataFinding(NamedTuple):
    """Something that is not as it was recorded."""

    path: str
    """Relative to the study's folder."""
    detail: str


def check_data(study: Path, said: Callable[[str], None] | None = None) -> Iterator[DataFinding]:
    """Compare a study's prepared data with its record, reading every byte.

    `said` is called with a line for each file before it is read. Nothing is found where nothing was
    recorded, or where the data were removed: they can be made again.
    """
    record = read_record(study)
    if record is None:
        return
    folder = study.parent / FOLDER / record.prepared
    inside = f"../{FOLDER}/{record.prepared}"
    if not folder.exists():
        return
    try:
        metadata = json.loads((folder / METADATA).read_text("utf-8"))
        files: dict[str, dict[str, Any]] = metadata["files"]
        same = content_digest(metadata) == record.content
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield DataFinding(f"{inside}/{METADATA}", f"cannot be read: {error}")
        return
    if not same:
        yield DataFinding(f"{inside}/{METADATA}", "other data than the study was trained on")
    for name, about in files.items():
        if said:
            said(f"{inside}/{name}")
        if problem := file_problem(folder / name, about):
            yield DataFinding(f"{inside}/{name}", problem)


def file_problem(file: Path, about: dict[str, Any]) -> str | None:
    """What is wrong with a file of which size and SHA-256 are known; None if nothing."""
    try:
        size = file.stat().st_size
        if size != about["bytes"]:
            return f"{size} bytes instead of {about['bytes']}"
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return error.strerror or str(error)
    return None if found == about["sha256"] else "damaged: its digest is another"


def epoch_warnings(record: TrainingData, runs: list[Run]) -> list[str]:
    """A sentence for each domain whose text some run sees more than once."""
    warnings = []
    for domain in record.domains if runs else ():
        seen = {run.id: record.epochs(run.tokens)[domain] for run in runs}
        worst = max(seen, key=seen.__getitem__)
        if seen[worst] > 1:
            count = sum(epochs > 1 for epochs in seen.values())
            warnings.append(
                f"{domain}: {worst} sees its text {seen[worst]:.1f} times ({count} of {len(seen)} "
                "runs more than once): repeated text bends the laws; give more text"
            )
    return warnings


def data_document(study: Place, runs: list[Run]) -> dict[str, Any] | None:
    """The record as plain values, with each run's epochs by domain and warnings; None without."""
    record = read_record(study)
    if record is None:
        return None
    epochs = {run.id: record.epochs(run.tokens) for run in runs}
    return record.as_json() | {"epochs": epochs, "warnings": epoch_warnings(record, runs)}
