from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_stores import small_study, write_measurements

from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.analysis.refitting.law_points import read_law_points
from sparsing.analysis.refitting.newest import newest_fits, read_curves
from sparsing.analysis.refitting.refit import refit
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

RUN, OTHER = plan_runs(small_study())[0], plan_runs(small_study())[2]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore.create(tmp_path, small_study())


def test_the_forecast_did_not_know_the_point_and_the_fit_did(store):
    for count in (9, 10):
        write_measurements(store, RUN, count=count)
        refit(store, code_version="test")
    fits = store.scan("fits", RUN.id).collect().to_dicts()
    assert len(fits) == 2
    newest = read_curves(store)[RUN.id].tokens[-1]
    values = [
        float(PAPER_LAWS[f["law"]].value(newest / 1e9, **json.loads(f["parameters"]))) for f in fits
    ]
    point = read_law_points(store, [RUN.id, OTHER.id])[RUN.id]
    assert (point.forecast, point.fitted) == (pytest.approx(values[0]), pytest.approx(values[1]))
    assert point.forecast != point.fitted
    assert point.fitted == pytest.approx(read_curves(store)[RUN.id].activation_ratio[-1], abs=0.01)


def test_without_an_earlier_fit_there_is_no_forecast(store):
    write_measurements(store, OTHER)
    refit(store, code_version="test")
    points = read_law_points(store, [RUN.id, OTHER.id])
    assert set(points) == {OTHER.id}
    assert points[OTHER.id].forecast is None
    assert points[OTHER.id].fitted is not None


def test_a_curve_of_another_stage_is_no_forecast(store):
    write_measurements(store, RUN, count=9, stage="live")
    refit(store, code_version="test")
    write_measurements(store, RUN, stage="final")
    refit(store, code_version="test")
    assert newest_fits(store, RUN.id)["stage"].to_list() == ["final"]
    assert read_law_points(store, [RUN.id])[RUN.id].forecast is None
