from __future__ import annotations

import json

import numpy as np
import pytest
from advice_stores import advised_store, measure, set_state

from sparsing.analysis.evidence.evidence import weigh
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.forecasting.advice import advise
from sparsing.analysis.forecasting.extension import further_checkpoints
from sparsing.analysis.forecasting.run_advice import RunAdvice
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.laws.published import NOISE, PUBLISHED
from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.analysis.refitting.newest import newest_fits
from sparsing.analysis.refitting.refit import refit
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import Run, plan, plan_runs
from sparsing.study.store.study_store import StudyStore


def published(name: str):
    """The law of one of the paper's runs."""
    law = PAPER_LAWS[name.partition("_")[2]]
    return lambda billions: law.value(billions, **PUBLISHED[name])


def only(store: StudyStore, **wish) -> RunAdvice:
    (advice,) = advise(store, **wish).runs
    return advice


def test_a_run_stops_once_its_limit_is_known(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"))
    (cost,) = plan(store.study).costs
    advice = only(store)
    assert advice.verdict == "stop"
    assert advice.low < PUBLISHED["0.4b_silu"]["A0"] < advice.high
    assert advice.half_width == pytest.approx((advice.high - advice.low) / 2 / advice.value)
    assert advice.half_width < 0.1
    assert advice.saved_gpu_hours == pytest.approx(cost.gpu_hours / 2, rel=0.01)
    assert only(store, precision=advice.half_width * 1.001).verdict == "stop"
    assert only(store, precision=advice.half_width * 0.999).verdict == "extend"
    absolute = (advice.high - advice.low) / 2
    assert only(store, precision=absolute * 1.001, absolute=True).verdict == "stop"
    assert only(store, precision=absolute * 0.999, absolute=True).verdict == "extend"


def test_a_run_that_ended_is_done(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=40)
    set_state(store, plan_runs(store.study)[0], "done")
    advice = only(store)
    assert (advice.verdict, advice.state, advice.saved_gpu_hours) == ("done", "done", None)


def test_an_extension_gives_the_precision_that_it_promises(tmp_path) -> None:
    """Runs that really go on, along their true law, are then known as precisely as wished."""
    axes = {"activation": ["silu"], "scale": ["0.4B"], "seed": [0, 1, 2, 3]}
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=12, axes=axes)
    advised, wish = advise(store, precision=0.007), Wish(precision=0.007)
    kept = 0
    for seed, (run, advice) in enumerate(zip(plan_runs(store.study), advised.runs, strict=True)):
        assert advice.verdict == "extend"
        assert advice.tokens < advice.to_tokens_low <= advice.to_tokens
        further = further_checkpoints(store.study, run, advice.tokens)
        at = further[further <= advice.to_tokens]
        assert at[-1] == advice.to_tokens
        reached = wish.of(longer(store, run, published("0.4b_silu"), at, 8e-4, seed))
        kept += 0.4 < wish.miss(reached) < 1.6
    assert kept >= 3


def longer(store, run: Run, curve, further, noise: float, seed: int):
    """The evidence of a run that really went on, along its true law."""
    rows = store.scan("fits", run.id).collect().row(-1, named=True)
    errors = np.random.default_rng([7, seed]).normal(0, noise, len(further))
    tokens = np.concatenate([rows["rows_tokens"], further])
    ratios = np.concatenate([rows["rows_activation_ratio"], curve(further / 1e9) + errors])
    return weigh(fit_curve(tokens, ratios, law=run.activation, drop=0))


def test_an_extension_costs_what_its_tokens_cost(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=12)
    (cost,) = plan(store.study).costs
    advice = only(store, precision=0.01)
    share = (advice.to_tokens - advice.tokens) / cost.run.tokens
    assert advice.gpu_hours == pytest.approx(cost.gpu_hours * share)
    assert advice.to_tokens < cost.run.tokens
    assert "inside the plan" in advice.reason
    further = only(store, precision=0.002)
    assert further.to_tokens > cost.run.tokens
    assert "times the plan" in further.reason


def test_what_no_plan_reaches_cannot_be_said(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=12)
    advice = only(store, precision=1e-5)
    assert (advice.verdict, advice.to_tokens, advice.gpu_hours) == ("cannot say", None, None)
    assert "not expected within 16 times the plan" in advice.reason


def test_constant_curves_and_too_few_points_say_nothing(tmp_path) -> None:
    constant = advised_store(tmp_path, lambda run: lambda at: np.full(len(at), 0.3))
    advice = only(constant)
    assert advice.verdict == "cannot say"
    assert "do not rise beyond their noise" in advice.reason
    few = advised_store(tmp_path / "few", lambda run: published("0.4b_silu"), count=3)
    advice = only(few)
    assert (advice.verdict, advice.half_width) == ("cannot say", None)
    assert "3 points for 3 parameters" in advice.reason


def test_a_run_without_a_fit(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: None)
    assert advise(store).runs == ()
    (run,) = plan_runs(store.study)
    set_state(store, run, "training")
    advice = only(store)
    assert (advice.verdict, advice.law) == ("cannot say", None)
    assert "no fit yet" in advice.reason


def test_a_failed_run_says_why(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=12)
    set_state(store, plan_runs(store.study)[0], "failed", reason="out of memory")
    advice = only(store, precision=0.003)
    assert advice.verdict == "extend"
    assert "the run failed: out of memory" in advice.notes


def test_a_run_whose_law_is_refused_never_stops(tmp_path) -> None:
    store = advised_store(
        tmp_path,
        lambda run: lambda at: 0.4 - 0.2 * np.exp(-at / 40),
        count=40,
        noise=1e-4,
    )
    advice = only(store)
    assert advice.law_verdict == "refused"
    assert "exponential" in advice.law_verdict_reason
    assert advice.verdict not in ("stop", "done")


def test_laws_that_say_otherwise_keep_a_run_from_stopping(tmp_path) -> None:
    store = advised_store(
        tmp_path,
        lambda run: published("0.2b_relu"),
        count=50,
        noise=NOISE["relu"],
        axes={"activation": ["relu"], "scale": ["0.2B"]},
        checkpoints={"count": 100},
    )
    advice = only(store)
    (row,) = newest_fits(store).to_dicts()
    low, high = json.loads(row["intervals"])["A0"]
    assert (high - low) / 2 < 0.1 * PUBLISHED["0.2b_relu"]["A0"]  # by its own law alone
    assert advice.half_width > 0.1
    assert advice.verdict in ("extend", "cannot say")
    assert advice.law_verdict == "undecided"


def test_a_ratio_and_the_tokens_to_one_can_be_wished_for(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"))
    at = only(store, tokens=3e11)
    truth = float(published("0.4b_silu")(300.0))
    assert at.verdict == "stop"
    assert at.low < truth < at.high
    tokens = only(store, ratio=0.37)
    assert tokens.verdict == "stop"
    assert tokens.low < (0.42 / 0.015) ** (1 / 1.03) * 1e9 < tokens.high
    never = only(store, ratio=0.5)
    assert (never.verdict, never.value, never.half_width) == ("stop", None, 0.0)
    assert only(store, tokens=8e12).half_width is None  # 131 times the tokens measured
    assert "no law within the interval reaches it" in never.reason


def test_the_same_store_gives_the_same_advice(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: published("0.4b_silu"), count=12)
    again = StudyStore.open(tmp_path, store.study_id)
    assert advise(store, precision=0.003) == advise(again, precision=0.003)


def test_more_points_renew_the_advice(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: None)
    (run,) = plan_runs(store.study)
    measure(store, run, published("0.4b_silu"), count=6, noise=8e-4)
    refit(store, code_version="test")
    told = []
    advice = advise(store, precision=0.01, progress=told.append)
    assert told == [run.id]
    assert advice.runs[0].tokens == run.checkpoint_steps[5] * run.batch_tokens


@pytest.mark.parametrize(
    "wish",
    [
        {"precision": 0},
        {"precision": float("nan")},
        {"ratio": 1.5},
        {"tokens": -1},
        {"tokens": 1e9, "ratio": 0.1},
        {"scale": "big"},
    ],
)
def test_wishes_that_cannot_be(tmp_path, wish) -> None:
    store = advised_store(tmp_path, lambda run: None)
    with pytest.raises(DefinitionError):
        advise(store, **wish)


def test_checkpoints_go_on_as_they_were_spaced(tmp_path) -> None:
    changes = {"optimization": {"decay_tokens": "12B"}, "checkpoints": {"count": 10}}
    linear = advised_store(tmp_path, lambda run: None, **changes).study
    (run,) = plan_runs(linear)
    at = further_checkpoints(linear, run, 0.5 * run.tokens)
    assert at[0] == run.checkpoint_steps[5] * run.batch_tokens
    steps = np.diff(at)
    assert steps.max() < 1.001 * steps.min()  # also over the decay, which an extension has not
    assert 15.5 * run.tokens < at[-1] <= 16 * run.tokens
    log = {"checkpoints": {"count": 10, "spacing": "log", "first_tokens": "1B"}}
    spaced = advised_store(tmp_path, lambda run: None, **log).study
    at = further_checkpoints(spaced, plan_runs(spaced)[0], 0)
    assert len(at) > 10
    assert at[1:] / at[:-1] == pytest.approx(122 ** (1 / 9), rel=0.01)


@pytest.mark.parametrize("count", [5, 6, 7])
def test_few_points_of_a_law_with_many_parameters(tmp_path, count: int) -> None:
    """Where AICc exists for laws with fewer parameters only, nothing is claimed."""
    relu = {"activation": ["relu"], "scale": ["0.4B"]}
    store = advised_store(tmp_path, lambda run: published("0.4b_relu"), count=count, axes=relu)
    advice = only(store)
    assert advice.verdict in ("extend", "cannot say")
    assert advice.half_width is None or advice.half_width > 0.1
