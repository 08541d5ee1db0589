"""One file of each kind that people have, and what it must be read as."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sparsing.analysis.curves.errors import CurveFileError
from sparsing.analysis.curves.files import FileCurve, read_curves
from sparsing.study.errors import NotFoundError

BILLIONS = (2, 4, 6, 8, 10, 14)
RATIOS = (0.286196, 0.249713, 0.22467, 0.20576, 0.191147, 0.168711)
TOKENS = tuple(b * 10**9 for b in BILLIONS)
PLAIN = "".join(f"{t},{a}\n" for t, a in zip(TOKENS, RATIOS, strict=True))
HEADED = "tokens,activation_ratio\n" + PLAIN


def read(folder: Path, content: str | bytes, name: str = "curve.csv", **options) -> list[FileCurve]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_curves(str(path), **options)


def refused(
    folder: Path, content: str | bytes, name: str = "curve.csv", **options
) -> CurveFileError:
    with pytest.raises(CurveFileError) as caught:
        read(folder, content, name, **options)
    assert str(folder / name) in str(caught.value)
    return caught.value


def check(curves: list[FileCurve]) -> FileCurve:
    (curve,) = curves
    np.testing.assert_allclose(curve.tokens, TOKENS, rtol=1e-12)
    np.testing.assert_allclose(curve.activation_ratio, RATIOS, rtol=1e-9)
    return curve


def rows(names: str, row: str = "{t},{a}", ending: str = "\n") -> str:
    lines = [
        row.format(t=t, b=t // 10**9, m=t // 10**6, a=a, c=str(a).replace(".", ","), i=i,
                   s=1 - a, g=f"{t:,}", gd=f"{t:,}".replace(",", "."),
                   gs=f"{t:,}".replace(",", " "),
                   p=f"{a * 100:.4f}", pc=f"{a * 100:.4f}".replace(".", ","), wall=1733001550.1 + i)
        for i, (t, a) in enumerate(zip(TOKENS, RATIOS, strict=True))
    ]  # fmt: skip
    return ending.join([names, *lines]) + ending


TEXTS = {
    "semicolons": rows("tokens;activation_ratio", "{t};{a}"),
    "tabs": rows("tokens\tactivation_ratio", "{t}\t{a}"),
    "bars": rows("tokens|activation_ratio", "{t}|{a}"),
    "blanks": rows("tokens   activation_ratio", "{t}   {a}"),
    "decimal commas": rows("tokens;activation_ratio", "{t};{c}"),
    "quoted decimal commas": rows('"tokens","activation_ratio"', '"{t}","{c}"'),
    "thousands": rows("tokens,activation_ratio", '"{g}",{a}'),
    "thousands with points": rows("tokens;activation_ratio", "{gd};{c}"),
    "thousands with blanks": rows("tokens;activation_ratio", "{gs};{c}"),
    "separator named first": rows("sep=;\ntokens;activation_ratio", "{t};{a}"),
    "carriage returns": rows("tokens,activation_ratio", ending="\r\n"),
    "old Mac lines": rows("tokens,activation_ratio", ending="\r"),
    "comments": "# made by a program\n" + HEADED,
    "header in a comment": rows("# tokens activation_ratio", "{t} {a}"),
    "no header": PLAIN,
    "no header, columns turned": "".join(
        f"{a} {t:.18e}\n" for t, a in zip(TOKENS, RATIOS, strict=True)
    ),
    "percent signs": rows("tokens,activation_ratio", "{t},{p}%"),
    "percent signs and decimal commas": rows("tokens;activation_ratio", "{t};{pc} %"),
    "percent in the name": rows("tokens,activation ratio (%)", "{t},{p}"),
    "units in cells": rows("tokens,activation_ratio", "{b}B,{a}"),
    "billions in the name": rows("Tokens (billions),activation_ratio", "{b},{a}"),
    "B in the name": rows("tokens_B,activation_ratio", "{b},{a}"),
    "a power in the name": rows("tokens [1e6],activation_ratio", "{m},{a}"),
    "sparsity": rows("tokens,sparsity", "{t},{s}"),
    "a section named sparsity": rows("tokens,sparsity/activation_ratio"),
    "a rate of tokens": rows("tokens_per_second,total_tokens,activation_ratio", "98{i}00,{t},{a}"),
    "tokens of validation": rows(
        "val/tokens,measured_tokens,tokens,activation_ratio", "{i},{i},{t},{a}"
    ),
    "ratio in duration": rows("tokens,duration,value", "{t},0.30{i},{a}"),
    "act in fraction": rows("lr_fraction,tokens,activation_ratio", "0.5{i},{t},{a}"),
    "TensorBoard": rows("Wall time,Step,Value", "{wall},{t},{a}"),
    "an index of pandas": rows(",tokens,activation_ratio", "{i},{t},{a}"),
    "blanks in names": rows(" tokens , activation_ratio ", "{t} , {a}"),
    "capitals": rows("Tokens,Activation Ratio"),
    "two names, one content": rows("tokens,activation_ratio,Activation Ratio", "{t},{a},{a}"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_dialects_of_text(tmp_path, kind) -> None:
    check(read(tmp_path, TEXTS[kind]))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(tmp_path, encoding) -> None:
    check(read(tmp_path, HEADED.encode(encoding)))


def test_windows_names_do_no_harm(tmp_path) -> None:
    text = rows("tokens;activation_ratio;Läufe", "{t};{c};Müller")
    check(read(tmp_path, text.encode("cp1252")))


def test_names_that_are_patterns_or_links(tmp_path) -> None:
    read(tmp_path, HEADED.replace("0.2", "0.3"), "run1.csv")
    check(read(tmp_path, HEADED, "run[12].csv"))
    check(read(tmp_path, HEADED, "a b;c?d*.csv"))


@pytest.mark.parametrize("hole", ["", "NA", "N/A", "nan", "None", "null", '""', "-", "#N/A", "inf"])
def test_missing_values_do_not_hide_a_column(tmp_path, hole) -> None:
    text = rows("tokens,loss_ratio,activation_ratio", "{t},0.5{i},{a}")
    (curve,) = read(tmp_path, text.replace("0.20576", hole))
    assert len(curve.tokens) == 5
    assert 8e9 not in curve.tokens
    assert curve.source.left_out == 1


def test_headers_that_come_again_are_left_out(tmp_path) -> None:
    head, *lines = HEADED.splitlines()
    check(read(tmp_path, "\n".join([head, *lines[:3], head, *lines[3:]])))


def test_keys_that_come_late_in_json_lines(tmp_path) -> None:
    late = [{"tokens": 10**7 * (i + 1), "loss": 3.0} for i in range(199)]
    points = [{"tokens": t, "activation_ratio": a} for t, a in zip(TOKENS, RATIOS, strict=True)]
    text = "\n".join(json.dumps(row) for row in [*late, *points])
    assert check(read(tmp_path, text, "curve.jsonl")).source.left_out == 199
    check(read(tmp_path, text, "curve.json"))


PANDAS = pd.DataFrame({"tokens": TOKENS, "activation_ratio": RATIOS, "run": "relu"})


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table"])
def test_what_pandas_writes_as_json(tmp_path, orient) -> None:
    check(read(tmp_path, PANDAS.to_json(orient=orient, double_precision=15), "curve.json"))


def test_what_pandas_and_polars_write(tmp_path) -> None:
    PANDAS.to_csv(tmp_path / "index.csv")
    PANDAS.set_index("tokens").to_csv(tmp_path / "by_tokens.csv")
    PANDAS.to_csv(tmp_path / "bars.txt", sep="|", decimal=",")
    PANDAS.set_index("run").to_parquet(tmp_path / "curve.parquet")
    PANDAS.astype({"run": "category"}).to_parquet(tmp_path / "category.parquet")
    PANDAS.to_feather(tmp_path / "curve.feather")
    frame = pl.from_pandas(PANDAS)
    frame.write_ipc_stream(tmp_path / "stream.arrow")
    frame.with_columns(pl.all().cast(pl.String)).write_parquet(tmp_path / "strings.parquet")
    frame.with_columns(lists=pl.lit([1, 2]), when=pl.lit("2026-01-01").str.to_date()).write_parquet(
        tmp_path / "lists.parquet"
    )
    for path in sorted(tmp_path.iterdir()):
        check(read_curves(str(path)))


def test_json_of_strings_and_of_rows(tmp_path) -> None:
    strings = {"tokens": [f"{t:,}" for t in TOKENS], "activation_ratio": [str(a) for a in RATIOS]}
    check(read(tmp_path, json.dumps(strings), "curve.json"))
    pairs = [[t, a] for t, a in zip(TOKENS, RATIOS, strict=True)]
    check(read(tmp_path, json.dumps(pairs), "curve.json"))
    aside = {"tokens": TOKENS, "activation_ratio": RATIOS, "model": "0.1B", "config": {"a": 1}}
    check(read(tmp_path, json.dumps(aside), "curve.json"))


def test_wandb_gives_one_curve_per_run(tmp_path) -> None:
    head = ["tokens"] + [
        f"{r} - activation_ratio{e}" for r in ("a", "b - 2") for e in ("", "__MIN", "__MAX")
    ]
    lines = [",".join(f'"{name}"' for name in head)]
    for i, (t, a) in enumerate(zip(TOKENS, RATIOS, strict=True)):
        own = [a, a - 0.1, a + 0.1] if i != 2 else ["", "", ""]
        lines.append(",".join(f'"{cell}"' for cell in [t, *own, a / 2, a / 3, a]))
    first, second = read(tmp_path, "\n".join(lines))
    assert (first.source.series, second.source.series) == ({"run": "a"}, {"run": "b - 2"})
    assert len(first.tokens) == 5
    np.testing.assert_allclose(second.activation_ratio, np.array(RATIOS) / 2)
    assert second.source.ratio_column == "b - 2 - activation_ratio"


AMBIGUOUS = {
    "steps": ("steps", rows("Wall time,Step,Value", "{wall},{i}000,{a}")),
    "unknown ratio": ("no ratio column", rows("tokens,duration", "{t},0.3{i}")),
    "two ratios": ("ambiguous columns", rows("tokens,a/activation_ratio,b/activation_ratio",
                                             "{t},{a},{s}")),
    "two token counts": ("ambiguous columns", rows("tokens,tokens_seen,activation_ratio",
                                                   "{i}9,{t},{a}")),
    "billions unsaid": ("implausible unit", rows("tokens,activation_ratio", "{b},{a}")),
    "billions of plain counts": ("implausible unit", rows("tokens_B,activation_ratio")),
    "percent unsaid": ("no ratio", rows("tokens,activation_ratio", "{t},{p}")),
    "percent of ratios": ("implausible percent", rows("tokens,activation_pct")),
    "three nameless columns": ("no tokens column", rows("1,2000000000,0.3", "{i},{t},{a}")),
    "commas between commas": ("ragged", rows("tokens,activation_ratio", "{t},{c}")),
    "text in numbers": ("no ratio column", HEADED.replace("0.20576", "OOM")),
    "thousands or decimals": (
        "ambiguous marks", rows("tokens (B);sparsity", '2,{i}00;"28,{i}11%"')
    ),
    "layers": ("no ratio column", rows("tokens,activation_ratio/layer_0,activation_ratio/layer_1",
                                       "{t},{a},{a}")),
}  # fmt: skip


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_what_is_not_clear_is_refused_and_names_the_columns(tmp_path, kind) -> None:
    code, text = AMBIGUOUS[kind]
    refusal = refused(tmp_path, text)
    assert refusal.code == code, refusal
    assert refusal.exit_code == 2
    assert all(f"'{name}'" in str(refusal) for name in refusal.columns)
    assert len(refusal.columns) >= 2


def test_options_settle_what_is_not_clear(tmp_path) -> None:
    check(read(tmp_path, AMBIGUOUS["billions unsaid"][1], unit="B"))
    check(read(tmp_path, AMBIGUOUS["two ratios"][1], ratio_column="a/activation_ratio"))
    check(read(tmp_path, AMBIGUOUS["two token counts"][1], tokens_column="tokens_seen"))
    conflict = read(tmp_path, TEXTS["billions in the name"], unit="M")[0]
    assert conflict.source.unit == "M"
    assert len(conflict.notes) == 2
    for option in ("tokens_column", "ratio_column", "error_column"):
        assert refused(tmp_path, HEADED, **{option: "x"}).code == "no such column"
    assert refused(tmp_path, HEADED, by=["x"]).code == "no such column"
    assert refused(tmp_path, HEADED.replace("0.20576", "OOM"), ratio_column="activation_ratio"
                   ).code == "not a number"  # fmt: skip
    errors = rows("tokens,activation_ratio,sd", "{t},{a},0.01")
    np.testing.assert_allclose(read(tmp_path, errors, error_column="sd")[0].weights, 1e4)
    assert refused(tmp_path, errors.replace("0.01\n", "0\n"), error_column="sd").code == "errors"


def test_files_that_hold_no_curve(tmp_path) -> None:
    with pytest.raises(NotFoundError):
        read_curves(str(tmp_path / "none.csv"))
    wrong = {
        "text.csv": "a,b\nx,y\n",
        "one.csv": "tokens\n1\n2\n",
        "empty.csv": "",
        "commas.csv": ",,\n,,\n",
        "empty.json": "",
        "number.json": "3",
        "ragged.json": '{"tokens": [1, 2], "activation_ratio": [1]}',
        "strings.json": '{"tokens": ["a"], "activation_ratio": ["b"]}',
        "deep.json": "[" * 100_000,
        "deep.jsonl": '{"a":' * 100_000,
        "digits.json": '{"tokens": [1' + "0" * 5000 + '], "activation_ratio": [1]}',
        "noise.parquet": "not parquet",
        "noise.arrow": "not arrow",
        "zeros.csv": "\0" * 100,
        "quote.csv": 'tokens,activation_ratio\n1,"2\n' + PLAIN,
        "line.csv": "tokens,activation_ratio\n" + "1" * 200_000 + ",0.5\n",
        "curve.xlsx": "x",
    }
    for name, content in wrong.items():
        refused(tmp_path, content, name)


def test_huge_files_are_refused_before_they_are_read(tmp_path) -> None:
    for name in ("huge.csv", "huge.json", "huge.parquet"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10**12)
        with pytest.raises(CurveFileError) as caught:
            read_curves(str(tmp_path / name))
        assert caught.value.code == "too large"
    many = pl.DataFrame({f"column {i}": pl.zeros(2_000_000, eager=True) for i in range(6)})
    many.write_parquet(tmp_path / "cells.parquet")
    with pytest.raises(CurveFileError) as caught:
        read_curves(str(tmp_path / "cells.parquet"))
    assert caught.value.code == "too large"
