"""Runs, their schedules in steps, and what they cost."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.study.definition.data import Data, Source, Tokenizer
from sparsing.study.definition.load import load_study, preset_names
from sparsing.study.definition.model import (
    Axes,
    Checkpoints,
    Optimization,
    Resources,
    RunPoint,
    Shape,
    Study,
)
from sparsing.study.definition.points import checkpoint_steps
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import plan, plan_runs, training_flops

DATA = Data(
    domains={"code": Source(kind="python-stdlib")},
    tokenizer=Tokenizer(kind="bytes"),
    sequence_tokens=256,
)
TINY = Shape(d_h=32, layers=4)


def study(**changes) -> Study:
    base = {"name": "x", "axes": Axes(scale=[TINY]), "tokens": 1_200_000, "data": DATA}
    return Study(**(base | changes))


def test_runs_are_the_product_in_definition_order_then_the_listed_ones():
    made = study(
        axes=Axes(activation=["silu", "relu"], scale=["27M", TINY], seed=[1, 0]),
        runs=[RunPoint(scale="0.1B", width_depth_ratio=113.8, seed=7)],
        tokens="1B",
    )
    ids = [run.id for run in plan_runs(made)]
    assert ids == [
        "silu-27M-wd57-s1",
        "silu-27M-wd57-s0",
        "silu-d32x4-wd8-s1",
        "silu-d32x4-wd8-s0",
        "relu-27M-wd57-s1",
        "relu-27M-wd57-s0",
        "relu-d32x4-wd8-s1",
        "relu-d32x4-wd8-s0",
        "relu-0.1B-wd114-s7",
    ]
    assert plan_runs(made) == plan_runs(made)


def test_quickstart_runs():
    runs = plan_runs(load_study("quickstart"))
    assert [run.id for run in runs] == [
        f"{activation}-d32x4-wd8-s{seed}" for activation in ("relu", "silu") for seed in (0, 1)
    ]
    assert {(run.d_h, run.layers, run.d_f, run.heads) for run in runs} == {(32, 4, 80, 2)}
    assert all(run.tokens == pytest.approx(1.2e6, rel=0.01) for run in runs)


def test_table_3_batches_are_the_default():
    runs = plan_runs(load_study("sparsing_law"))
    batches = {run.scale: run.batch_tokens for run in runs}
    table_3 = {"0.1B": 3.27e5, "0.2B": 5.90e5, "0.4B": 7.86e5, "0.8B": 1.18e6, "1.2B": 1.57e6}
    assert batches == pytest.approx(table_3, rel=0.005)


def test_batch_given_once_or_per_scale():
    axes = Axes(scale=[TINY, Shape(d_h=64, layers=4)])
    (one, other) = plan_runs(study(axes=axes, optimization=Optimization(batch_tokens=512)))
    assert (one.batch_tokens, other.batch_tokens) == (512, 512)
    given_one = Optimization(batch_tokens={"d32x4": 512})
    (one, other) = plan_runs(study(axes=axes, optimization=given_one))
    assert one.batch_tokens == 512
    assert other.batch_tokens > 512


def test_tokens_per_parameter():
    (run,) = plan_runs(study(tokens=None, tokens_per_parameter=100.0))
    assert abs(run.tokens - 100 * run.parameters) <= run.batch_tokens / 2


def test_phases_in_steps():
    phases = Optimization(batch_tokens=2048, warmup_tokens=1, decay_tokens="100K")
    (run,) = plan_runs(study(optimization=phases))
    assert (run.steps, run.warmup_steps, run.decay_steps) == (586, 1, 49)
    (run,) = plan_runs(study(optimization=Optimization(batch_tokens=2048)))
    assert (run.warmup_steps, run.decay_steps) == (6, 0)  # 1 %


@pytest.mark.parametrize(
    ("checkpoints", "steps"),
    [
        (Checkpoints(count=4), [25, 50, 75, 100]),
        (Checkpoints(count=1), [100]),
        (Checkpoints(count=3, first_tokens=100), [10, 55, 100]),
        (Checkpoints(count=3, first_tokens=10, spacing="log"), [1, 10, 100]),
        (Checkpoints(count=5, first_tokens=10, spacing="log"), [1, 3, 10, 32, 100]),
        (Checkpoints(tokens=[10, 205, 996]), [1, 20, 100]),
        (Checkpoints(tokens=[10, 500]), [1, 50, 100]),  # the end is always one
    ],
)
def test_checkpoint_steps(checkpoints, steps):
    assert checkpoint_steps(checkpoints, steps=100, batch_tokens=10) == steps


@given(st.data())
def test_spaced_checkpoints_are_count_increasing_and_end_the_run(data):
    steps = data.draw(st.integers(1, 3000))
    count = data.draw(st.integers(1, min(steps, 300)))
    first = data.draw(st.none() | st.integers(1, 10 * (steps - count + 1)))
    spacing = data.draw(st.sampled_from(["linear", "log"]))
    checkpoints = Checkpoints(count=count, spacing=spacing, first_tokens=first)
    found = checkpoint_steps(checkpoints, steps, batch_tokens=10)
    assert len(found) == count
    assert found == sorted(set(found))
    assert 1 <= found[0] <= found[-1] == steps


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 10**12),
    batch=st.none() | st.integers(1, 64).map(lambda n: n * 256),
    shards=st.integers(1, 8),
    warmup=st.none() | st.integers(0, 10**6),
    count=st.integers(1, 50),
)
def test_every_plan_is_whole_batches_or_an_explained_refusal(tokens, batch, shards, warmup, count):
    made = study(
        tokens=tokens,
        optimization=Optimization(batch_tokens=batch, warmup_tokens=warmup),
        checkpoints=Checkpoints(count=count),
        resources=Resources(shards=shards),
    )
    try:
        (run,) = plan_runs(made)
    except DefinitionError as error:
        assert "(run relu-d32x4-wd8-s0)" in str(error)  # noqa: PT017 - both outcomes are right
        return
    assert run.tokens == run.steps * run.batch_sequences * 256
    assert abs(run.tokens - tokens) <= run.batch_tokens / 2
    assert run.batch_sequences % shards == 0
    assert run.warmup_steps + run.decay_steps <= run.steps
    assert run.checkpoint_steps[-1] == run.steps


def test_problems_of_a_study_made_in_python_name_their_keys():
    axes = Axes(scale=[Shape(d_h=32, layers=4, heads=3), "0.1B"])
    with pytest.raises(DefinitionError) as caught:
        plan_runs(study(axes=axes, tokens="1B", resources=Resources(shards=3)))
    assert str(caught.value).splitlines() == [
        "axes.scale[0].heads: must divide d_h = 32 into heads of even size; "
        "allowed for 32: 1, 2, 4, 8, 16",
        "resources.shards: must divide the global batch of 1280 sequences: "
        "[1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64] (run relu-0.1B-wd48-s0)",
    ]


def test_costs_are_what_the_formulas_say():
    (cost,) = plan(study(optimization=Optimization(batch_tokens=2048)), utilization=0.5).costs
    run = cost.run
    assert cost.embedding_parameters == 257 * 32
    per_token = 6 * (47_392 + 257 * 32) + 6 * 4 * 32 * 256
    assert cost.flops == per_token * run.tokens == training_flops(run, 257)
    assert cost.gpu_hours == pytest.approx(cost.flops / (0.5 * 312e12) / 3600)
    assert cost.checkpoint_bytes == 20 * 12 * (47_392 + 257 * 32)
    assert 0 < cost.table_bytes < 5e6


def test_totals_and_json_are_the_sums():
    made = plan(load_study("demo"))
    document = made.as_json()
    assert document["total"]["runs"] == len(document["runs"]) == 8
    for key in ("tokens", "flops", "gpu_hours", "checkpoint_bytes", "table_bytes"):
        assert document["total"][key] == sum(row[key] for row in document["runs"])


def test_utilization_is_a_share():
    for wrong in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(DefinitionError, match="utilization"):
            plan(study(), utilization=wrong)


def test_the_ratios_of_width_depth_meet_0_1b():
    runs = plan_runs(load_study("width_depth"))
    assert len(runs) == 9
    assert all(run.parameters == pytest.approx(1.08e8, rel=0.01) for run in runs)
    ratios = [run.d_h / run.layers for run in runs]
    assert ratios == sorted(ratios)
    assert (round(ratios[0]), round(ratios[-1])) == (6, 384)
    assert any(ratio == pytest.approx(1024 / 9) for ratio in ratios)


def test_the_demo_compares_models_of_one_size():
    sizes = {run.id: run.parameters for run in plan_runs(load_study("demo"))}
    trio = [sizes["relu-d34x12-wd2.8-s0"], sizes["relu-d48x6-wd8-s0"], sizes["relu-d68x3-wd23-s0"]]
    assert max(trio) / min(trio) < 1.01


@pytest.mark.parametrize("name", [n for n in preset_names() if n not in ("quickstart", "demo")])
def test_head_comments_state_the_cost(name):
    text = (Path(__file__).parents[3] / f"study/presets/{name}.yaml").read_text()
    hours = float(re.search(r"about (\d+) A800 hours at 40 %", text)[1])
    terabytes = float(re.search(r"([\d.]+) TB of\s+(# )?checkpoints", text)[1])
    total = plan(load_study(name)).total
    assert total["gpu_hours"] == pytest.approx(hours, rel=0.02)
    assert total["checkpoint_bytes"] == pytest.approx(terabytes * 1e12, rel=0.05)
