"""World sizes: as many as wanted, or the most there is room for, and always a divisor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsing.actors.orchestration.cluster.world_size import room_for, world_size


@given(st.integers(1, 256), st.integers(1, 16), st.integers(1, 16), st.integers(0, 20))
def test_world_size_divides_the_batch_and_fits(
    batch: int, shards: int, fewest: int, room: int
) -> None:
    batch, fewest = batch * shards, min(fewest, shards)
    found = world_size(batch, shards, fewest, room)
    assert batch % found == 0
    assert fewest <= found <= shards
    if found != shards:
        assert found <= room < shards
        assert not any(batch % n == 0 for n in range(found + 1, min(room, shards) + 1))
    assert world_size(batch, shards, None, room) == shards


def test_room_is_by_node() -> None:
    assert room_for({"GPU": 2, "CPU": 1}, [{"GPU": 3, "CPU": 8}, {"GPU": 3, "CPU": 8}]) == 2
    assert room_for({"CPU": 0.1}, [{"CPU": 0.3}]) == 3
    assert room_for({"GPU": 1, "CPU": 1}, [{"CPU": 4}]) == 0
    assert room_for({"CPU": 1, "GPU": 0}, []) == 0
