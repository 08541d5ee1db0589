"""Hangs are found within twice their time, and slow steps are none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.orchestration.watchdog import (
    SILENT_SECONDS,
    START_SECONDS,
    STEPS_PER_HANG,
    Watchdog,
    allowed_seconds,
)
from sparsing.actors.training.heartbeat import Heartbeat, Phase


def heartbeat(phase: str = "step", age: float = 0.0, step: float | None = 1.0, saved: float = 0.0):
    return Heartbeat(
        phase=Phase(phase), step=3, age_seconds=age, step_seconds=step, checkpoint_seconds=saved
    )


@settings(deadline=None)
@given(
    st.floats(0.01, 100), st.floats(1, 100), st.floats(0, 50), st.floats(0.05, 0.5), st.booleans()
)
def test_a_hang_is_found_within_twice_its_time(
    step: float, floor: float, start: float, tick: float, answers: bool
) -> None:
    """A shard that stands still from `start` on, whether it still answers or not."""
    dog = Watchdog(floor, 0.0)
    allowed = max(floor, STEPS_PER_HANG * step)
    now, asked, found = 0.0, 0.0, None
    dog.hear(heartbeat(step=step), 0.0)
    while found is None and now < start + 10 * allowed:
        now += tick
        if now >= asked and (answers or now < start):
            dog.hear(heartbeat(step=step, age=max(0.0, now - start)), now)
            asked = now + dog.ask_seconds()
        if dog.hang(now):
            found = now
    assert found is not None
    # Silence counts from the last answer, which may be as old as the time between two questions.
    least = allowed if answers else min(allowed, max(floor, SILENT_SECONDS))
    assert least - dog.ask_seconds() - 2 * tick <= found - start <= 2 * allowed + tick


@given(st.lists(st.floats(0.1, 19.0), min_size=1, max_size=50))
def test_steps_up_to_twenty_times_the_median_are_no_hang(ages: list[float]) -> None:
    dog = Watchdog(0.5, 0.0)
    for now, age in enumerate(ages):
        dog.hear(heartbeat(step=1.0, age=age), float(now))
        assert dog.hang(float(now)) is None


def test_start_and_checkpoints_have_allowances() -> None:
    assert allowed_seconds(heartbeat("start", step=None), 5.0) == START_SECONDS
    assert allowed_seconds(heartbeat("step", step=None), 5.0) == START_SECONDS
    assert allowed_seconds(heartbeat("checkpoint"), 5.0) > 600
    assert allowed_seconds(heartbeat("checkpoint", saved=10.0), 5.0) == 50.0
    assert allowed_seconds(heartbeat("checkpoint", saved=0.1), 5.0) == 5.0


def test_a_hang_is_said_in_words() -> None:
    dog = Watchdog(2.0, 0.0)
    dog.hear(heartbeat(step=0.01), 1.0)
    assert dog.hang(2.9) is None
    assert dog.hang(3.1) == "no step for 2 s, 2 s are allowed, and no answer from shard 0"
    dog.hear(heartbeat(step=0.01, age=5.0), 4.0)
    assert dog.hang(4.0) == "no step for 5 s, 2 s are allowed"


def test_a_watcher_that_was_away_takes_nobody_for_dead() -> None:
    dog = Watchdog(2.0, 0.0)
    dog.hear(heartbeat(step=0.01), 1.0)
    dog.forgive(50.0)
    assert dog.hang(51.0) is None
    assert dog.hang(53.5) is not None


def test_a_shard_that_answers_nothing_at_its_start_is_found_long_before_the_start_s_time() -> None:
    dog = Watchdog(10.0, 0.0)
    dog.hear(heartbeat("start", step=None), 5.0)
    assert dog.hang(5.0 + SILENT_SECONDS) is None
    assert "no answer" in (dog.hang(6.0 + SILENT_SECONDS) or "")
    dog.hear(heartbeat("start", age=200.0, step=None), 200.0)
    assert dog.hang(201.0) is None
