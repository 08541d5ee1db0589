"""What a gang reports when it is ready to train."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """A shard is built and ready; of shard 0 the controller writes this to the store."""

    start_step: int
    """Optimizer steps done: those of the checkpoint that it starts from; 0 without one."""
    device: str
    """What it trains on and how: `CPU, float32, ZeRO 0`."""
    damaged: tuple[str, ...] = ()
    """Newer checkpoints that it set aside because they are damaged, in words."""

    @property
    def reason(self) -> str | None:
        """From where it starts, and why not from a newer checkpoint; None where it is plain."""
        start = f"from step {self.start_step}" if self.start_step or self.damaged else None
        return "; ".join(filter(None, [start, *self.damaged])) or None
