"""Validation of one domain: passages drawn by hash, deduplicated, split in two halves.

Drawn are the passages of the lowest rank (a seeded hash of their text), more than needed. Dropped
is every one that other text repeats or resembles: training text, or another passage drawn. Of
the rest, in order of rank, the halves are filled; what was not needed returns to training. So
training lacks nothing but the passages of the two halves, and holds nothing that resembles them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsing.actors.data.prepared import HALVES
from sparsing.actors.data.tokenizers import Encoder
from sparsing.actors.data.validating.passages import Passage
from sparsing.actors.data.validating.pool import Draw
from sparsing.study.definition.data import Data
from sparsing.study.errors import DefinitionError


@dataclass(kw_only=True)
class Halves:
    """The validation set of a domain, and what became of the passages drawn."""

    tokens: dict[str, np.ndarray]
    """Per half: flat ids, each passage closed by the end of document."""
    used: set[int]
    """Ranks of the passages in it; all others belong to training."""
    near_duplicates: int
    exact_duplicates: int
    passages: dict[str, int]
    """Passages in each half."""


def tokens_per_half(data: Data) -> int:
    """Tokens of each half's flat array: whole sequences and the last one's target.

    Raises DefinitionError if half of `validation.tokens` is less than one sequence.
    """
    sequences = data.validation.tokens // 2 // data.sequence_tokens
    if not sequences:
        raise DefinitionError(
            f"data.validation.tokens is {data.validation.tokens}: each half needs a sequence of "
            f"{data.sequence_tokens} tokens; write at least {2 * data.sequence_tokens}"
        )
    return sequences * data.sequence_tokens + 1


def halves(drawn: Draw, resemblance: np.ndarray, tokenizer: Encoder, half_tokens: int) -> Halves:
    """Fill both halves to `half_tokens` at most with passages that resemble nothing else.

    `resemblance` is that of each passage drawn to any other text, 0 if under the threshold. A half
    may end up short: see `shortage`.
    """
    result = Halves(
        tokens={},
        used=set(),
        exact_duplicates=drawn.exact_duplicates + int(np.sum(resemblance == 1)),
        near_duplicates=int(np.sum((resemblance > 0) & (resemblance < 1))),
        passages=dict.fromkeys(HALVES, 0),
    )
    clean = [p for p, r in zip(drawn.passages, resemblance, strict=True) if r == 0]
    parts = _fill(clean, tokenizer, half_tokens, result)
    for half in HALVES:
        empty = np.empty(0, dtype=np.uint16)
        result.tokens[half] = np.concatenate([empty, *parts[half]])[:half_tokens]
    return result


def _fill(
    clean: list[Passage], tokenizer: Encoder, half_tokens: int, result: Halves
) -> dict[str, list[np.ndarray]]:
    """Give passages, by rank, to the halves, all of one document's section to the same half."""
    sizes: dict[str, int] = dict.fromkeys(HALVES, 0)
    parts: dict[str, list[np.ndarray]] = {half: [] for half in HALVES}
    half_of: dict[tuple[int, int], str] = {}
    for passage in clean:
        emptier = min(HALVES, key=sizes.__getitem__)
        half = half_of.get(passage.group, emptier)
        if sizes[half] >= half_tokens:
            continue
        half_of[passage.group] = half
        ids = tokenizer.encode([passage.text])[0]
        parts[half].append(np.append(ids, np.array(tokenizer.end_of_document, dtype=ids.dtype)))
        sizes[half] += len(parts[half][-1])
        result.used.add(passage.rank)
        result.passages[half] += 1
    return parts


def shortage(domain: str, drawn: Draw, found: Halves, data: Data) -> str | None:
    """What is wrong if a half is short, with what to write instead; None if both are full."""
    wanted = tokens_per_half(data)
    least = min(len(found.tokens[half]) for half in HALVES)
    if least >= wanted:
        return None
    possible = max(0, least - 1) // data.sequence_tokens * data.sequence_tokens * 2
    remedy = f"write data.validation.tokens: {possible}" if possible else "shorten sequence_tokens"
    return (
        f"data.domains.{domain}: only {2 * least} of {2 * (wanted - 1)} validation tokens can be "
        f"had from {drawn.documents} documents of {drawn.bytes} bytes (at most half of the text, "
        f"{found.exact_duplicates} exact and {found.near_duplicates} near duplicates dropped); "
        f"{remedy}, or give more text"
    )
