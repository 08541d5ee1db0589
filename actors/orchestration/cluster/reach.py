"""Which hosts of a cluster are reached from here: asked by TCP, for Ray waits and tries again."""

from __future__ import annotations

import socket
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import ray

CONNECT_SECONDS = 3.0
"""A host in reach takes a connection within this time, also over a slow link."""
TRIES = 3


def is_cut_off() -> bool:
    """Whether this process does not reach the cluster's control service; takes 9 s where so."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return not any(takes_connections(host.strip("[]"), int(port)) for _ in range(TRIES))


def out_of_reach(node_ids: Collection[str]) -> list[str]:
    """Of these nodes those that are lost: Ray knows it, or their raylet takes no connection."""
    known = {node["NodeID"]: node for node in ray.nodes()}

    def is_lost(node_id: str) -> bool:
        node = known.get(node_id)
        if node is None or not node["Alive"]:
            return True
        return not takes_connections(node["NodeManagerAddress"], node["NodeManagerPort"])

    distinct = list(dict.fromkeys(node_ids))
    if not distinct:
        return []
    with ThreadPoolExecutor(max_workers=min(len(distinct), 64)) as pool:
        lost = list(pool.map(is_lost, distinct))
    return [node_id for node_id, gone in zip(distinct, lost, strict=True) if gone]


def takes_connections(host: str, port: int) -> bool:
    """Whether something at this address takes a TCP connection."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
