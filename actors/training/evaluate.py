"""The dense or sparse loss of a model on sequences: one forward for training and measuring."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist


@torch.no_grad()
def mean_loss(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    sequences: np.ndarray,
    *,
    batch: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> float:
    """Mean cross entropy in nats per token over all sequences; collective where world_size > 1.

    Each shard takes every world_size-th sequence. All shards make the same number of forwards,
    because ZeRO 3 gathers weights in each: one with none left repeats the
    first sequence, uncounted.

    Args:
        loss_of: maps tokens and targets, int64 (batch, tokens) each, to their mean loss.
        sequences: int64 (n, tokens + 1).
        batch: sequences per forward.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(sequences), batch * world_size):
        mine = sequences[start + rank : start + batch * world_size : world_size]
        part = torch.from_numpy(mine if len(mine) else sequences[:1]).to(device)
        total += len(mine) * loss_of(part[:, :-1], part[:, 1:]).double()
    if world_size > 1:
        dist.all_reduce(total)
    return float(total) / len(sequences)
