"""Work, rates and estimates, against arithmetic by hand."""

from __future__ import annotations

import json

import pytest

from sparsing.study.definition.load import load_study
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.plan.accelerators import ACCELERATORS, PUBLISHED_MFU
from sparsing.study.plan.estimate import estimate, estimate_run
from sparsing.study.plan.rates import calculated, read_rates, step_time, write_rates
from sparsing.study.plan.runs import plan_runs, training_flops
from sparsing.study.plan.work import memory_of, step_work

LAW = load_study("sparsing_law")
RUNS = {run.id: run for run in plan_runs(LAW)}
SMALL, LARGE = RUNS["relu-0.1B-wd48-s0"], RUNS["relu-1.2B-wd56-s0"]


def test_small_shape_by_hand() -> None:
    # 80 sequences of 4096 on 8 GPUs: 40,960 tokens each; 768 x 16, d_f 1920, 32,000 entries.
    # 108,552,960 + 24,576,000 parameters = 133,128,960 (layers: 4 x 768² + 3 x 768 x 1920 + 1536).
    work = step_work(SMALL, 32_000, shards=8, micro=2, weight_bytes=2)
    assert SMALL.parameters == 16 * (2_359_296 + 4_423_680 + 1_536) + 768 == 108_552_960
    assert work.matmul_flops == pytest.approx(6 * 133_128_960 * 40_960)  # 3.272e13
    assert work.attention_flops == pytest.approx(6 * 16 * 768 * 4096 * 40_960)  # 1.237e13
    # 128 x 768 elements of 2 bytes in 16 layers, 30 bytes for each of 32,000 logits.
    assert work.elementwise_bytes == pytest.approx(40_960 * (16 * 128 * 768 * 2 + 32_000 * 30))
    assert work.layer_calls == 16 * 5
    assert work.exchanged_bytes == pytest.approx(4 * 133_128_960 * 7 / 8)
    time = step_time(work, calculated(ACCELERATORS["A800"]))
    assert time.matmul == pytest.approx(3.2718e13 / (0.75 * 312e12), rel=1e-3)  # 0.1398 s
    assert time.attention == pytest.approx(1.2370e13 / (0.55 * 312e12), rel=1e-3)  # 0.0721 s
    assert time.elementwise == pytest.approx(1.6817e11 / (0.85 * 2.039e12), rel=0.02)
    assert time.exchange == pytest.approx(4.6595e8 / 150e9, rel=1e-3)  # 3.1 ms
    assert time.launch == 0
    mfu = (3.2718e13 + 1.2370e13) / time.total / 312e12
    assert estimate_run(LAW, SMALL, calculated(ACCELERATORS["A800"]), 8).mfu == pytest.approx(
        mfu, rel=1e-3
    )


def test_large_shape_by_hand() -> None:
    # 384 sequences on 8 GPUs: 196,608 tokens each; 1792 x 32, d_f 4480.
    assert LARGE.parameters == 32 * (12_845_056 + 24_084_480 + 3_584) + 1_792
    parameters = LARGE.parameters + 32_000 * 1792
    work = step_work(LARGE, 32_000, shards=8, micro=4, weight_bytes=2)
    assert work.model_flops == pytest.approx(
        training_flops(LARGE, 32_000) / LARGE.steps / 8, rel=1e-9
    )
    assert work.optimizer_bytes == pytest.approx(28 * parameters / 8 + 10 * parameters * 12)
    # 2 + 4 bytes of weight and gradient, 12 / 8 of master and moments: 9.3 GB; four sequences of
    # 4096: 10 x 1792 + 4 x 4480 elements in 32 layers, 14 bytes for each logit.
    memory = memory_of(LARGE, 32_000, shards=8, micro=4, weight_bytes=2, process_bytes=0)
    states = memory.weights + memory.gradients + memory.optimizer
    assert states == pytest.approx(7.5 * parameters)
    assert memory.activations == pytest.approx(16_384 * 32 * 35_840 * 2)
    assert memory.logits == pytest.approx(16_384 * 32_000 * 14)
    chunked = memory_of(
        LARGE, 122_753, shards=8, micro=4, weight_bytes=2, process_bytes=0, chunked=True
    )
    assert chunked.logits == pytest.approx(1024 * 122_753 * 14)


def test_an_estimate_foretells_what_does_not_fit() -> None:
    wide = LAW.model_copy(
        update={"optimization": LAW.optimization.model_copy(update={"micro_batch_sequences": 48})}
    )
    full = estimate_run(wide, LARGE, calculated(ACCELERATORS["A800"]), 8)
    assert not full.fits
    assert 0 < full.fitting_sequences < full.micro_sequences
    again = wide.model_copy(
        update={
            "optimization": wide.optimization.model_copy(
                update={"micro_batch_sequences": full.fitting_sequences}
            )
        }
    )
    assert estimate_run(again, LARGE, calculated(ACCELERATORS["A800"]), 8).fits
    assert estimate_run(wide, LARGE, calculated(ACCELERATORS["H200"]), 8).fitting_sequences > (
        full.fitting_sequences
    )


def test_calculated_mfu_is_near_what_others_published() -> None:
    published = PUBLISHED_MFU["H100", "MPT 1B, 8 GPUs, sequences of 4096"]
    ours = estimate_run(LAW, LARGE, calculated(ACCELERATORS["H100"]), 8).mfu
    assert ours == pytest.approx(published, rel=0.15)


def test_more_gpus_end_sooner_and_cost_the_same() -> None:
    one = estimate(LAW, calculated(ACCELERATORS["A100"]), 8)
    many = estimate(LAW, calculated(ACCELERATORS["A100"]), 80)
    assert [run.shard_hours for run in one.runs] == [run.shard_hours for run in many.runs]
    training = [run.seconds for run in one.runs]
    rest = one.prepare_seconds + calculated(ACCELERATORS["A100"]).start_seconds
    assert one.wall_seconds == pytest.approx(sum(training) + rest)
    assert many.wall_seconds == pytest.approx(max(training) + rest)
    json.dumps(one.as_json())


def test_compiled_and_overlapped_steps_are_never_slower() -> None:
    for name, accelerator in ACCELERATORS.items():
        rates = calculated(accelerator)
        for run in RUNS.values():
            eager = step_work(run, 32_000, shards=8, micro=1, weight_bytes=2)
            compiled = step_work(run, 32_000, shards=8, micro=1, weight_bytes=2, compiled=True)
            slow, fast = step_time(eager, rates), step_time(compiled, rates, overlapped=True)
            assert fast.total < slow.total, (name, run.id)


def test_calibration_files(tmp_path) -> None:
    rates = calculated(ACCELERATORS["H200"])
    write_rates(rates, tmp_path / "rates.json")
    assert read_rates(tmp_path / "rates.json") == rates
    with pytest.raises(NotFoundError):
        read_rates(tmp_path / "none.json")
    for wrong in ("", "[]", '{"device": "x"}', "{" * 100):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(DefinitionError):
            read_rates(tmp_path / "wrong.json")
