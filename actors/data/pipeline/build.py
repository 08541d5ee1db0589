"""The work of a preparation: draw validation, find the tokenizer, make tokens, find duplicates.

A source is read once to draw validation passages (and once for the tokenizer's sample, if it is
trained), of large sources only a part of it. Then each part's tokens are made where they are not
there yet, while all text of all domains is compared with the passages drawn. Tokens belong to a
source and a tokenizer; a study's data are a view of them: which stretches, in what order, with the
documents that validation was drawn from written anew without it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.actors.data import tokenizers
from sparsing.actors.data.folders import alone
from sparsing.actors.data.pipeline.executors import Executor
from sparsing.actors.data.pipeline.parts import PartTokens, put
from sparsing.actors.data.pipeline.plan import (
    GENEROSITIES,
    Domain,
    draw,
    existing_tokenizer,
    tokenizer_of,
)
from sparsing.actors.data.pipeline.progress import Meter
from sparsing.actors.data.pipeline.work import (
    DOCUMENT_BITS,
    PartDone,
    PartJob,
    encode_closed,
    work_on_part,
)
from sparsing.actors.data.prepared import HALVES
from sparsing.actors.data.sources.megatron import read_index
from sparsing.actors.data.sources.reading import Tally
from sparsing.actors.data.sources.token_files import IdsTokenizer, TokenIds, as_text
from sparsing.actors.data.tokenizers import Encoder, Tokenizer
from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.actors.data.validating.halves import halves, shortage, tokens_per_half
from sparsing.study.errors import DefinitionError

TOKENS, DRAWS, TOKENIZERS, WORK = "tokens", "draws", "tokenizers", ".work"
"""Folders in the store's `data`, beside the prepared ones."""
PATCHES = "patches.bin"
SEGMENTS = "train.npy"


@dataclass(kw_only=True)
class Made:
    """What a preparation has made of a domain."""

    parts: list[tuple[str, PartTokens]] = field(default_factory=list)
    """Each part's `.bin`, relative to the store's `data`, and what it holds."""
    segments: np.ndarray = field(init=False)
    """int64 (n, 3): number of the part, -1 for the patches; first token; tokens."""
    tokenized: int = 0
    """Parts whose tokens were made now."""

    @property
    def documents(self) -> int:
        """Of the domain's source."""
        return sum(part.documents for _, part in self.parts)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of its text."""
        return sum(part.bytes for _, part in self.parts)

    @property
    def broken(self) -> Tally:
        """What could not be read."""
        total = Tally()
        for _, part in self.parts:
            total.add(part.tally)
        return total


class Build:
    """One preparation, in the folder `root`."""

    def __init__(self, domains: list[Domain], root: Path, executor: Executor, meter: Meter) -> None:
        self.domains, self._root, self._executor, self._meter = domains, root, executor, meter
        self._data = domains[0].data
        self.tokenizer: Tokenizer
        self.made: dict[str, Made] = {}

    def draw(self) -> None:
        """Draw validation passages, and find the tokenizer."""
        there = existing_tokenizer(self._data)
        for domain in self.domains:
            if domain.source.kind == "tokens" and there is not None:
                domain.ids = TokenIds(there.vocabulary_size, there.end_of_document)
            self._meter.say(f"{domain.name}: drawing validation passages")
            draw(domain, self._executor, self._root / DRAWS)
        if self._data.tokenizer.kind == "bpe":
            self._meter.say("training the tokenizer")
        self.tokenizer = tokenizer_of(self.domains, self._executor, self._root / TOKENIZERS)

    def write(self, folder: Path) -> None:
        """Make all tokens that are missing, and the view into `folder`.

        Raises DefinitionError if a domain has too little text, naming all such domains.
        """
        with ExitStack() as held:
            for tokens in sorted({self._tokens_folder(domain) for domain in self.domains}):
                held.enter_context(alone(tokens, self._meter.say))
                _remove_leftovers(tokens)
            self._write_until_full(folder)

    def _write_until_full(self, folder: Path) -> None:
        while problems := self._write(folder):
            short = [domain for domain in self.domains if domain.name in problems]
            if all(d.drawn.whole or d.attempt + 1 == len(GENEROSITIES) for d in short):
                raise DefinitionError("\n".join(problems.values()))
            for domain in short:
                domain.attempt = min(domain.attempt + 1, len(GENEROSITIES) - 1)
                draw(domain, self._executor, self._root / DRAWS)

    def _write(self, folder: Path) -> dict[str, str]:
        """Make tokens and the view; messages about domains that are short of text."""
        search = self._search()
        work = self._root / WORK / self.view_key()
        put(work / "search.pickle", pickle.dumps(search))
        tokenizer = work / "tokenizer.json"
        tokenizers.save(self.tokenizer, tokenizer)
        self.made = {domain.name: Made() for domain in self.domains}
        found = search.resemblance.copy()
        views: dict[tuple[int, int], Path] = {}
        done: dict[tuple[int, int], PartDone] = {}
        jobs = [self._job(d, part, work) for d in self.domains for part in d.inputs()]
        totals = dict.fromkeys((domain.name for domain in self.domains), 0)
        for job in jobs:
            totals[self.domains[job.domain].name] += job.input.size
        self._meter.begin(totals, self._executor.workers)
        for part in self._executor.map(work_on_part, jobs):
            done[part.domain, part.number] = part
            self._meter.add(self.domains[part.domain].name, part)
        for job in jobs:
            place = job.domain, job.input.number
            views[place] = job.view
            name = job.tokens.with_name(f"{job.tokens.name}.bin").relative_to(self._root)
            made = self.made[self.domains[job.domain].name]
            made.parts.append((name.as_posix(), done[place].tokens))
            made.tokenized += done[place].tokenized
            with np.load(io.BytesIO(job.view.read_bytes())) as view:
                found[view["hits"]] = np.maximum(found[view["hits"]], view["resemblance"])
        for domain in self.domains:
            self.made[domain.name].broken.check(domain.source, domain.files)
        problems = self._divide(found, views, folder)
        if not problems:
            shutil.rmtree(work, ignore_errors=True)
        return problems

    def _job(self, domain: Domain, part: Any, work: Path) -> PartJob:
        of_part = [p for p in domain.drawn.passages if p.document >> DOCUMENT_BITS == part.number]
        drawn: dict[int, set[int]] = {}
        for passage in of_part:
            place = passage.document & (2**DOCUMENT_BITS - 1)
            drawn.setdefault(place, set()).add(passage.rank)
        return PartJob(
            input=part,
            domain=domain.number,
            tokens=self._tokens_folder(domain) / part.name,
            view=work / f"{domain.number}-{part.name}.npz",
            tokenizer=work / "tokenizer.json",
            index=work / "search.pickle",
            drawn={place: frozenset(ranks) for place, ranks in drawn.items()},
            passage_characters=domain.passage_characters,
            longest_passage=max(each.passage_characters for each in self.domains),
            as_tokens=self._mixed and domain.ids is None,
        )

    def _tokens_folder(self, domain: Domain) -> Path:
        """Where the tokens of a domain's source are; one preparation at a time makes them."""
        return self._root / TOKENS / f"{domain.key}-{self.tokenizer.fingerprint[:12]}"

    def _search(self) -> DuplicateSearch:
        """A search for all passages drawn, which have been compared with each other."""
        drawn = [
            (p.text, (d.number << 56) + p.document) for d in self.domains for p in d.drawn.passages
        ]
        if self._mixed:
            drawn += self._twins()
        texts = [text for text, _ in drawn]
        threshold = self._data.validation.near_duplicate_jaccard
        search = DuplicateSearch(texts, [document for _, document in drawn], threshold)
        search.show_each_other(texts)
        return search

    @property
    def _mixed(self) -> bool:
        """Whether some domains hold text, and others tokens."""
        return len({domain.ids is None for domain in self.domains}) == 2

    def _twins(self) -> list[tuple[str, int]]:
        """The passages drawn from text as their tokens, to be compared with tokens."""
        return [
            (as_text(self.tokenizer.encode([p.text])[0]), (d.number << 56) + p.document)
            for d in self.domains
            if d.ids is None
            for p in d.drawn.passages
        ]

    def _with_twins(self, found: np.ndarray) -> np.ndarray:
        """The resemblance of each passage drawn: its own, or that of its tokens."""
        if not self._mixed:
            return found
        counts = [len(domain.drawn.passages) for domain in self.domains]
        kinds = np.repeat([domain.ids is None for domain in self.domains], counts)
        own = found[: sum(counts)].copy()
        own[kinds] = np.maximum(own[kinds], found[sum(counts) :])
        return own

    def encoder(self, domain: Domain) -> Encoder:
        """What makes ids of a domain's documents."""
        if domain.ids is None:
            return self.tokenizer
        return IdsTokenizer(domain.ids, tokenizers.dtype_of(domain.ids.vocabulary_size))

    def view_key(self) -> str:
        """A digest of all that decides what is found in each part."""
        content = {
            "drawn": [[d.key, d.limits, [p.rank for p in d.drawn.passages]] for d in self.domains],
            "passages": [domain.passage_characters for domain in self.domains],
            "sequence_tokens": self._data.sequence_tokens,
            "half_tokens": tokens_per_half(self._data),
            "threshold": self._data.validation.near_duplicate_jaccard,
            "tokenizer": self.tokenizer.fingerprint,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _divide(
        self, found: np.ndarray, views: dict[tuple[int, int], Path], folder: Path
    ) -> dict[str, str]:
        """Fill validation's halves, and write each domain's view."""
        problems, start = {}, 0
        found = self._with_twins(found)
        half_tokens = tokens_per_half(self._data)
        for domain in self.domains:
            end = start + len(domain.drawn.passages)
            domain.found = halves(domain.drawn, found[start:end], self.encoder(domain), half_tokens)
            start = end
            self._write_view(domain, views, folder / domain.name)
            if problem := _problem(domain):
                problems[domain.name] = problem
        return problems

    def _write_view(self, domain: Domain, views: dict[tuple[int, int], Path], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for half in HALVES:
            domain.found.tokens[half].tofile(folder / f"{half}.bin")
        made = self.made[domain.name]
        segments = _Segments()
        with (folder / PATCHES).open("wb") as patches:
            for number, ((name, part), (of_source, _)) in enumerate(
                zip(made.parts, domain.limits, strict=True)
            ):
                with np.load(io.BytesIO(views[domain.number, of_source].read_bytes())) as view:
                    for piece in _pieces(self._root / name, part, view):
                        if isinstance(piece, tuple):
                            segments.add(number, *piece)
                        else:
                            segments.patch(patches, piece)
            rest = [p.text for p in domain.drawn.passages if p.rank not in domain.found.used]
            segments.patch(patches, encode_closed(self.encoder(domain), rest))
        made.segments = segments.array()
        domain.train_tokens = int(made.segments[:, 2].sum())
        np.save(folder / SEGMENTS, made.segments)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed workers left half-written; whoever writes now holds the folder's lock."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


class _Segments:
    """The stretches of files that make up a domain's training tokens."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._patched = 0

    def add(self, file: int, first: int, tokens: int) -> None:
        """Go on with a stretch of a file."""
        if not tokens:
            return
        last = self._rows[-1] if self._rows else None
        if last and last[0] == file and last[1] + last[2] == first:
            last[2] += tokens
        else:
            self._rows.append([file, first, tokens])

    def patch(self, file: Any, tokens: np.ndarray) -> None:
        """Go on with tokens of our own, which are written to the patches."""
        file.write(tokens.tobytes())
        self.add(-1, self._patched, len(tokens))
        self._patched += len(tokens)

    def array(self) -> np.ndarray:
        """int64 (n, 3)."""
        return np.array(self._rows, dtype=np.int64).reshape(-1, 3)


def _pieces(path: Path, part: PartTokens, view: Any) -> Iterator[tuple[int, int] | np.ndarray]:
    """A part in order: stretches of its tokens, and what stands for documents drawn from."""
    if not len(view["documents"]):
        yield 0, part.tokens
        return
    _, starts, lengths = read_index(path.with_suffix(".idx"))
    at, taken, tokens = 0, 0, view["tokens"]
    for document, length in zip(view["documents"], view["lengths"], strict=True):
        yield at, int(starts[document]) - at
        yield tokens[taken : taken + length]
        taken += length
        at = int(starts[document] + lengths[document])
    yield at, part.tokens - at


def _problem(domain: Domain) -> str | None:
    """What is wrong with the domain's size, None if nothing."""
    if problem := shortage(domain.name, domain.drawn, domain.found, domain.data):
        return problem
    if domain.train_tokens <= domain.data.sequence_tokens:
        return (
            f"data.domains.{domain.name}: {domain.train_tokens} training tokens are left, not one "
            f"sequence of {domain.data.sequence_tokens}; give more text, or shorten sequence_tokens"
        )
    return None
