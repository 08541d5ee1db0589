"""With how many shards a run goes on: pure arithmetic, which imports neither Ray nor torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping


def room_for(bundle: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> int:
    """How many shards of this size the nodes hold, each shard on one node.

    Args:
        bundle: what a shard occupies, by Ray's resource names.
        nodes: what each node has of them.
    """
    needed = {name: amount for name, amount in bundle.items() if amount > 0}
    if not needed:
        return 10**9
    return sum(
        # Ray counts in ten-thousandths; rounding keeps 0.3 / 0.1 at 3.
        min(math.floor(round(node.get(name, 0.0) / a, 6)) for name, a in needed.items())
        for node in nodes
    )


def world_size(batch_sequences: int, shards: int, min_shards: int | None, room: int) -> int:
    """Shards of a run's next attempt: as many as wanted, or the most that there is room for.

    Every size from `min_shards` to `shards` that divides the batch will do: the global batch and
    the order of data are the same at each. Without `min_shards`, or where the room is too small
    even for that, it is `shards`, and the run waits.

    Args:
        batch_sequences: sequences of the global batch.
        shards: wanted.
        min_shards: the fewest to go on with; None: all or none.
        room: shards that the cluster could hold if it were empty.
    """
    if room >= shards or min_shards is None:
        return shards
    fitting = [n for n in range(min_shards, min(room, shards) + 1) if batch_sequences % n == 0]
    return max(fitting, default=shards)
