"""Losses that spike or are no numbers, in whole studies: another batch, or a failed run."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from sparsing.study.store.study_store import StudyStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEFINITION = """
name: unstable
axes:
  activation: [relu]
  scale: [{d_h: 16, layers: 2, d_f: 40, heads: 2}]
tokens: 256K
data:
  domains: {text: {kind: text, path: text}}
  tokenizer: {kind: bytes}
  sequence_tokens: 64
  validation: {tokens: 2048}
mup: {dim_model_base: 16}
checkpoints: {count: 4}
measurement: {pareto: false}
"""
NOISE_CHARACTERS = 260
"""Four sequences of noise in a text that a small model soon knows by heart."""


def run(folder: Path, extra: str) -> subprocess.CompletedProcess[str]:
    text = folder / "text"
    text.mkdir()
    for part in range(60):
        lines = [f"line {i:05} of the text, all alike" for i in range(part * 200, part * 200 + 200)]
        (text / f"{part:02}.txt").write_text("\n".join(lines))
    noise = random.Random(0).choices(string.printable, k=NOISE_CHARACTERS)
    (text / "noise.txt").write_text("".join(noise))
    (folder / "unstable.yaml").write_text(DEFINITION + extra)
    words = ["run", str(folder / "unstable.yaml"), "--store", str(folder), "--metrics-port", "0"]
    return subprocess.run(
        [sys.executable, "-m", "sparsing", *words],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"RAY_worker_niceness": "0"},
    )


def test_a_batch_whose_loss_spikes_is_replaced(tmp_path: Path) -> None:
    optimization = "optimization: {batch_tokens: 128, warmup_tokens: 2048}\n"
    stability = "stability: {spike_factor: 3, max_replaced: 10}\n"
    done = run(tmp_path, optimization + stability)
    assert done.returncode == 0, done.stderr
    store = StudyStore.open(tmp_path, "unstable")
    replaced = store.scan("runs").filter(pl.col("failure_kind") == "spike").collect()
    print(replaced.select("attempt", "step", "replaced_step", "reason").rows())
    assert 1 <= replaced.height <= 4
    assert replaced["replaced_step"].is_unique().all()
    assert all("times its median" in reason for reason in replaced["reason"])
    steps = store.scan("steps").sort("step").collect()
    assert steps["step"].to_list() == list(range(1, 2001))
    median = steps["loss"].rolling_median(50).shift(1)
    assert (steps["loss"] <= 3 * median)[50:].all()


def test_a_run_that_diverges_is_failed_with_its_last_words(tmp_path: Path) -> None:
    """Weight decay times learning rate over 2: every step makes the weights larger."""
    done = run(
        tmp_path,
        "optimization: {batch_tokens: 512, warmup_tokens: 512, peak_learning_rate: 1000}\n",
    )
    assert done.returncode == 4, done.stderr
    assert "at step" in done.stderr
    assert "also with another batch in its place" in done.stderr
    states = StudyStore.open(tmp_path, "unstable").scan("runs").sort("written_at").collect()
    assert states["failure_kind"].drop_nulls().to_list() == ["not_finite", "not_finite"]
    assert states["state"][-1] == "failed"
