"""Connecting to Ray, embedded or by address, and whether a study fits on what is there."""

from __future__ import annotations

import logging
import math
from typing import Any

import ray

from actors.gang import shard_bundle
from study.definition import Resources
from study.errors import DefinitionError, NotFoundError

OBJECT_STORE_BYTES = 256 * 1024**2
"""Enough for an embedded Ray: rows and weights go through the file system, not through Ray."""


def connect(address: str | None) -> None:
    """Connect to the Ray cluster at `address`, or start Ray in this process.

    Raises:
        NotFoundError: no cluster answers there.
    """
    shared: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **shared)
        else:
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **shared)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotFoundError(f"no Ray cluster at '{address}': {error}") from None


def check_room(resources: Resources) -> None:
    """Refuse a study whose gang can never be placed on the connected cluster.

    Raises:
        DefinitionError: says what one run needs and what the cluster has.
    """
    have = ray.cluster_resources()
    if (resources.gpus_per_shard or 0) and not have.get("GPU"):
        raise DefinitionError(
            f"resources.gpus_per_shard = {resources.gpus_per_shard:g}: this cluster has no GPU; "
            "write 0 to train on CPUs"
        )
    for name, amount in shard_bundle(resources).items():
        if name.startswith("accelerator_type:") and name not in have:
            raise DefinitionError(
                f"resources.accelerator_type = {resources.accelerator_type}: no node of this "
                "cluster has it"
            )
        fewest = resources.min_shards or resources.shards
        needed, there = amount * fewest, have.get(name, 0)
        if needed > there:
            most = math.floor(there / amount)
            raise DefinitionError(
                f"resources.shards = {fewest}: one run needs {needed:g} {name}s, the "
                f"cluster has {there:g}; write at most {most}"
            )
