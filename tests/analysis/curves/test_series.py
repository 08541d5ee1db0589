from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from sparsing.analysis.curves.errors import UnclearError
from sparsing.analysis.curves.series import groups, keys_of, without_repeats

TOKENS = np.array([2.0, 4, 6, 8, 10]) * 1e9
FIVE = ["a"] * 5 + ["b"] * 5
RATIO = np.array([0.28, 0.25, 0.22, 0.20, 0.19])


def table(runs: int = 2, **columns: object) -> tuple[pl.DataFrame, np.ndarray]:
    return pl.DataFrame(columns), np.tile(TOKENS, runs)


def test_columns_that_tell_series_apart() -> None:
    many, tokens = table(run=FIVE, seed=[0.0] * 5 + [1.0] * 5, loss=list(range(10)))
    assert keys_of(many, tokens) == ["run"]
    crossed, tokens = table(4, what=FIVE * 2, seed=[0.0] * 10 + [1.0] * 10)
    assert keys_of(crossed, tokens) == ["seed", "what"]
    assert [label for label, _ in groups(crossed, ["seed", "what"])] == [
        ("0", "a"), ("0", "b"), ("1", "a"), ("1", "b"),
    ]  # fmt: skip


def test_columns_that_change_along_a_curve_divide_nothing() -> None:
    phases, tokens = table(1, phase=["warmup", "warmup", "stable", "stable", "stable"])
    assert keys_of(phases, tokens) == []
    noted, tokens = table(2, remark=[None, *["early"] * 2, "late", "late"] * 2, what=FIVE)
    assert keys_of(noted, tokens) == ["what"]
    times = ["2026-01-01"] * 5 + ["2026-01-02"] * 5
    dates, tokens = table(2, written_at=times, what=times, host=["x"] * 5 + ["y"] * 5)
    assert keys_of(dates, tokens) == []
    each, tokens = table(1, id=list("abcde"))
    assert keys_of(each, tokens) == []


def test_runs_with_tokens_of_their_own_are_told_apart_by_name() -> None:
    frame = pl.DataFrame({"model": ["a"] * 5 + ["b"] * 5})
    assert keys_of(frame, np.append(TOKENS, TOKENS + 1e12)) == ["model"]


def test_after_a_resume_the_newest_values_count() -> None:
    tokens = np.concatenate([TOKENS, [7e9, 8e9, 10e9, 12e9]])
    ratio = np.concatenate([RATIO, [0.21, 0.205, 0.195, 0.185]])
    series = without_repeats(tokens, ratio, None, None)
    np.testing.assert_array_equal(series.tokens, np.array([2, 4, 6, 7, 8, 10, 12]) * 1e9)
    np.testing.assert_array_equal(series.ratio[3:], [0.21, 0.205, 0.195, 0.185])
    assert series.notes


def test_repeats_without_a_resume_are_means() -> None:
    weights = np.tile([1.0, 3.0], 5)
    series = without_repeats(
        np.repeat(TOKENS, 2), np.repeat(RATIO, 2) + weights / 1e3, weights, None
    )
    np.testing.assert_allclose(series.ratio, RATIO + 0.0025)
    np.testing.assert_allclose(series.weights, 4)
    assert series.notes


def test_copies_add_no_weight() -> None:
    for many in (np.tile, np.repeat):
        series = without_repeats(many(TOKENS, 10), many(RATIO, 10), None, None)
        np.testing.assert_array_equal(series.ratio, RATIO)


def test_order_of_rows_is_no_matter() -> None:
    for order in (slice(None, None, -1), [2, 0, 4, 1, 3]):
        series = without_repeats(TOKENS[order], RATIO[order], None, None)
        np.testing.assert_array_equal(series.tokens, TOKENS)
        np.testing.assert_array_equal(series.ratio, RATIO)


@pytest.mark.parametrize(
    ("tokens", "ratio"),
    [
        (np.append(TOKENS, TOKENS), np.append(RATIO, RATIO + 0.01)),  # begins again
        (np.append(TOKENS, TOKENS + 1e9), np.append(RATIO, RATIO)),
        (np.append(TOKENS, TOKENS[2:] + 1e9), np.append(RATIO, RATIO[2:])),  # goes back, no repeat
        (np.repeat(TOKENS, 2), np.repeat(RATIO, 2) * np.tile([1, 2], 5)),  # values far apart
    ],
)
def test_what_may_be_several_series_is_refused(tokens, ratio) -> None:
    with pytest.raises(UnclearError) as refused:
        without_repeats(tokens, ratio, None, None)
    assert refused.value.code == "several series"
    for repeats in ("newest", "mean"):
        assert len(without_repeats(tokens, ratio, None, repeats).tokens) >= 5
