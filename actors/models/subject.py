"""A model that is measured: any causal language model whose FFNs are `GatedFFN`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsing.actors.models.sequences import PADDING, Sequences
from sparsing.kernels.activity import Rule
from sparsing.kernels.ffn import GatedFFN

FORWARD_TOKENS = 4096
"""Tokens per forward at most: with one layer's intermediates the bound on memory."""

FORWARD_LOGITS = 2**27
"""Logits per forward at most, for large vocabularies."""

Visit = Callable[[int, slice, Tensor, Tensor, Tensor], None]
"""Called with layer, the slice of sequences, and s, z, FFN(x), each (sequences, positions, ...)."""


class Subject:
    """A model under measurement, dense or with rules in every layer.

    Args:
        model: holds `GatedFFN` modules, in the order of its layers.
        logits: maps token ids, int64 (batch, positions), to logits (batch, positions, vocabulary).
        vocabulary_size: entries of the logits.
        device: where to compute.
        ffns: what is measured, in order; None: the model's `GatedFFN` modules.
    """

    def __init__(
        self,
        model: nn.Module,
        logits: Callable[[Tensor], Tensor],
        vocabulary_size: int,
        device: torch.device,
        ffns: Sequence[Any] | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.vocabulary_size = vocabulary_size
        if ffns is None:
            ffns = [m for m in self.model.modules() if isinstance(m, GatedFFN)]
        self.ffns = list(ffns)
        self.progress: Callable[[int], None] | None = None
        """Called after each forward with the tokens that went through."""
        self._logits = logits

    @property
    def gates_are_zero(self) -> bool:
        """Whether the activation function turns negative gates into exact zeros, as ReLU does."""
        return self.gates_are_known and all(not f.sigma(torch.tensor(-1.0)) for f in self.ffns)

    @property
    def gates_are_known(self) -> bool:
        """Whether every FFN has a gate sigma(W_gate x), which some metrics look at."""
        return all(ffn.sigma is not None for ffn in self.ffns)

    @contextmanager
    def sparse(self, rules: Sequence[Rule]) -> Iterator[None]:
        """Within it the model leaves out the weak neurons of all layers at once."""
        for ffn, rule in zip(self.ffns, rules, strict=True):
            ffn.rule = rule
        try:
            yield
        finally:
            for ffn in self.ffns:
                ffn.rule = None

    @torch.no_grad()
    def losses(self, sequences: Sequences, visit: Visit | None = None) -> np.ndarray:
        """Cross entropy of each sequence in nats, summed over its tokens: (n,) float64.

        Every forward calls `visit`, layer by layer; the model keeps nothing for it.
        """
        found = np.zeros(len(sequences))
        for batch, tokens in self._batches(sequences):
            logits = self._logits_of(sequences, batch, tokens, visit)
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1),
                tokens[:, 1:].flatten(),
                ignore_index=PADDING,
                reduction="none",
            )
            loss = loss.view(len(tokens), -1) * self._counted(sequences, batch)
            found[batch] = loss.sum(1, dtype=torch.float64).cpu().numpy()
        return found

    @torch.no_grad()
    def predictions(self, sequences: Sequences, visit: Visit | None = None) -> list[Tensor]:
        """Log-probabilities (sequences, positions, vocabulary), forward by forward; few of them
        fit into memory. `visit` as for `losses`."""
        found = []
        for batch, tokens in self._batches(sequences):
            logits = self._logits_of(sequences, batch, tokens, visit)
            found.append(logits.float().log_softmax(-1))
        return found

    @torch.no_grad()
    def divergences(
        self, sequences: Sequences, dense: list[Tensor], rules: Sequence[Rule]
    ) -> np.ndarray:
        """KL(dense || with rules) of the predictions in nats, summed over tokens: (n,) float64.

        The expected rise of the loss on text as the dense model writes it: near to the rise on real
        text, and known from far fewer tokens.

        Args:
            dense: the dense model's `predictions` of the sequences.
        """
        found = np.zeros(len(sequences))
        for (batch, tokens), expected in zip(self._batches(sequences), dense, strict=True):
            with self.sparse(rules):
                sparse = self._logits_of(sequences, batch, tokens, None).float().log_softmax(-1)
            each = functional.kl_div(sparse, expected, log_target=True, reduction="none").sum(-1)
            each = each * self._counted(sequences, batch)
            found[batch] = each.sum(1, dtype=torch.float64).cpu().numpy()
        return found

    def _logits_of(
        self, sequences: Sequences, batch: slice, tokens: Tensor, visit: Visit | None
    ) -> Tensor:
        """Logits of the sequences' own positions; what stands before them is seen and left out."""
        before = torch.tensor(sequences.prefix, device=self.device).expand(len(tokens), -1)
        given = torch.cat((before.long(), tokens[:, :-1].clamp(min=0)), dim=1)
        skipped = len(sequences.prefix)
        with self._watched(batch, visit, skipped):
            return self._logits(given)[:, skipped:]

    @staticmethod
    def _own_positions(values: Tensor, batch: slice, skipped: int) -> Tensor:
        """(sequences, positions, ...) without what stands before; some models flatten the two."""
        return values.reshape(batch.stop - batch.start, -1, values.shape[-1])[:, skipped:]

    def _counted(self, sequences: Sequences, batch: slice) -> Tensor:
        return torch.from_numpy(sequences.counted[batch]).to(self.device)

    def _batches(self, sequences: Sequences) -> Iterator[tuple[slice, Tensor]]:
        """Which sequences, and their tokens on the device, forward by forward."""
        most = min(FORWARD_TOKENS, FORWARD_LOGITS // self.vocabulary_size)
        for batch in sequences.batches(most):
            tokens = torch.from_numpy(sequences.tokens[batch]).to(self.device)
            yield batch, tokens
            if self.progress is not None:
                self.progress(tokens[:, 1:].numel())

    @contextmanager
    def _watched(self, batch: slice, visit: Visit | None, skipped: int) -> Iterator[None]:
        if visit is None:
            yield
            return
        for layer, ffn in enumerate(self.ffns):
            # The lambda's defaults bind this layer.
            ffn.watcher = lambda *seen, layer=layer: visit(
                layer, batch, *(self._own_positions(each, batch, skipped) for each in seen)
            )
        try:
            yield
        finally:
            for ffn in self.ffns:
                ffn.watcher = None
