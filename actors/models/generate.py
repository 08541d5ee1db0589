"""Greedy decoding, token by token, of one sequence: ours and Hugging Face models, dense or sparse.

The past's keys and values are kept, so that a token costs the reading of all weights once: of the
FFN's only those of active neurons, where it is sparse.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import Transformer
from sparsing.kernels.activity import Rule, StraightforwardRelu, contributing, out_norms
from sparsing.kernels.linear import quicken
from sparsing.kernels.thresholds import NeuronThresholds
from sparsing.study.errors import DefinitionError


class Decoder(Protocol):
    """What decoding needs of a model; `Transformer` is one."""

    def past(self, positions: int) -> Any:
        """An empty KV cache with room for this number of tokens."""

    def next_logits(self, tokens: Tensor, past: Any) -> Tensor:
        """Logits (vocabulary,) of the token after these, int64 (tokens,); the past grows by them.

        Only the first call may give more than one token.
        """


class HuggingFaceDecoder:
    """A `transformers` model as a `Decoder`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # The library's name for it changed in version 5.
        known = inspect.signature(model.forward).parameters
        self._past_name = "cache" if "cache" in known else "past_key_values"

    def past(self, positions: int) -> Any:
        """The library's own cache, which grows."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def next_logits(self, tokens: Tensor, past: Any) -> Tensor:
        """As in `Decoder`."""
        given = {self._past_name: past, "use_cache": True, "logits_to_keep": 1}
        found = self.model(input_ids=tokens[None], **given)
        return found.logits[0, -1].float()


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was decoded, and how long it took."""

    tokens: list[int]
    """Token ids after the prompt."""
    prefill_seconds: float
    """From the prompt to the first of them."""
    decode_seconds: float
    """For all others."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding, the prompt and the first token apart; None where there was one token."""
        more = len(self.tokens) - 1
        return more / self.decode_seconds if more > 0 else None


def decoder_of(subject: Subject) -> Decoder:
    """The subject's model as a decoder, its linear layers fast for few tokens from now on."""
    model = subject.model
    quicken(model)
    return model if isinstance(model, Transformer) else HuggingFaceDecoder(model)


@torch.no_grad()
def greedy(
    decoder: Decoder,
    prompt: Sequence[int],
    count: int,
    device: torch.device,
    ends: frozenset[int] = frozenset(),
    progress: Callable[[int], None] | None = None,
) -> Generated:
    """Decode up to `count` tokens after the prompt, each the likeliest (the first of equals).

    Args:
        decoder: the model.
        prompt: token ids, at least one.
        count: tokens to decode at most, at least one.
        device: where the model is.
        ends: ids after which nothing follows.
        progress: called with the tokens that went through, after each forward.
    """
    past = decoder.past(len(prompt) + count)
    started = _now(device)
    found = [_likeliest(decoder.next_logits(torch.tensor(prompt, device=device), past))]
    prefilled = _now(device)
    while len(found) < count and found[-1] not in ends:
        last = torch.tensor(found[-1:], device=device)
        found.append(_likeliest(decoder.next_logits(last, past)))
        if progress is not None:
            progress(1)
    return Generated(
        tokens=found, prefill_seconds=prefilled - started, decode_seconds=_now(device) - prefilled
    )


def use_sparse(subject: Subject, rules: Sequence[NeuronThresholds] | None) -> list[Rule]:
    """From now on the model leaves weak neurons out, by `GatedFFN.use_exact`; returns the rules.

    Args:
        subject: the model.
        rules: thresholds of each layer; None: exact zeros of the gate, nothing lost.

    Raises:
        DefinitionError: the thresholds are another model's, its gates have no exact zeros, or its
            FFNs have biases.
    """
    if rules is None and not subject.gates_are_zero:
        raise DefinitionError(
            "its activation function has no exact zeros: nothing can be left out without "
            "thresholds; write them with `sparsing measure PATH --thresholds FILE.safetensors`"
        )
    if rules is not None:
        _check_fit(subject, rules)
    used: list[Rule] = [StraightforwardRelu()] * len(subject.ffns) if rules is None else [*rules]
    try:
        for ffn, rule in zip(subject.ffns, used, strict=True):
            ffn.use_exact(rule)
    except ValueError as error:
        raise DefinitionError(f"it cannot be computed sparsely: {error}") from error
    return used


def active_fraction(
    subject: Subject, rules: Sequence[Rule], prompt: Sequence[int], tokens: Sequence[int]
) -> float:
    """Share of active neurons, over layers and the positions that gave the tokens.

    Counted in the sparse run, exact zeros never; one forward computes all neurons for it. The model
    is dense afterwards.
    """
    for ffn in subject.ffns:
        ffn.use_dense()
    whole = np.array([[*prompt, *tokens]], dtype=np.int64)
    sequence = Sequences(
        tokens=whole, domain=np.zeros(1, dtype=np.int64), domains=("text",), shares=np.ones(1)
    )
    shares: list[float] = []

    def count(layer: int, batch: slice, s: Tensor, z: Tensor, output: Tensor) -> None:
        active = contributing(z[:, len(prompt) - 1 :], out_norms(subject.ffns[layer].w_out.weight))
        shares.append(float(active.float().mean()))

    with subject.sparse(rules):
        subject.losses(sequence, count)
    return float(np.mean(shares))


def _check_fit(subject: Subject, rules: Sequence[NeuronThresholds]) -> None:
    theirs = [len(rule.thresholds) for rule in rules]
    ours = [ffn.w_out.in_features for ffn in subject.ffns]
    if theirs != ours:
        raise DefinitionError(
            f"the thresholds are of {len(theirs)} layers of {sorted(set(theirs))} neurons, the "
            f"model has {len(ours)} of {sorted(set(ours))}; give the thresholds of this model"
        )


def _likeliest(logits: Tensor) -> int:
    return int(logits.argmax())


def _now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
