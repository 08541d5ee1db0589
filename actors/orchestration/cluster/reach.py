"""Which nodes of the cluster are reached from here."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import ray

from sparsing.actors.training.reach import takes_connections

AT_ONCE = 64


def out_of_reach(node_ids: Collection[str]) -> list[str]:
    """Of these nodes those that are lost: Ray says so, or their raylet takes no connection."""
    known = {node["NodeID"]: node for node in ray.nodes()}

    def is_lost(node_id: str) -> bool:
        node = known.get(node_id)
        if node is None or not node["Alive"]:
            return True
        return not takes_connections(node["NodeManagerAddress"], node["NodeManagerPort"])

    distinct = list(dict.fromkeys(node_ids))
    with ThreadPoolExecutor(max_workers=min(len(distinct), AT_ONCE) or 1) as pool:
        lost = list(pool.map(is_lost, distinct))
    return [node_id for node_id, gone in zip(distinct, lost, strict=True) if gone]
