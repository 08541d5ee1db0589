"""The work of a preparation: draw validation, train the tokenizer, write tokens, find duplicates.

Every source is read once to draw validation passages (and once for the tokenizer's sample, if it is
BPE), then once to write the tokens of what was not drawn, while the passages drawn are compared
with all text of all domains. What the halves do not need is appended at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.actors.data.duplicates import DuplicateSearch
from sparsing.actors.data.passages import Passage, limited, passages, stretches
from sparsing.actors.data.prepared import HALVES
from sparsing.actors.data.sources.reading import documents
from sparsing.actors.data.tokenizers import Tokenizer, dtype_of, make_tokenizer
from sparsing.actors.data.validation import Draw, Halves, draw, halves, shortage, tokens_per_half
from sparsing.study.definition.data import Data, Source
from sparsing.study.errors import DefinitionError

Progress = Callable[[str], None]

BATCH_CHARACTERS = 2**20
"""Text that is tokenized and compared at once."""
STRETCH_CHARACTERS = 2**16
"""Longer texts are tokenized and compared in pieces of this length."""
GENEROSITIES = (2, 8, 32, 1024)
"""How many times more is drawn than needed; the next one where too many were duplicates."""
MANY_DOCUMENTS = 2**40
"""More than a domain has."""


@dataclass(kw_only=True)
class Domain:
    """One domain while it is prepared."""

    name: str
    number: int
    source: Source
    data: Data
    attempt: int = 0
    """Place in GENEROSITIES."""
    drawn: Draw = field(init=False)
    found: Halves = field(init=False)
    train_tokens: int = 0

    @property
    def passage_characters(self) -> int:
        """A passage is about a sequence long, so that validation sees the contexts of training."""
        characters_per_token = 1 if self.data.tokenizer.kind == "bytes" else 4
        return min(2**14, max(2**10, self.data.sequence_tokens * characters_per_token))

    def documents(self) -> Iterator[list[Passage]]:
        """The passages of every document, read anew."""
        texts = limited(documents(self.source), self.data.max_bytes)
        return passages(texts, self.passage_characters)

    def draw(self) -> None:
        """Draw passages for validation."""
        bytes_per_token = 1 if self.data.tokenizer.kind == "bytes" else 6
        needed = 2 * tokens_per_half(self.data) * bytes_per_token
        wanted = needed * GENEROSITIES[self.attempt] + 4 * self.passage_characters
        self.drawn = draw(self.documents(), wanted)

    def id_of(self, document: int) -> int:
        """A number for the document that no other one of the study has."""
        return self.number * MANY_DOCUMENTS + document


def build(
    data: Data, folder: Path, cache: Path, progress: Progress
) -> tuple[Tokenizer, list[Domain]]:
    """Write every domain's files into `folder`; the tokenizer, and the domains with their counts.

    Raises DefinitionError if a domain has too little text, naming all such domains.
    """
    domains = [
        Domain(name=name, number=number, source=source, data=data)
        for number, (name, source) in enumerate(sorted(data.domains.items()))
    ]
    for domain in domains:
        progress(f"{domain.name}: drawing validation passages")
        domain.draw()
    sample: list[str] = []
    if data.tokenizer.kind == "bpe":
        progress("training the tokenizer")
        sample = [text for domain in domains for text in _sample(domain)]
    tokenizer = make_tokenizer(data.tokenizer, sample, cache)
    while problems := _write(domains, tokenizer, folder, progress):
        short = [domain for domain in domains if domain.name in problems]
        if all(d.drawn.whole or d.attempt + 1 == len(GENEROSITIES) for d in short):
            raise DefinitionError("\n".join(problems.values()))
        for domain in short:
            domain.attempt = min(domain.attempt + 1, len(GENEROSITIES) - 1)
            domain.draw()
    return tokenizer, domains


def _sample(domain: Domain) -> Iterator[str]:
    """The domain's share of the tokenizer's sample: passages chosen by hash, none of validation."""
    data = domain.data
    share = domain.source.weight / sum(source.weight for source in data.domains.values())
    fraction = data.tokenizer.sample_bytes * share / domain.drawn.bytes
    limit, excluded = int(2**32 * min(1.0, fraction)), domain.drawn.ranks
    for document in domain.documents():
        for passage in document:
            # The low bits: the high ones decide what is drawn for validation.
            if passage.rank & (2**32 - 1) < limit and passage.rank not in excluded:
                yield passage.text


def _write(
    domains: list[Domain], tokenizer: Tokenizer, folder: Path, progress: Progress
) -> dict[str, str]:
    """Write all domains' token files; messages about those that are short of text."""
    search = _search(domains)
    for domain in domains:
        progress(f"{domain.name}: tokenizing {domain.drawn.bytes / 1e6:.1f} MB, deduplicating")
        (folder / domain.name).mkdir(exist_ok=True)
        with TokenFile(folder / domain.name / "train.bin", tokenizer) as train:
            _stream(domain, search, train)
            domain.train_tokens = train.tokens
    start, problems = 0, {}
    for domain in domains:
        end = start + len(domain.drawn.passages)
        _divide(domain, search.resemblance[start:end], tokenizer, folder / domain.name)
        start = end
        if problem := _problem(domain):
            problems[domain.name] = problem
    return problems


def _search(domains: list[Domain]) -> DuplicateSearch:
    """A search for all passages drawn, which have been compared with each other."""
    drawn = [(p.text, d.id_of(p.document)) for d in domains for p in d.drawn.passages]
    texts = [text for text, _ in drawn]
    threshold = domains[0].data.validation.near_duplicate_jaccard
    search = DuplicateSearch(texts, [document for _, document in drawn], threshold)
    search.show_each_other(texts)
    return search


def _stream(domain: Domain, search: DuplicateSearch, train: TokenFile) -> None:
    """Write everything not drawn to `train`, and show all text to the search."""
    excluded, overlap = domain.drawn.ranks, 2 * domain.passage_characters
    shown: list[tuple[str, int]] = []
    pieces: list[tuple[str, bool]] = []
    size = 0
    for document in domain.documents():
        runs = _runs(document, excluded)
        texts = [(run, -1) for run in runs]
        whole = "".join(passage.text for passage in document)
        if runs != [whole]:
            # Passages drawn from other documents are compared with this one as it was.
            texts.append((whole, domain.id_of(document[0].document)))
        for text, number in texts:
            shown += [(part, number) for part in stretches(text, STRETCH_CHARACTERS, overlap)]
        for run in runs:
            *parts, last = stretches(run, STRETCH_CHARACTERS, 0)
            pieces += [*((part, False) for part in parts), (last, True)]
        size += len(whole)
        if size >= BATCH_CHARACTERS:
            search.show(shown)
            train.write(pieces)
            shown, pieces, size = [], [], 0
    search.show(shown)
    train.write(pieces)


def _runs(document: list[Passage], excluded: set[int]) -> list[str]:
    """The text between the passages drawn, as long as it goes."""
    runs: list[list[str]] = [[]]
    for passage in document:
        if passage.rank in excluded:
            runs.append([])
        else:
            runs[-1].append(passage.text)
    return ["".join(run) for run in runs if run]


def _divide(domain: Domain, resemblance: np.ndarray, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the halves, and give training what they do not need."""
    half_tokens = tokens_per_half(domain.data)
    domain.found = halves(domain.drawn, resemblance, tokenizer, half_tokens)
    for half in HALVES:
        domain.found.tokens[half].tofile(folder / f"{half}.bin")
    rest = [p.text for p in domain.drawn.passages if p.rank not in domain.found.used]
    with TokenFile(folder / "train.bin", tokenizer, append=True) as train:
        train.write([(text, True) for text in rest])
        domain.train_tokens += train.tokens


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


class TokenFile:
    """A flat file of token ids that is being written."""

    def __init__(self, path: Path, tokenizer: Tokenizer, *, append: bool = False) -> None:
        self._path, self._mode, self._tokenizer = path, "ab" if append else "wb", tokenizer
        self.tokens = 0
        """Tokens written so far."""

    def __enter__(self) -> TokenFile:
        self._file: Any = self._path.open(self._mode)
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def write(self, pieces: list[tuple[str, bool]]) -> None:
        """Append texts; True closes a document behind its piece."""
        dtype = dtype_of(self._tokenizer.vocabulary_size)
        end = np.array([self._tokenizer.end_of_document], dtype=dtype)
        encoded = self._tokenizer.encode([text for text, _ in pieces])
        for ids, (_, is_end) in zip(encoded, pieces, strict=True):
            for part in (ids, end) if is_end else (ids,):
                self._file.write(part.tobytes())
                self.tokens += len(part)
