"""Domains while they are prepared: their parts, their draws, the tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from sparsing.actors.data.pipeline.executors import Executor
from sparsing.actors.data.pipeline.parts import put
from sparsing.actors.data.pipeline.work import (
    DrawJob,
    PartInput,
    SampleJob,
    draw_part,
    measure_part,
    sample_part,
)
from sparsing.actors.data.sources.files import Files, files_of
from sparsing.actors.data.sources.identity import Identity, digest_of, text_key
from sparsing.actors.data.sources.piece import Part
from sparsing.actors.data.sources.pieces import parts_of
from sparsing.actors.data.sources.reading import Tally, empty
from sparsing.actors.data.sources.token_files import TokenIds
from sparsing.actors.data.tokenizer_files import from_file
from sparsing.actors.data.tokenizers import ByteTokenizer, Tokenizer, load, save, train_bpe
from sparsing.actors.data.validating.halves import Halves, tokens_per_half
from sparsing.actors.data.validating.passages import Passage
from sparsing.actors.data.validating.pool import Draw, Pool, draw_from, merged
from sparsing.study.definition.data import Data, Source

GENEROSITIES = (2, 8, 32, 1024)
"""How many times more is drawn than needed; the next one where too many were duplicates."""
DRAW_BYTES = 4 * 2**30
"""Of a larger source, validation and the tokenizer's sample are drawn from parts of about so many
bytes in all, chosen by hash; of a smaller one from all of it."""
LAYOUT = 1
"""Version of what decides a part's tokens, besides its text and its tokenizer."""


@dataclass(kw_only=True)
class Domain:
    """One domain while it is prepared."""

    name: str
    number: int
    source: Source
    data: Data
    identities: list[Identity]
    attempt: int = 0
    """Place in GENEROSITIES."""
    drawn: Draw = field(init=False)
    found: Halves = field(init=False)
    ids: TokenIds | None = None
    """Of the study's tokenizer, where the source holds tokens."""
    train_tokens: int = 0

    @cached_property
    def key(self) -> str:
        """A digest of all that decides the source's documents."""
        content = {"layout": LAYOUT, "text": text_key(self.source), "ids": self.ids}
        return _digest(content | {"files": digest_of(self.identities)})

    @cached_property
    def _files(self) -> Files:
        return files_of(self.source)

    @cached_property
    def _parts(self) -> list[Part]:
        return parts_of(self.source, self._files)

    @property
    def bytes_per_token(self) -> int:
        """At most, of usual text."""
        if self.source.kind == "tokens":
            return 4  # of the character that stands for it
        return 1 if self.data.tokenizer.kind == "bytes" else 6

    @property
    def passage_characters(self) -> int:
        """A passage is about a sequence long, so that validation sees the contexts of training."""
        if self.source.kind == "tokens":
            return min(2**14, max(2**8, self.data.sequence_tokens))
        characters_per_token = 1 if self.data.tokenizer.kind == "bytes" else 4
        return min(2**14, max(2**10, self.data.sequence_tokens * characters_per_token))

    @property
    def wanted_bytes(self) -> int:
        """Text to draw."""
        needed = 2 * tokens_per_half(self.data) * self.bytes_per_token
        return needed * GENEROSITIES[self.attempt] + 4 * self.passage_characters

    def input(self, number: int, limit: int | None = None) -> PartInput:
        """A part, with the files that it needs."""
        part = self._parts[number]
        files = self._files.files
        chosen = [files[p.file] for p in part] if files else []
        pieces = tuple(p._replace(file=place) for place, p in enumerate(part)) if files else part
        return PartInput(
            source=self.source,
            files=Files(self._files.root, chosen),
            part=pieces,
            number=number,
            limit=limit,
            ids=self.ids,
        )

    def inputs(self) -> Iterator[PartInput]:
        """The parts that are read, in order; the last one is limited where `max_bytes` is."""
        for number, limit in self.limits:
            yield self.input(number, limit)

    limits: list[tuple[int, int | None]] = field(default_factory=list)
    """The parts that are read, and how much of each; known after `draw`."""

    @property
    def files(self) -> int:
        """Files of the source."""
        return max(1, len(self._files.files))

    def sampled(self) -> list[tuple[int, int | None]]:
        """The parts from which is drawn, in order: all, or of a large source some, by hash."""
        sizes = {number: self.input(number).size for number, _ in self.limits}
        if sum(sizes.values()) <= DRAW_BYTES:
            return self.limits
        chosen: set[int] = set()
        size = 0
        for number in sorted(sizes, key=lambda number: _digest([self.key, number])):
            if size >= DRAW_BYTES:
                break
            chosen.add(number)
            size += sizes[number]
        return [each for each in self.limits if each[0] in chosen]


def draw(domain: Domain, executor: Executor, memory: Path) -> None:
    """Draw passages for validation, or remember what was drawn from the same text.

    Raises DefinitionError where the source holds no text, or too much of it is broken.
    """
    content = {
        "text": domain.key,
        "max_bytes": domain.data.max_bytes,
        "wanted_bytes": domain.wanted_bytes,
        "passage_characters": domain.passage_characters,
    }
    path = memory / f"{_digest(content)}.json"
    if known := _remembered(path):
        domain.limits, domain.drawn = known
        return
    limit = domain.data.max_bytes
    if limit is not None and limit <= DRAW_BYTES:
        pool, documents, size, tally = _draw_limited(domain, limit)
    else:
        domain.limits = _limits(domain, limit, executor)
        jobs = (_draw_job(domain, domain.input(*each)) for each in domain.sampled())
        parts = list(executor.map(draw_part, jobs, ordered=True))
        pool = merged((part.pool for part in parts), domain.wanted_bytes)
        documents, size = sum(p.documents for p in parts), sum(p.bytes for p in parts)
        tally = Tally()
        for part in parts:
            tally.add(part.tally)
    tally.check(domain.source, domain.files)
    if not documents:
        raise empty(domain.source)
    domain.drawn = draw_from(pool, documents, size)
    known_now = {"limits": domain.limits, "drawn": asdict(domain.drawn)}
    put(path, json.dumps(known_now).encode())


def _draw_job(domain: Domain, part: PartInput) -> DrawJob:
    return DrawJob(
        input=part,
        wanted_bytes=domain.wanted_bytes,
        passage_characters=domain.passage_characters,
    )


def _draw_limited(domain: Domain, limit: int) -> tuple[Pool, int, int, Tally]:
    """Draw from the first `limit` bytes of text, part by part, for nobody knows where they end."""
    pool, tally = Pool(domain.wanted_bytes), Tally()
    documents, left = 0, limit
    domain.limits = []
    for number in range(len(domain._parts)):
        part = draw_part(_draw_job(domain, domain.input(number, left)))
        pool.add(part.pool)
        tally.add(part.tally)
        documents += part.documents
        domain.limits.append((number, left if part.tally.reached else None))
        left -= part.bytes
        if part.tally.reached:
            break
    return pool, documents, limit - left, tally


def _limits(domain: Domain, limit: int | None, executor: Executor) -> list[tuple[int, int | None]]:
    """The parts that are read, and how much of each."""
    numbers = range(len(domain._parts))
    if limit is None:
        return [(number, None) for number in numbers]
    found: list[tuple[int, int | None]] = []
    jobs = (domain.input(number) for number in numbers)
    for number, size in zip(numbers, executor.map(measure_part, jobs, ordered=True), strict=False):
        found.append((number, limit if size >= limit else None))
        limit -= size
        if limit <= 0:
            break
    return found


def _remembered(path: Path) -> tuple[list[tuple[int, int | None]], Draw] | None:
    try:
        known = json.loads(path.read_bytes())
        drawn = known["drawn"]
        drawn["passages"] = [Passage(*each) for each in drawn["passages"]]
        return [(number, limit) for number, limit in known["limits"]], Draw(**drawn)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def existing_tokenizer(data: Data) -> Tokenizer | None:
    """The study's tokenizer, where it needs no training."""
    if data.tokenizer.kind == "bytes":
        return ByteTokenizer()
    return from_file(data.tokenizer) if data.tokenizer.kind == "file" else None


def tokenizer_of(domains: list[Domain], executor: Executor, cache: Path) -> Tokenizer:
    """The study's tokenizer: as it is, or trained on a sample that all domains share alike.

    The sample depends on the sources and `sample_bytes` alone, so that weights, the length of
    sequences and the size of validation change no token.
    """
    data = domains[0].data
    wanted = data.tokenizer
    if (there := existing_tokenizer(data)) is not None:
        return there
    content = {
        "texts": {domain.name: [domain.key, data.max_bytes] for domain in domains},
        "tokenizer": wanted.model_dump(mode="json"),
        "version": tokenizers.__version__,
    }
    path = cache / f"bpe-{_digest(content)}.json"
    if path.exists():
        return load(path)
    sample = [text for domain in domains for text in _sample(domain, executor)]
    tokenizer = train_bpe(sample, wanted.vocabulary_size)
    save(tokenizer, path)
    return tokenizer


def _sample(domain: Domain, executor: Executor) -> Iterator[str]:
    share = domain.data.tokenizer.sample_bytes / len(domain.data.domains) / domain.drawn.bytes
    jobs = (SampleJob(input=domain.input(*each), share=share) for each in domain.sampled())
    for texts in executor.map(sample_part, jobs, ordered=True):
        yield from texts


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
