"""`import sparsing`: what it loads, what it gives, how results show themselves, its errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from report_stores import finished_store

import sparsing


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    finished_store(folder)
    return folder


@pytest.fixture(scope="module")
def study(root):
    return sparsing.open("small", store=root)


def test_importing_it_loads_no_large_library():
    code = (
        "import sys, sparsing\ndir(sparsing)\n"
        "heavy = 'torch', 'ray', 'scipy', 'polars', 'pyarrow', 'pydantic', 'numpy', 'click'\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_name_is_there_and_no_other():
    for name in sparsing.__all__:
        assert getattr(sparsing, name) is not None
    assert set(sparsing.__all__) <= set(dir(sparsing))
    with pytest.raises(AttributeError):
        _ = sparsing.measre


def test_a_study_by_name_prefix_and_path(root, study):
    assert study.id.startswith("small-")
    for selector in (study.id, study.id[:-2], root / study.id):
        assert sparsing.open(selector, store=root).id == study.id


def test_the_store_of_the_environment_is_the_default(root, study, monkeypatch):
    monkeypatch.setenv("SPARSING_STORE", str(root))
    assert sparsing.open("small").id == study.id
    assert [row["study"] for row in sparsing.studies().rows] == [study.id]


def test_runs_have_their_configuration_and_newest_values(study):
    frame = study.runs.frame
    assert frame["run"].to_list() == [run.run.id for run in study.status.runs]
    assert set(frame["activation"]) == {"relu", "silu"}
    assert frame["state"].to_list() == ["done"] * frame.height
    means = study.table("sparsity").filter(pl.col("layer").is_null(), pl.col("domain").is_null())
    newest = means.sort("tokens").collect()
    for run, ratio in frame.select("run", "activation_ratio").iter_rows():
        assert ratio == newest.filter(run=run)["activation_ratio"][-1]


def test_a_join_with_configurations_counts_no_step_twice(study):
    steps = study.table("steps").collect().height
    joined = study.query("SELECT COUNT(*) AS n FROM steps JOIN configurations USING (run)")
    assert joined["n"].to_list() == [steps]


def test_answers_are_the_documents_of_the_command_line(root, study):
    def said(*words: str) -> dict:
        command = [sys.executable, "-m", "sparsing", *words, "--store", str(root), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    run = study.runs["run"][0]
    assert json.loads(json.dumps(study.fits.as_dict(), default=str)) == said("laws", "small")
    assert study.predict(run, tokens=8e11).as_dict() == said(
        "predict", "small", run, "--tokens", "8e11"
    )
    assert study.advise().as_dict() == said("advise", "small")


def test_results_show_themselves(study):
    results = [
        *(study, study.status, study.runs, study.fits, study.advise()),
        study.predict(study.runs["run"][0], tokens="1B"),
        sparsing.plan("quickstart"),
    ]
    for result in results:
        assert len(repr(result).splitlines()) > 1
        assert "<table>" in result._repr_html_()


@pytest.mark.parametrize(
    "name", ["activation_ratio", "training_loss", "validation_loss", "layers", "domains"]
)
def test_figures_are_pictures(study, name, tmp_path):
    picture = study.figure(name)
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert picture.save(tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_a_fit_of_any_curve_shows_itself_and_answers():
    tokens = np.linspace(8e9, 272e9, 34)
    ratio = np.exp(-7.97e-3 * (tokens / 1e9) ** 1.01 - 3.49) + 0.0721
    fitted = sparsing.fit(tokens, ratio, law="relu")
    assert fitted.parameters["A0"] == pytest.approx(0.0721, rel=0.01)
    assert fitted.limit.low <= 0.0721 <= fitted.limit.high
    assert "A0" in repr(fitted)
    assert fitted.verdict.word in repr(fitted)
    assert fitted.predict(4e11).value == pytest.approx(0.07313, rel=0.01)
    assert fitted.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_mapping_is_a_definition_with_all_its_problems_at_once():
    content = {
        "name": "mine",
        "axes": {"scale": [{"d_h": 32, "layers": 4}]},
        "tokens": "1M",
        "data": {"domains": {"code": {"kind": "python-stdlib"}}},
    }
    assert sparsing.plan(content).total["tokens"] > 0
    assert isinstance(sparsing.plan(sparsing.Study.model_validate(content)).as_dict(), dict)
    with pytest.raises(sparsing.DefinitionError) as wrong:
        sparsing.plan(content | {"tokenz": 1, "seed": 2})
    assert len(str(wrong.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda study, root: sparsing.open("tall", root), "NotFoundError", "unknown_study"),
        (lambda study, root: study.table("stepps"), "DefinitionError", "unknown_table"),
        (lambda study, root: study.query("SELECT"), "DefinitionError", "sql_syntax"),
        (lambda study, root: study.predict("relu", tokens=1), "NotFoundError", "unknown_run"),
        (lambda study, root: study.predict("relu"), "DefinitionError", "either_or"),
        (lambda study, root: study.figure("loss"), "DefinitionError", "unknown_figure"),
        (lambda study, root: sparsing.plan("quickstrat"), "NotFoundError", "unknown_preset"),
        (lambda study, root: sparsing.fit([1], [0.5, 0.4]), "DefinitionError", "wrong_input"),
        (
            lambda study, root: sparsing.measure("x", metric="tpk"),
            "DefinitionError",
            "unknown_metric",
        ),
    ],
)
def test_errors_are_of_one_family_and_have_codes(study, root, call, kind, code):
    with pytest.raises(sparsing.SparsingError) as raised:
        call(study, root)
    assert type(raised.value).__name__ == kind
    assert raised.value.code == code


def test_frames_are_of_polars(study):
    assert isinstance(study.table("steps"), pl.LazyFrame)
    assert isinstance(study.query("SELECT run FROM runs"), pl.DataFrame)
