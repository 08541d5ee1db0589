"""Connecting to a Ray cluster, and whether a study fits on what is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from sparsing.actors.orchestration.cluster.world_size import room_for
from sparsing.study.definition.model import Resources
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.ray_address import NAMESPACE

ACCELERATOR_LABEL = "ray.io/accelerator-type"


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node of the cluster has in all, in use or not."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What one shard occupies, and which label its node must have."""

    resources: dict[str, float]
    labels: dict[str, str]


def connect(address: str) -> None:
    """Connect to the Ray cluster at `address`.

    Raises:
        NotFoundError: no cluster answers there.
    """
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace=NAMESPACE,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise NotFoundError(f"no Ray cluster at '{address}': {error}") from None


def nodes_of_cluster() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    return [
        Node(resources=node["Resources"], labels=node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]


def cluster_has_gpus(nodes: Sequence[Node]) -> bool:
    """Whether any of a cluster's nodes offers a GPU."""
    return any(node.resources.get("GPU") for node in nodes)


def shard_bundle(resources: Resources, nodes: Sequence[Node]) -> Bundle:
    """What one shard occupies on this cluster, in Ray's resource names.

    The accelerator's type is a node's label where any node has it, else Ray's resource of old.
    """
    gpus = resources.gpus_per_shard
    if gpus is None:
        gpus = 1 if cluster_has_gpus(nodes) else 0
    bundle = Bundle(resources={"CPU": resources.cpus_per_shard}, labels={})
    if gpus:
        bundle.resources["GPU"] = gpus
    if wanted := resources.accelerator_type:
        if any(node.labels.get(ACCELERATOR_LABEL) == wanted for node in nodes):
            bundle.labels[ACCELERATOR_LABEL] = wanted
        else:
            bundle.resources[f"accelerator_type:{wanted}"] = 0.001
    return bundle


def missing(resources: Resources, nodes: Sequence[Node]) -> str | None:
    """What the cluster lacks for one run, were it empty; None where a run fits."""
    if (resources.gpus_per_shard or 0) and not cluster_has_gpus(nodes):
        asked = f"resources.gpus_per_shard = {resources.gpus_per_shard:g}"
        return f"{asked}: this cluster has no GPU; write 0 to train on CPUs"
    bundle = shard_bundle(resources, nodes)
    gpus = bundle.resources.get("GPU", 0) * (resources.min_shards or resources.shards)
    if resources.max_gpus and gpus > resources.max_gpus:
        return f"resources.max_gpus = {resources.max_gpus:g}: one run needs {gpus:g}"
    wanted = resources.accelerator_type
    if wanted and not any(_shards_on(node, bundle) for node in nodes):
        asked = f"resources.accelerator_type = {wanted}"
        return f"{asked}: no node of this cluster has it, with room for a shard"
    room = [_shards_on(node, bundle) for node in nodes]
    where, most = {
        "STRICT_PACK": ("one node has room for", max(room, default=0)),
        "STRICT_SPREAD": ("so many nodes have room for one:", sum(map(bool, room))),
    }.get(resources.placement, ("the cluster has room for", sum(room)))
    fewest = resources.min_shards or resources.shards
    if most >= fewest:
        return None
    needs = ", ".join(
        f"{amount * fewest:g} {name}s (there are "
        f"{sum(node.resources.get(name, 0) for node in nodes):g})"
        for name, amount in bundle.resources.items()
        if not name.startswith("accelerator_type:")
    )
    how = f", placed {resources.placement}" if resources.placement != "PACK" else ""
    advice = f"write at most {most}" if most else "write less for a shard"
    return f"resources.shards = {fewest}{how}: one run needs {needs}; {where} {most}; {advice}"


def check_room(resources: Resources, nodes: Sequence[Node]) -> None:
    """Refuse a study whose gang can never be placed on a cluster of these nodes.

    Raises:
        DefinitionError: says what one run needs and what the cluster has.
    """
    if lack := missing(resources, nodes):
        raise DefinitionError(lack)


def _shards_on(node: Node, bundle: Bundle) -> int:
    """How many shards fit on an empty node."""
    if any(node.labels.get(key) != value for key, value in bundle.labels.items()):
        return 0
    return room_for(bundle.resources, [node.resources])
