"""Whether a gang fits on a cluster's nodes, and what is said where it does not."""

from __future__ import annotations

import pytest

from sparsing.actors.orchestration.cluster.nodes import (
    ACCELERATOR_LABEL,
    Node,
    missing,
    shard_bundle,
)
from sparsing.study.definition.model import Resources


def nodes(count: int, gpus: float = 8, labels: dict[str, str] | None = None) -> list[Node]:
    return [Node(resources={"CPU": 64, "GPU": gpus}, labels=labels or {})] * count


@pytest.mark.parametrize(
    ("placement", "shards", "there", "words"),
    [
        ("PACK", 16, 2, None),
        ("PACK", 17, 2, "the cluster has room for 16; write at most 16"),
        ("STRICT_PACK", 8, 2, None),
        ("STRICT_PACK", 9, 2, "one node has room for 8; write at most 8"),
        ("STRICT_SPREAD", 2, 2, None),
        ("STRICT_SPREAD", 3, 2, "so many nodes have room for one: 2"),
        ("PACK", 1, 0, "0"),
    ],
)
def test_room_is_counted_as_ray_places(
    placement: str, shards: int, there: int, words: str | None
) -> None:
    resources = Resources.model_validate({"shards": shards, "placement": placement})
    found = missing(resources, nodes(there))
    assert (found is None) if words is None else (found is not None and words in found)


def test_no_gpu_is_said() -> None:
    found = missing(Resources(gpus_per_shard=1), nodes(1, gpus=0))
    assert found == (
        "resources.gpus_per_shard = 1: this cluster has no GPU; write 0 to train on CPUs"
    )


def test_fewer_shards_will_do_where_the_definition_says_so() -> None:
    assert missing(Resources(shards=16, min_shards=8), nodes(1)) is None
    assert missing(Resources(shards=16), nodes(1))


def test_a_cap_below_one_run_is_said() -> None:
    found = missing(Resources(shards=8, max_gpus=4), nodes(1))
    assert found == "resources.max_gpus = 4: one run needs 8"


def test_the_accelerator_is_a_label_where_nodes_have_it() -> None:
    resources = Resources(accelerator_type="A800")
    labelled = nodes(1, labels={ACCELERATOR_LABEL: "A800"})
    assert shard_bundle(resources, labelled).labels == {ACCELERATOR_LABEL: "A800"}
    assert missing(resources, labelled) is None
    assert "accelerator_type:A800" in shard_bundle(resources, nodes(1)).resources
    other = missing(resources, nodes(1, labels={ACCELERATOR_LABEL: "A100"}))
    assert other
    assert "no node of this cluster has it" in other
