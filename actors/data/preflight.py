"""A look at a study's data before anything starts: files, tokens, epochs, hours, disk.

Reads a sample of each source, without Ray and without a store. What is estimated says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparsing.actors.data.pipeline.plan import existing_tokenizer
from sparsing.actors.data.pipeline.progress import BYTES_PER_SECOND
from sparsing.actors.data.prepare import source_problem
from sparsing.actors.data.sources.columns import dataset, open_parquet
from sparsing.actors.data.sources.files import Files, SourceFile, files_of
from sparsing.actors.data.sources.lines import COMPRESSED, decompressed
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.reading import Tally, piece_documents
from sparsing.actors.data.sources.token_files import TokenIds, token_documents
from sparsing.actors.data.tokenizers import Tokenizer, dtype_of
from sparsing.study.definition.data import Data, Source
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import plan_runs

SAMPLE_BYTES = 2**20
"""Text read of each file that is sampled."""
SAMPLE_FILES = 4
BPE_BYTES_PER_TOKEN = 4.0
"""Of a tokenizer that is yet to be trained; what English and code have with 32,000 entries."""
BYTE_RATE = 20e6
"""Bytes per second of a worker whose tokens are bytes: compared and written, not tokenized."""
NODE_CORES, NODES = 64, 10
"""A cluster to give hours for: ten nodes of eight GPUs and 64 cores each."""


@dataclass(frozen=True, kw_only=True)
class DomainForecast:
    """What a domain has, as far as a sample tells, and what the study wants of it."""

    domain: str
    problem: str | None
    """Why its source cannot be used here; then nothing else is known but what is wanted."""
    files: int | None
    file_bytes: int | None
    text_bytes: float | None
    """Estimate."""
    tokens: float | None
    """Estimate, of one epoch."""
    tokens_wanted: float
    """By the longest run, of this domain."""

    @property
    def epochs(self) -> float | None:
        """How often the longest run sees the domain's text."""
        return self.tokens_wanted / self.tokens if self.tokens else None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the preparation of a study's data takes."""

    domains: tuple[DomainForecast, ...]
    text_bytes: float
    """Estimate; where a source is not here, of as much text as the study wants."""
    tokens: float
    core_hours: float
    """Calculated from `BYTES_PER_SECOND`."""
    disk_bytes: float
    assumed: bool
    """Does `text_bytes` count sources that are not here, by what is wanted of them?"""

    @property
    def warnings(self) -> list[str]:
        """Problems, and domains of more than one epoch."""
        found = [f"data.domains.{d.domain}: {d.problem}" for d in self.domains if d.problem]
        return found + [
            f"data.domains.{d.domain}: the longest run sees its text about {d.epochs:.1f} times; "
            "repeated text bends the laws: give more"
            for d in self.domains
            if d.epochs and d.epochs > 1
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        domains = [asdict(d) | {"epochs": d.epochs} for d in self.domains]
        cores = {"cluster_cores": NODES * NODE_CORES}
        return asdict(self) | cores | {"domains": domains, "warnings": self.warnings}


def forecast(study: Study) -> Forecast:
    """Look at a study's data; problems are in the answer, and raise nothing."""
    data = study.data
    most = max((run.tokens for run in plan_runs(study)), default=0)
    total = sum(source.weight for source in data.domains.values())
    try:
        tokenizer, broken = existing_tokenizer(data), None
    except DefinitionError as error:
        tokenizer, broken = None, str(error)
    domains = [
        _domain(name, source, data, tokenizer, broken, most * source.weight / total)
        for name, source in sorted(data.domains.items())
    ]
    per_token = _bytes_per_token(data)
    text = [d.tokens_wanted * per_token if d.text_bytes is None else d.text_bytes for d in domains]
    tokens = [d.tokens_wanted if d.tokens is None else d.tokens for d in domains]
    entries = tokenizer.vocabulary_size if tokenizer else data.tokenizer.entries
    rate = BYTE_RATE if data.tokenizer.kind == "bytes" else BYTES_PER_SECOND
    return Forecast(
        domains=tuple(domains),
        text_bytes=sum(text),
        tokens=sum(tokens),
        core_hours=sum(text) / rate / 3600,
        disk_bytes=sum(tokens) * dtype_of(entries).itemsize,
        assumed=any(d.text_bytes is None for d in domains),
    )


def _bytes_per_token(data: Data) -> float:
    return 1.0 if data.tokenizer.kind == "bytes" else BPE_BYTES_PER_TOKEN


def _domain(
    name: str,
    source: Source,
    data: Data,
    tokenizer: Tokenizer | None,
    broken: str | None,
    wanted: float,
) -> DomainForecast:
    nothing = {"files": None, "file_bytes": None, "text_bytes": None, "tokens": None}
    ids = TokenIds(tokenizer.vocabulary_size, tokenizer.end_of_document) if tokenizer else None
    problem = broken or source_problem(source, data, ids)
    if problem:
        return DomainForecast(domain=name, problem=problem, tokens_wanted=wanted, **nothing)
    files = files_of(source)
    if source.kind == "tokens" and ids is not None:
        tokens, text = _tokens_there(source, files, ids), 0.0
    else:
        text, per_token = _text_there(source, files, tokenizer)
        text = min(text, data.max_bytes or math.inf)
        tokens = text / (per_token or _bytes_per_token(data))
    return DomainForecast(
        domain=name,
        problem=None,
        files=len(files.files),
        file_bytes=files.size,
        text_bytes=text,
        tokens=tokens,
        tokens_wanted=wanted,
    )


def _text_there(
    source: Source, files: Files, tokenizer: Tokenizer | None
) -> tuple[float, float | None]:
    """Estimates: bytes of text of a source, and bytes per token where the tokenizer is there."""
    if source.kind == "huggingface":
        texts = _sample(source, files, Piece(0, 0, min(1000, len(dataset(source)))))
        size = sum(len(text.encode()) for text in texts) / max(1, len(texts))
        return size * len(dataset(source)), _per_token(texts, tokenizer)
    step = max(1, len(files.files) // SAMPLE_FILES)
    chosen = range(0, len(files.files), step)[:SAMPLE_FILES]
    ratios, sample = [], []
    for number in chosen:
        file = files.files[number]
        ratio, texts = _of_file(source, files, number, file)
        ratios.append((ratio * file.size, file.size))
        sample += texts
    seen = sum(size for _, size in ratios)
    ratio = sum(text for text, _ in ratios) / seen if seen else 0.0
    return ratio * files.size, _per_token(sample, tokenizer)


def _of_file(
    source: Source, files: Files, number: int, file: SourceFile
) -> tuple[float, list[str]]:
    """Bytes of text for each byte of a file, and the text that was read."""
    if source.kind == "parquet":
        opened = open_parquet(files, number)
        try:
            rows, groups = opened.metadata.num_rows, opened.num_row_groups
        finally:
            opened.close(force=True)
        texts = _sample(source, files, Piece(number, 0, 1 if groups > 1 else None))
        size = sum(len(text.encode()) for text in texts)
        return size / max(1, len(texts)) * rows / max(1, file.size), texts
    if file.name.endswith(COMPRESSED):
        texts = _sample(source, files, Piece(number))
        size = sum(len(text.encode()) for text in texts)
        return size / max(1, _raw_bytes(files, file, size)), texts
    if source.kind in ("jsonl", "fetched") and file.size > SAMPLE_BYTES:
        texts = _sample(source, files, Piece(number, 0, SAMPLE_BYTES))
        return sum(len(text.encode()) for text in texts) / SAMPLE_BYTES, texts
    texts = _sample(source, files, Piece(number))
    size = sum(len(text.encode()) for text in texts)
    whole = size < SAMPLE_BYTES
    return (size / file.size if whole and file.size else 1.0), texts


def _raw_bytes(files: Files, file: SourceFile, text_bytes: int) -> int:
    """Bytes of a compressed file that hold so much text, about: its lines are somewhat longer."""
    with files.open(file) as raw:
        content = decompressed(raw, file.name)
        left = text_bytes
        while left > 0 and (chunk := content.read(min(left, 2**18))):
            left -= len(chunk)
        return raw.tell()


def _sample(source: Source, files: Files, piece: Piece) -> list[str]:
    texts: list[str] = []
    size = 0
    for text in piece_documents(source, files, piece, Tally()):
        texts.append(text)
        size += len(text)
        if size >= SAMPLE_BYTES:
            break
    return texts


def _per_token(texts: list[str], tokenizer: Tokenizer | None) -> float | None:
    """Bytes of a token in a sample, with the ends of documents."""
    if tokenizer is None or not texts:
        return None
    cut = [text[:SAMPLE_BYTES] for text in texts]
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode(cut))
    return sum(len(text.encode()) for text in cut) / tokens


def _tokens_there(source: Source, files: Files, ids: TokenIds) -> float:
    """Tokens of a source of tokens: of the first file counted, of others by their size."""
    first = files.files[0]
    found = token_documents(source, files, Piece(0), ids)
    counted = float(np.sum([len(each) + 1 for each in found]))
    return counted * files.size / max(1, first.size)
