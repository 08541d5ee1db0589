"""What a model is measured on: text files or a study's validation data, in two halves.

Thresholds and the CETT value are chosen on one half, what is reported comes from the other; no
sequence is in both. Each domain's sequences are in random order, the same at every call, so that
the first N of them are a sample of its whole text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparsing.actors.data.prepared import HALVES, PreparedData
from sparsing.actors.data.sources.files import SUFFIXES
from sparsing.actors.measuring.inputs.sampling import sampled
from sparsing.actors.models.sequences import Sequences, of_half, of_stream
from sparsing.study.definition.data import Source
from sparsing.study.errors import DefinitionError
from sparsing.study.units import bytes_text

SMALLEST_SEQUENCES = 8
"""Sequences of each domain in each half at least: fewer tell nothing of how they differ."""

MOST_BYTES = 2**25
"""UTF-8 bytes taken of each file where nothing says how many tokens are wanted."""

LEAST_BYTES, BYTES_PER_TOKEN = 2**20, 12
"""Bytes taken of each file at least, and for each token that is wanted: more than one has."""

TOGETHER_BYTES = 2**20
"""Bytes of text that go through the tokenizer at once."""

Documents = Callable[[list[str]], list[np.ndarray]]
"""Token ids of each document, with whatever stands between documents."""


def bytes_for(tokens: int | None) -> int:
    """Bytes to take of each file for this number of tokens; None: as many as there are."""
    return MOST_BYTES if tokens is None else max(LEAST_BYTES, BYTES_PER_TOKEN * tokens)


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Sequences to choose thresholds on, and sequences to report on."""

    choose: Sequences
    report: Sequences

    @property
    def tokens(self) -> int:
        """Tokens of both halves that have a next token."""
        return int(self.choose.counts.sum() + self.report.counts.sum())

    @property
    def longest(self) -> int:
        """Sequences of the domain that has most of them in a half."""
        return max(int(np.bincount(half.domain).max()) for half in (self.choose, self.report))

    def first(self, count: int) -> Halves:
        """The first N sequences of each domain and half, or all where there are fewer."""
        return Halves(choose=_first(self.choose, count), report=_first(self.report, count))

    def check(self) -> None:
        """Raise DefinitionError where a domain has too few sequences to say anything."""
        for half in (self.choose, self.report):
            counts = np.bincount(half.domain, minlength=len(half.domains))
            for name, count in zip(half.domains, counts, strict=True):
                if count < SMALLEST_SEQUENCES:
                    raise DefinitionError(
                        f"{name}: {2 * SMALLEST_SEQUENCES} sequences of {half.positions} tokens "
                        f"are needed, half of them to choose and half to report, not {2 * count}; "
                        "give more text, or shorter sequences by --sequence-tokens"
                    )


def of_prepared(data: PreparedData) -> Halves:
    """A study's validation set."""
    choose, report = (of_half(data, half) for half in HALVES)
    return Halves(choose=_shuffled(choose), report=_shuffled(report))


def of_files(
    files: dict[str, Path],
    field: str,
    documents: Documents,
    positions: int,
    say: Callable[[str], None],
    *,
    prefix: tuple[int, ...] = (),
    most_bytes: int = MOST_BYTES,
) -> Halves:
    """Text files, each a domain of the same weight, cut into sequences of `positions` tokens.

    Args:
        files: by domain; a file, or a folder of files of one kind. `.jsonl` (also compressed) has
            documents in its lines, `.parquet` in its rows; anything else is plain text.
        field: key or column of the text, for those two.
        documents: the tokenizer.
        positions: tokens a sequence trains on.
        say: called with a line for people.
        prefix: token ids before each sequence (BOS), with which documents begin too.
        most_bytes: taken of each domain; of a larger one a sample (`inputs.sampling`).

    Raises:
        DefinitionError: a file is missing, unreadable, or has too little text.
    """
    found = {name: _source(path, field) for name, path in files.items()}
    streams = (_stream(n, source, documents, most_bytes, say) for n, source in found.items())
    parts = [of_stream(stream, positions, prefix=prefix) for stream in streams]
    whole = replace(
        parts[0],
        tokens=np.concatenate([part.tokens for part in parts]),
        domain=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        domains=tuple(files),
        shares=np.full(len(parts), 1 / len(parts)),
    )
    shuffled = _shuffled(whole)
    rank = _ranks(shuffled)
    halves = [shuffled.take(np.flatnonzero(rank % 2 == half)) for half in (0, 1)]
    made = Halves(choose=halves[0], report=halves[1])
    made.check()
    return made


def _stream(
    name: str, source: Source, documents: Documents, most_bytes: int, say: Callable[[str], None]
) -> np.ndarray:
    """Token ids of a sample of a source's documents, one after the other, int64."""
    ids, texts, held, total = [], [], 0, 0
    for text in sampled(source, most_bytes):
        texts.append(text)
        held += len(text.encode())
        if held >= TOGETHER_BYTES:
            ids += documents(texts)
            texts, held, total = [], 0, total + held
    ids += documents(texts)
    total += held
    # A compressed or columnar file may hold more text than its size.
    what = "a random sample of" if total >= most_bytes else "all of"
    say(f"{name}: {bytes_text(total)} of text into tokens, {what} {source.path}")
    return np.concatenate(ids)


def _source(path: Path, field: str) -> Source:
    """What kind of text lies there, by the ends of names.

    Raises:
        DefinitionError: a folder has files of several kinds.
    """
    names = [path.name] if path.is_file() else [p.name for p in path.rglob("*") if p.is_file()]
    kinds = {_kind(name) for name in names if not name.startswith(".")}
    if len(kinds) > 1:
        raise DefinitionError(
            f"--data {path}: it has files of several kinds ({', '.join(sorted(kinds))}); "
            "give a folder for each"
        )
    kind = next(iter(kinds), "text")
    return Source(kind=kind, path=str(path), field=field)  # type: ignore[arg-type]


def _kind(name: str) -> str:
    return next((kind for kind, ends in SUFFIXES.items() if name.endswith(ends)), "text")


def _shuffled(sequences: Sequences) -> Sequences:
    """In random order, the same at every call."""
    return sequences.take(np.random.default_rng(0).permutation(len(sequences)))


def _ranks(sequences: Sequences) -> np.ndarray:
    """Place of each sequence among those of its domain, from 0: (n,)."""
    ranks = np.zeros(len(sequences), dtype=np.int64)
    for index in range(len(sequences.domains)):
        mine = sequences.domain == index
        ranks[mine] = np.arange(mine.sum())
    return ranks


def _first(sequences: Sequences, count: int) -> Sequences:
    return sequences.take(np.flatnonzero(_ranks(sequences) < count))
