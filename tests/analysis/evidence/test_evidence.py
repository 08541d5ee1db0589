from __future__ import annotations

import numpy as np
import pytest
from curves import measured_folder, synthetic

from sparsing.analysis.bench.hard_curves import KINDS, hard_curve
from sparsing.analysis.evidence.evidence import weigh
from sparsing.analysis.evidence.holdout import holdout
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.laws.published import MEASURED, PUBLISHED, published_curve
from sparsing.study.errors import DefinitionError


def evidence_of(name: str, **how):
    return weigh(fit_curve(*synthetic(name), drop=0), **how)


@pytest.mark.parametrize("name", ["0.8b_relu", "0.4b_silu"])
def test_the_limit_is_wider_than_one_law_says_and_holds_the_truth(name) -> None:
    evidence = evidence_of(name)
    limit = evidence.limit()
    low, high = evidence.fit.intervals["A0"]
    assert limit.high - limit.low > high - low
    assert limit.low < PUBLISHED[name]["A0"] < limit.high
    narrow = evidence.limit(0.5)
    assert limit.low < narrow.low < narrow.high < limit.high
    assert sum(each.weight for each in evidence.laws.kept) == pytest.approx(1.0)
    assert evidence.own.weight > 0


def test_a_limit_on_which_laws_disagree_is_open() -> None:
    tokens, ratios = synthetic("0.2b_relu")
    evidence = weigh(fit_curve(tokens[:12], ratios[:12], law="relu", drop=0))
    assert not evidence.limit().identified


def test_the_shared_error_is_in_the_limit_and_not_in_a_measurement_on_the_same_text() -> None:
    alone, shared = evidence_of("0.4b_silu"), evidence_of("0.4b_silu", shared_error=0.03)
    limit = shared.limit()
    assert (limit.high - limit.low) / 2 >= 1.95 * 0.03 * limit.value
    at = float(alone.last_tokens * 2)
    assert shared.predict(at) == alone.predict(at)
    assert shared.predict(at, measurement=False).high > alone.predict(at, measurement=False).high


def test_far_beyond_the_points_nothing_is_said() -> None:
    evidence = evidence_of("0.4b_silu")
    assert evidence.predict(evidence.last_tokens * 9).identified
    assert not evidence.predict(evidence.last_tokens * 11).identified
    assert evidence.extrapolation(evidence.last_tokens * 11) == pytest.approx(11)
    with pytest.raises(DefinitionError):
        evidence.predict(0)


def test_tokens_to_a_ratio() -> None:
    evidence = evidence_of("0.4b_silu")
    reached = evidence.tokens_to(0.37)
    truth = (0.42 / 0.015) ** (1 / 1.03) * 1e9
    assert reached.verdict == "reached"
    assert reached.low < truth < reached.high
    assert evidence.tokens_to(0.5).verdict == "never"
    assert evidence.tokens_to(evidence.limit().value).verdict == "cannot say"
    with pytest.raises(DefinitionError):
        evidence.tokens_to(1.5)


def test_the_verdict_on_a_law() -> None:
    assert evidence_of("0.4b_silu").verdict.word in ("holds", "undecided")
    billions = np.arange(1.0, 41.0)
    ratios = 0.4 - 0.2 * np.exp(-billions / 10) + np.random.default_rng(0).normal(0, 1e-4, 40)
    refused = weigh(fit_curve(billions * 1e9, ratios, law="silu", drop=0))
    assert refused.verdict.word == "refused"
    assert "exponential" in refused.verdict.reason
    few = weigh(fit_curve(billions[:4] * 1e9, ratios[:4], law="silu", drop=0))
    assert few.verdict.word == "cannot say"


def test_two_points_leave_nothing_to_say() -> None:
    evidence = weigh(fit_curve([1e9, 2e9], [0.3, 0.31], law="silu"))
    assert not evidence.answers
    assert not evidence.limit().identified
    assert evidence.predict(3e9) == (None, None, None)
    assert evidence.tokens_to(0.32).verdict == "cannot say"


@pytest.mark.parametrize("kind", ["hill", "shifted power", "AR 0.7", "noise shrinks", "two phases"])
def test_limits_hold_where_the_law_or_the_noise_is_another(kind) -> None:
    held = 0
    for seed in range(6):
        for base in ("0.4b_relu", "0.2b_silu"):
            curve = hard_curve(KINDS[kind], base, seed)
            limit = weigh(fit_curve(curve.tokens, curve.ratios, law=curve.law, drop=0)).limit()
            above = limit.low is None or limit.low <= curve.limit
            held += above and (limit.high is None or curve.limit <= limit.high)
    assert held >= 10


def test_noise_that_follows_itself_widens_the_limit() -> None:
    white, red = (
        [hard_curve(KINDS[kind], "0.4b_silu", seed) for seed in range(5)]
        for kind in ("true law", "AR 0.7")
    )
    found = [
        [weigh(fit_curve(c.tokens, c.ratios, law="silu", drop=0)).laws.noise.rho for c in curves]
        for curves in (white, red)
    ]
    assert np.median(found[0]) < 0.2 < np.median(found[1])


def test_bands_of_first_parts_hold_what_was_measured_later() -> None:
    """The published measurements where they are at hand, cut at each tenth from 30 to 80 %."""
    folder = measured_folder()
    if folder is None:
        pytest.skip("the measured curves are not here")
    inside: dict[float, list[bool]] = {0.95: [], 0.9: [], 0.8: []}
    for name in MEASURED:
        tokens, ratios = published_curve(name, folder)
        for cut in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            end = round(cut * len(tokens))
            evidence = weigh(fit_curve(tokens[:end], ratios[:end]))
            for level, found in inside.items():
                _, low, high = evidence.predict_many(tokens[end:], level=level)
                now = (low <= ratios[end:]) & (ratios[end:] <= high)
                found += now.tolist()
                assert level < 0.95 or now.mean() >= 0.8, (name, cut)
    assert np.mean(inside[0.95]) >= 0.92
    assert abs(np.mean(inside[0.9]) - 0.9) <= 0.06
    assert abs(np.mean(inside[0.8]) - 0.8) <= 0.06


def test_hold_out_says_how_wide_its_band_was() -> None:
    tokens, ratios = synthetic("0.8b_relu")
    evidence = weigh(fit_curve(tokens[:28], ratios[:28]))
    found = holdout(evidence, tokens[28:], ratios[28:])
    assert found["holdout_n"] == 12
    assert found["interval_coverage"] > 0.8
    assert 0 < found["holdout_mae"] < found["holdout_width"]
    assert holdout(evidence, tokens[:0], ratios[:0])["holdout_width"] is None
