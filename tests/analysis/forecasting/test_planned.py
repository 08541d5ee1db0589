from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from advice_stores import advised_store, planned_study
from scipy.stats import t as student

from sparsing.analysis.forecasting.advice import advise
from sparsing.analysis.forecasting.new_runs import cost_at, new_runs, shape_of
from sparsing.analysis.forecasting.planned import families, predict_planned
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.laws.published import PUBLISHED
from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.study.definition.shapes import NAMED_SCALES, model_shape
from sparsing.study.plan.runs import Run, plan, plan_runs

SCALES = ["0.1B", "0.2B", "0.4B", "0.8B", "1.2B", "2.4B"]
LIMITS = {"0.2B": 0.390, "0.4B": 0.385, "0.8B": 0.383, "1.2B": 0.382}


def published(run: Run):
    """The published SiLU law of a run's scale; None for the largest, which has not begun."""
    coefficients = PUBLISHED.get(f"{run.scale.lower()}_silu")
    law = PAPER_LAWS["silu"]
    return coefficients and (lambda at: law.value(at, **coefficients))


def known_limits(study, seeds: int = 1) -> dict[str, float]:
    runs = [run for run in plan_runs(study) if run.seed < seeds]
    return {run.id: LIMITS[run.scale] for run in runs if run.scale in LIMITS}


def test_the_limit_of_a_planned_run_and_what_to_run_next(tmp_path) -> None:
    axes = {"activation": ["silu"], "scale": SCALES}
    store = advised_store(tmp_path, published, axes=axes)
    advice = advise(store, scale="5B")
    assert [each.verdict for each in advice.runs] == ["stop"] * 5
    planned, larger = advice.planned
    assert (planned.run, planned.verdict) == ("silu-2.4B-wd58-s0", "predicted")
    assert planned.low < planned.value < planned.high
    assert planned.low < 0.381 < planned.high  # of the published laws' own trend
    assert "beyond the scales measured" in planned.reason
    assert larger.gpu_hours > planned.gpu_hours
    (family,) = advice.new_runs
    assert family.target == 5e9
    assert {run.kind for run in family.runs} == {"planned", "another seed", "between", "beyond"}
    gains = [run.narrowing_per_gpu_hour for run in family.runs]
    assert gains == sorted(gains, reverse=True)
    for run in family.runs:
        assert 0 < run.half_width < family.half_width
        gain = (family.half_width - run.half_width) / run.gpu_hours
        assert run.narrowing_per_gpu_hour == pytest.approx(gain)


def test_too_few_scales_say_how_many_are_needed(tmp_path) -> None:
    axes = {"activation": ["silu"], "scale": ["0.2B", "0.4B", "0.8B"]}
    store = advised_store(
        tmp_path, lambda run: published(run) if run.scale != "0.8B" else None, axes=axes
    )
    advice = advise(store)
    (planned,) = advice.planned
    assert (planned.verdict, planned.value) == ("cannot say", None)
    assert "needs 3 scales whose limit is known to 10 %; known: 2 of 3" in planned.reason
    (family,) = advice.new_runs
    assert family.runs == ()
    assert family.reason.startswith("cannot say: the law silu over scales needs 3 scales")
    (untold,) = advise(store, ratio=0.3).new_runs
    assert "speak of ratios, not of tokens" in untold.reason


def test_a_run_alone_has_no_law_over_others(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: None)
    (planned,) = advise(store).planned
    assert planned.reason.startswith("no other run differs from it")
    assert planned.gpu_hours > 0


def test_another_seed_narrows_as_the_theory_of_the_line_says() -> None:
    """One more point on a line: the half width is t s sqrt(1/n + (x - mean)^2 / Sxx)."""
    study = planned_study(axes={"activation": ["silu"], "scale": list(LIMITS), "seed": [0, 1]})
    costs = {cost.run.id: cost for cost in plan(study).costs}
    rng = np.random.default_rng(0)
    known = {run: value + rng.normal(0, 2e-3) for run, value in known_limits(study, 2).items()}
    (family,) = families([cost.run for cost in costs.values()], known)
    found = new_runs(study, family, costs, set(costs), Wish())
    at = np.log([run.parameters for run in family.runs])
    values = np.array([known[run.id] for run in family.runs])

    def half_width(places, deviation: float) -> float:
        x = np.log(found.target) - places.mean()
        away = x**2 / ((places - places.mean()) ** 2).sum()
        quantile = student.ppf(0.975, len(places) - 2)
        return quantile * deviation * np.sqrt(1 / len(places) + away)

    residuals = values - np.polyval(np.polyfit(at, values, 1), at)
    deviation = np.sqrt((residuals**2).sum() / (len(at) - 2))
    assert found.half_width == pytest.approx(half_width(at, deviation))
    seeds = [run for run in found.runs if run.kind == "another seed"]
    assert {run.run[-3:] for run in seeds} == {"-s2"}
    for run in seeds:
        shape = next(each for each in family.runs if run.run.startswith(each.id[:-3]))
        expected = half_width(np.append(at, np.log(shape.parameters)), deviation)
        assert run.half_width == pytest.approx(expected, rel=0.2)


def test_the_limit_by_the_width_depth_ratio() -> None:
    ratios = [6, 14.2, 27.8, 48, 74, 113.8, 209, 273]
    axes = {"activation": ["relu"], "scale": ["0.1B"], "width_depth_ratio": ratios}
    study = planned_study(axes=axes)
    costs = plan(study).costs
    rng = np.random.default_rng(1)
    known = {
        cost.run.id: 0.08
        - 4e-4 * max(0.0, 114 - cost.run.d_h / cost.run.layers)
        + rng.normal(0, 3e-4)
        for cost in costs
        if cost.run.d_h / cost.run.layers < 250
    }
    (family,) = families([cost.run for cost in costs], known)
    assert family.kind.varies == "width-depth ratio"
    planned = predict_planned(costs[-1], [family], Wish())
    assert planned.verdict == "predicted"
    assert planned.low < 0.08 < planned.high
    found = new_runs(study, family, {cost.run.id: cost for cost in costs}, set(known), Wish())
    assert {"planned", "another seed", "beyond"} <= {run.kind for run in found.runs}
    few = replace(family, known=dict(list(known.items())[:3]))
    assert "needs 4 width-depth ratios" in few.lacking(Wish())
    assert few.fit() is None


def test_families_hold_runs_that_differ_in_one_thing() -> None:
    shapes = [{"d_h": 32, "layers": 4}, {"d_h": 48, "layers": 6}, {"d_h": 64, "layers": 8}]
    deep_and_wide = [{"d_h": 34, "layers": 12}, {"d_h": 68, "layers": 3}]
    study = planned_study(
        axes={"activation": ["relu", "silu"], "scale": shapes},
        runs=[{"activation": "relu", "scale": shape} for shape in deep_and_wide],
        tokens=10**9,
        tokens_per_parameter=None,
    )
    found = families(plan_runs(study), {})
    assert [(family.name, len(family.runs)) for family in found] == [
        ("relu over scales", 3),
        ("silu over scales", 3),
        ("relu over width-depth ratios", 3),
    ]


@pytest.mark.parametrize("name", NAMED_SCALES)
def test_a_shape_is_near_its_count_and_ratio(name: str) -> None:
    for ratio in (20.0, 52.0, 130.0):
        shape = model_shape(shape_of(NAMED_SCALES[name].parameters, ratio))
        assert shape.parameters == pytest.approx(NAMED_SCALES[name].parameters, rel=0.1)
        assert shape.width_depth_ratio == pytest.approx(ratio, rel=0.2)


def test_a_new_run_has_the_studys_settings() -> None:
    batch = {"0.4B": 4096 * 64, "0.8B": 4096 * 128}
    study = planned_study(
        axes={"activation": ["silu"], "scale": list(batch)},
        optimization={"batch_tokens": batch},
        resources={"shards": 64},
    )
    (family,) = families(plan_runs(study), {})
    cost = cost_at(study, family, 1.5e9)
    assert cost.run.parameters == pytest.approx(1.5e9, rel=0.1)
    assert cost.run.tokens == pytest.approx(270 * cost.run.parameters, rel=0.01)
    assert len(cost.run.checkpoint_steps) == 40
