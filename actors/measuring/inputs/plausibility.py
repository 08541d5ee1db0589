"""Is a model measured as it was trained? Its dense loss says whether to ask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.inputs.text import Halves
from sparsing.actors.models.sequences import Sequences

LOOKED_AT = 8
"""Sequences of each domain."""

FAR = 0.1
"""Nats per token that another setting may be better by, unquestioned."""


def questions(model: Model, halves: Halves) -> list[str]:
    """What is strange about the dense loss, each as a sentence; none where nothing is."""
    report = halves.first(LOOKED_AT).report
    loss = _loss(model, report)
    found = []
    if loss > (entropy := unigram_entropy(halves)):
        found.append(
            f"{model.path}: its dense loss, {loss:.2f} nats per token, is over the entropy of the "
            f"text's single tokens, {entropy:.2f}: is it trained, on such text, by this tokenizer?"
        )
    for other, words in _neighbours(model, report):
        if (better := _loss(model, other)) < loss - FAR:
            found.append(
                f"{model.path}: its dense loss is {loss:.2f} nats per token, {words} it is "
                f"{better:.2f}: was it trained so?"
            )
    return found


def unigram_entropy(halves: Halves) -> float:
    """Entropy of the text's single tokens in nats, corrected for their number (Miller, Madow)."""
    tokens = np.concatenate(
        [half.tokens[:, 1:][half.counted] for half in (halves.choose, halves.report)]
    )
    counts = np.unique_counts(tokens).counts
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() + (len(counts) - 1) / (2 * counts.sum()))


def _neighbours(model: Model, report: Sequences) -> list[tuple[Sequences, str]]:
    """The same tokens with and without BOS before each sequence."""
    if report.prefix:
        return [(replace(report, prefix=()), "without BOS before each sequence (--no-bos)")]
    if model.validation is None and model.bos:
        return [(replace(report, prefix=model.bos), "with BOS before each sequence")]
    return []


def _loss(model: Model, sequences: Sequences) -> float:
    return sequences.mean(model.subject.losses(sequences))
