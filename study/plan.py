"""From a definition to its runs: shapes, steps, checkpoints, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model to train: everything about it that is not shared by the whole study."""

    id: str
    """Readable and unique in the study: `relu-0.1B-wd48-s0`."""
    activation: str
    scale: str
    """As written in the axes, or `d32x4` for an explicit shape."""
    seed: int
    d_h: int
    layers: int
    d_f: int
    heads: int
    parameters: int
    """Non-embedding parameters."""
    batch_sequences: int
    """Sequences of the global batch."""
    sequence_tokens: int
    steps: int
    warmup_steps: int
    decay_steps: int
    checkpoint_steps: tuple[int, ...]
    """Increasing; the last one is `steps`."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of the global batch."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.batch_tokens
