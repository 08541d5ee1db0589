"""Cross entropy of the next tokens without all logits at once: chunk by chunk, gradients with it.

Logits of 32k tokens and 122k entries take 16 GB in float32, and the softmax as much again. Here
each chunk's logits are made, turned into its loss and its gradients, and dropped. Gradients of the
output matrix are summed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_TOKENS = 1024
LARGE_LOGITS = 2**27
"""From this many logits on (512 MB in float32) they are made in chunks."""


def next_token_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats of targets (n,) by logits x @ weight.T, in chunks.

    Args:
        x: (n, d_h), normed and scaled.
        weight: (vocabulary, d_h).
        targets: int64 (n,).
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _ChunkedLoss.apply(x, weight, targets)
    losses = (
        functional.cross_entropy(functional.linear(part, weight).float(), wanted, reduction="sum")
        for part, wanted in _chunks(x, targets)
    )
    return torch.stack(list(losses)).sum() / len(targets)


def _chunks(x: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True))


class _ChunkedLoss(torch.autograd.Function):
    """Makes gradients in the forward, when a chunk's logits are there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, float32."""
        of_x = torch.empty_like(x)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        start = 0
        for part, wanted in _chunks(x, targets):
            logits = functional.linear(part, weight).float()
            log_sums = torch.logsumexp(logits, dim=-1)
            chosen = logits.gather(1, wanted[:, None]).squeeze(1)
            total += (log_sums - chosen).sum()
            gradient = logits.sub_(log_sums[:, None]).exp_()
            gradient.scatter_add_(1, wanted[:, None], gradient.new_full((len(wanted), 1), -1.0))
            gradient = gradient.div_(len(targets)).to(weight.dtype)
            of_x[start : start + len(part)] = gradient @ weight
            of_weight += gradient.T @ part
            start += len(part)
        ctx.save_for_backward(of_x, of_weight.to(weight.dtype))
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients by x and weight."""
        of_x, of_weight = ctx.saved_tensors
        return of_x * gradients[0], of_weight * gradients[0], None
