"""Figures and tables of the paper from a store: all that it holds, and a remedy for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from figure_stores import RATIOS, SCALES, limit_of, paper_store
from report_stores import finished_store, small_study

from sparsing.analysis.figures.canvas import SIZES, drawn, save
from sparsing.analysis.figures.catalogue import CATALOGUE, chosen
from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.figure import Made, MissingFigure
from sparsing.analysis.figures.write import write_figures
from sparsing.study.commands.main import cli
from sparsing.study.errors import NotFoundError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

NEVER = {"3", "12", "table1", "table4", "table5", "table6", "decoding"}
"""What this version trains or evaluates nothing for."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    return paper_store(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def data(store) -> StudyData:
    return StudyData.read(store)


@pytest.fixture(scope="module")
def made(data) -> dict[str, Made]:
    found = {}
    for key, figure in CATALOGUE.items():
        if key not in NEVER:
            found[key] = figure.make(data)
    return found


def test_every_figure_that_can_be_is_there_with_its_data(made):
    for key, figure in made.items():
        assert all(len(frame) for frame in figure.data.values()), key
        assert bool(figure.panels) != key.startswith("table"), key


@pytest.mark.parametrize("key", sorted(NEVER))
def test_what_is_missing_is_said(data, key):
    with pytest.raises(MissingFigure):
        CATALOGUE[key].make(data)


@pytest.mark.parametrize(
    ("key", "remedy"), [("5", "width_depth_ratio"), ("7", "axes.scale"), ("11", "axes.scale")]
)
def test_a_study_of_one_shape_is_told_what_to_add(tmp_path, key, remedy):
    data = StudyData.read(finished_store(tmp_path))
    with pytest.raises(MissingFigure) as why:
        CATALOGUE[key].make(data)
    assert remedy in str(why.value)


def test_a_study_that_has_not_begun_has_no_figure_and_no_traceback(tmp_path):
    store = StudyStore.create(tmp_path, small_study())
    outcomes = write_figures(store, tmp_path / "out")
    assert all(outcome.missing for outcome in outcomes)


def test_figure_5_finds_the_bottleneck(made, store):
    law = made["5"].data["law"]
    flat = law.filter(pl.col("place") > 20)["value"].to_numpy()
    limits = [limit_of(run) for run in plan_runs(store.study) if run.width_depth_ratio > 20]
    assert np.allclose(flat, np.mean(limits), rtol=0.03)
    points = made["5"].data[""]
    assert len(points) == len(RATIOS) + 1
    assert points["value"].null_count() == 0


def test_figure_7_is_over_scales_and_11_foretells_the_largest(made):
    assert set(made["7"].data[""]["activation"]) == {"relu", "silu"}
    assert len(made["7"].data[""]) == 2 * len(SCALES)
    for row in made["11"].data[""].to_dicts():
        assert row["parameters"] == max(made["7"].data[""]["parameters"])
        assert row["low"] < row["forecast"] < row["high"]
        assert row["inside"] == (row["low"] <= row["limit"] <= row["high"])


def test_figure_8_is_the_derivative_of_the_curve(made, data):
    rows = made["8"].data[""]
    for run in data.measured:
        mine = rows.filter(run=run.run.id)
        curve = run.curve
        assert curve is not None
        tokens, slope = mine["tokens"].to_numpy(), mine["derivative_per_billion_tokens"].to_numpy()
        change = np.trapezoid(slope, tokens / 1e9)
        inside = [
            r for r, t in zip(curve.activation_ratio, curve.tokens, strict=True) if t >= tokens[0]
        ]
        assert change == pytest.approx(inside[-1] - inside[0], rel=0.1)
        assert np.allclose(mine["tokens_per_parameter"], tokens / run.run.parameters)


def test_figures_9_and_16_tell_domains_and_layers_apart(made):
    for key in ("9", "16"):
        rows = made[key].data[""]
        assert set(rows["domain"]) == {"code", "prose"}
        names = ["domain", "layer", "activation", "group"]
        shares = rows.group_by(names).agg(pl.col("share_of_neurons").sum())
        assert np.allclose(shares["share_of_neurons"], 1)
    assert made["9"].data[""]["layer"].null_count() == len(made["9"].data[""])
    layers = made["16"].data[""].group_by("activation", "group").agg(pl.col("layer").n_unique())
    assert set(layers["layer"]) <= {2, 3}


def test_figure_10_joins_the_same_tokens_of_two_scales(made, store):
    rows = made["10"].data[""]
    parameters = {run.id: run.parameters for run in plan_runs(store.study)}
    for run, large in rows.select("run", "run_large").unique().iter_rows():
        assert parameters[run] < parameters[large]
    assert rows["count"].min() >= 5
    per_token = rows.filter(pl.col("run").str.starts_with("relu"))
    ratio = per_token["activation_ratio_large"] / per_token["activation_ratio"]
    assert ratio.std() < 1e-9  # the store has one factor for each token, whatever the scale


def test_files_are_written_and_their_data_are_the_same_in_both_formats(store, tmp_path):
    done = write_figures(store, tmp_path, only=["4", "Figure 05", "table2"])
    assert [outcome.figure.key for outcome in done] == ["4", "5", "table2"]
    for outcome in done:
        for file in outcome.files:
            assert file.stat().st_size > 0
        for file in (each for each in outcome.files if each.suffix == ".csv"):
            frame = pl.read_csv(file, infer_schema_length=None)
            assert frame.height == pl.read_parquet(file.with_suffix(".parquet")).height
    assert not list(tmp_path.glob("table2.png"))


@pytest.mark.parametrize("size", SIZES)
def test_no_legend_is_cut_off(made, size):
    for key, figure in made.items():
        if not figure.panels:
            continue
        picture = drawn(figure.panels, size)
        picture.canvas.draw()
        for legend in picture.legends:
            box = legend.get_window_extent()
            width = picture.bbox.width
            assert box.x0 >= -1, (key, size)
            assert box.x1 <= width + 1, (key, size)
        assert len(picture.legends) <= 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_same_figure_is_the_same_file(made, tmp_path, theme):
    contents = []
    for name in ("a", "b"):
        file = tmp_path / name / "figure.svg"
        file.parent.mkdir()
        save(drawn(made["5"].panels), file, theme=theme)
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]


def test_keys_are_understood_and_others_refused():
    assert [figure.key for figure in chosen(["7", " Figure 8 ", "fig4", "table 2"])] == [
        "7",
        "8",
        "4",
        "table2",
    ]
    assert len(chosen([])) == len(chosen([""])) == len(CATALOGUE)
    with pytest.raises(NotFoundError) as refused:
        chosen(["tabel2"])
    assert "table2" in str(refused.value)


def test_the_command_says_what_it_made_and_what_is_missing(store, tmp_path):
    words = ["figures", "small", "--store", str(store.path.parent), "--to", str(tmp_path / "f")]
    words += ["--only", "5,12", "--format", "csv"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "Figure 12 is missing" in done.stdout
    document = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    five, twelve = document["figures"]
    assert twelve["missing"]
    assert five["missing"] is None
    assert all(Path(file).is_file() for file in five["files"])
    refused = CliRunner().invoke(cli, [*words[:-1], "gif"])
    assert refused.exit_code == 2
