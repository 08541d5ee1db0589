from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from curves import synthetic

from sparsing.analysis.commands.fit import fit
from sparsing.analysis.curves.errors import CurveFileError
from sparsing.study.errors import DefinitionError


def frame(name: str = "0.8b_relu", **names: str) -> pl.DataFrame:
    tokens, ratios = synthetic(name)
    columns = {"tokens": tokens, "activation_ratio": ratios}
    return pl.DataFrame(columns).rename(names)


def run(*arguments: object):
    result = CliRunner().invoke(fit, [str(each) for each in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_document(tmp_path, suffix) -> None:
    path, data = tmp_path / f"curve.{suffix}", frame()
    match suffix:
        case "csv":
            data.write_csv(path)
        case "tsv":
            data.write_csv(path, separator="\t")
        case "json":
            path.write_text(json.dumps(data.to_dict(as_series=False)))
        case "jsonl":
            data.write_ndjson(path)
        case "parquet":
            data.write_parquet(path)
        case "arrow":
            data.write_ipc(path)
    document = json.loads(run(path, "--json").stdout)
    assert document["law"] == "relu"
    assert document["parameters"]["A0"] == pytest.approx(0.0721, abs=2e-3)
    assert document["n"] == 40
    assert document["identified"] == {"alpha": True, "b": True, "c": True, "A0": True}


def test_many_files_give_an_array_in_order(tmp_path) -> None:
    paths = []
    for name in ("0.2b_silu", "0.8b_relu"):
        paths.append(tmp_path / f"{name}.csv")
        frame(name).write_csv(paths[-1])
    documents = json.loads(run(*paths, "--json").stdout)
    assert [each["law"] for each in documents] == ["silu", "relu"]
    assert [each["curve"] for each in documents] == [str(path) for path in paths]


def test_what_was_read_is_in_the_document_and_before_the_fit(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    data = frame(tokens="seen_tokens_B", activation_ratio="act").with_columns(
        pl.col("seen_tokens_B") / 1e9, step=pl.int_range(pl.len()), note=pl.lit("x")
    )
    data.select("step", "note", "seen_tokens_B", "act").write_csv(path)
    document = json.loads(run(path, "--json").stdout)
    assert document["parameters"]["A0"] == pytest.approx(0.0721, abs=2e-3)
    assert document["read"] == {
        "file": str(path),
        "rows": 40,
        "left_out": 0,
        "tokens_column": "seen_tokens_B",
        "ratio_column": "act",
        "unit": "B",
        "quantity": "activation ratio",
        "percent": False,
        "series": {},
    }
    named = ["--tokens-column", "seen_tokens_B", "--ratio-column", "act", "--unit", "B"]
    again = json.loads(run(path, *named, "--json").stdout)
    assert again["parameters"] == document["parameters"]
    text = run(path).stdout
    assert text.index("seen_tokens_B") < text.index("mean squared error")


def test_series_of_a_file_get_one_fit_each(tmp_path) -> None:
    path = tmp_path / "runs.csv"
    runs = [frame(name).with_columns(kind=pl.lit(name)) for name in ("0.8b_relu", "0.2b_silu")]
    pl.concat(runs).write_csv(path)
    for options in ([], ["--by", "kind"]):
        documents = json.loads(run(path, *options, "--json").stdout)
        assert [each["law"] for each in documents] == ["relu", "silu"]
        assert [each["read"]["series"]["kind"] for each in documents] == ["0.8b_relu", "0.2b_silu"]
    run(path, "--plot", tmp_path / "both.png")
    assert (tmp_path / "both.png").is_file()


def test_unit_and_repeats_reach_the_reading(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    data = frame().with_columns(pl.col("tokens") / 1e9)
    pl.concat([data, data[20:].with_columns(pl.col("activation_ratio") + 1e-3)]).write_csv(path)
    with pytest.raises(CurveFileError) as refused:
        run(path)
    assert refused.value.code == "implausible unit"
    newest, mean = (
        json.loads(run(path, "--unit", "B", "--repeats", how, "--json").stdout)
        for how in ("newest", "mean")
    )
    assert newest["n"] + newest["dropped"] == mean["n"] + mean["dropped"] == 40
    assert newest["parameters"]["A0"] > mean["parameters"]["A0"]


def test_fit_fraction_reports_the_hold_out(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    frame("0.2b_silu").write_csv(path)
    document = json.loads(run(path, "--fit-fraction", 0.7, "--json").stdout)
    assert (document["n"] + document["dropped"], document["holdout_n"]) == (28, 12)
    assert 0 < document["holdout_mae"] < 2e-3
    assert document["interval_coverage"] >= 0.7
    whole = json.loads(run(path, "--fit-fraction", 1, "--json").stdout)
    assert (whole["holdout_n"], whole["holdout_mae"]) == (0, None)


def test_options_reach_the_fit(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    tokens, ratios = synthetic("0.8b_relu")
    error = np.where(np.arange(40) == 7, 1.0, 1e-4)
    ratios[7] = 0.5
    pl.DataFrame({"tokens": tokens, "activation_ratio": ratios, "sd": error}).write_csv(path)
    options = ["--law", "exponential", "--drop", "3", "--level", "0.9", "--error-column", "sd"]
    document = json.loads(run(path, *options, "--json").stdout)
    assert (document["law"], document["dropped"], document["level"]) == ("exponential", 3, 0.9)
    assert document["parameters"]["A0"] == pytest.approx(0.0721, abs=2e-3)


def test_text_names_the_law_intervals_and_what_is_undecided(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    frame("1.2b_relu").write_csv(path)
    text = run(path, "--fit-fraction", "0.8").stdout
    for said in ("A = exp(-c * D^alpha + b) + A0", "95% interval", "hold-out: 8 later points"):
        assert said in text


def test_plot_is_drawn(tmp_path) -> None:
    for name in ("0.2b_silu", "0.8b_relu"):
        frame(name).write_csv(tmp_path / f"{name}.csv")
    pl.DataFrame({"tokens": [1e9, 2e9, 3e9], "activation_ratio": [0.1] * 3}).write_csv(
        tmp_path / "flat.csv"
    )
    run(*sorted(tmp_path.glob("*.csv")), "--plot", tmp_path / "fits.png")
    assert (tmp_path / "fits.png").read_bytes().startswith(b"\x89PNG")
    run(tmp_path / "0.2b_silu.csv", "--law", "logarithm", "--plot", tmp_path / "log.png")
    with pytest.raises(DefinitionError, match="cannot be written"):
        run(tmp_path / "flat.csv", "--plot", tmp_path / "none" / "x.png")


def test_a_curve_that_cannot_be_fitted_is_named(tmp_path) -> None:
    frame().write_csv(tmp_path / "good.csv")
    (tmp_path / "percent.csv").write_text("tokens,activation_ratio\n1e9,10\n2e9,9\n3e9,8\n")
    with pytest.raises(DefinitionError, match=r"percent.csv: "):
        run(tmp_path / "good.csv", tmp_path / "percent.csv")


def test_second_opinions(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    frame("0.4b_silu").write_csv(path)
    options = ["--drop", "0", "--bootstrap", "200", "--against", "alpha=0.9, c=0.4, A0=0.38"]
    document = json.loads(run(path, *options, "--json").stdout)
    low, high = document["intervals"]["A0"]
    assert document["bootstrap"]["A0"] == pytest.approx([low, high], abs=0.5 * (high - low))
    assert document["against"]["mse_ratio"] > 2
    text = run(path, *options, "--block", "4").stdout
    assert "bootstrap, 95%: alpha [" in text
    assert "times the fit's" in text
    for wrong in ("alpha=0.9", "alpha", "alpha=x,c=0.4,A0=0.38"):
        with pytest.raises(DefinitionError):
            run(path, "--against", wrong)
