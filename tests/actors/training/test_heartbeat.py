"""What a shard's heartbeat says of its steps."""

from __future__ import annotations

import time

from sparsing.actors.training.heartbeat import HeartbeatRecorder


def test_heartbeats_tell_phase_steps_and_median() -> None:
    recorder = HeartbeatRecorder()
    assert recorder.heartbeat().phase == "start"
    for _ in range(4):
        recorder.stepped()
        time.sleep(0.01)
    recorder.checkpointing()
    assert recorder.heartbeat().phase == "checkpoint"
    time.sleep(0.02)
    recorder.checkpointed()
    told = recorder.heartbeat()
    assert (told.phase, told.step) == ("step", 4)
    assert told.step_seconds is not None
    assert 0.005 < told.step_seconds < 5
    assert told.checkpoint_seconds >= 0.02
    assert told.age_seconds < 5
