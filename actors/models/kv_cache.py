"""Keys and values of the tokens that were there before: what decoding need not compute again."""

from __future__ import annotations

import torch
from torch import Tensor


class PastTokens:
    """One layer's keys and values, of one sequence: (heads, positions, head_size) each."""

    def __init__(
        self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.tokens = 0
        """How many there are; behind them is room."""
        self._keys = torch.empty(1, *shape, device=device, dtype=dtype)
        self._values = torch.empty(1, *shape, device=device, dtype=dtype)

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, after these: (1, heads, tokens, head_size) each.

        Raises:
            ValueError: there is no room, or several tokens come after others.
        """
        start, end = self.tokens, self.tokens + keys.shape[2]
        if end > self._keys.shape[2]:
            raise ValueError(f"room for {self._keys.shape[2]} tokens, not for {end}")
        if start and keys.shape[2] > 1:
            raise ValueError(f"{keys.shape[2]} tokens after others: give one at a time")
        self._keys[:, :, start:end], self._values[:, :, start:end] = keys, values
        self.tokens = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class Past:
    """A sequence's keys and values in every layer."""

    def __init__(
        self,
        layers: int,
        shape: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layers = [PastTokens(shape, device, dtype) for _ in range(layers)]

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.layers[0].tokens
