"""Curves written to files as other people's programs write them, with what must be read back."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

FACTORS = {"1": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
TOKEN_NAMES = [
    ("tokens", "1"), ("Tokens", "1"), ("total_tokens", "1"), ("train/tokens_seen", "1"),
    ("trainedTokens", "1"), ("number of tokens", "1"), ("D", "1"), ("token_passed", "1"),
    ("Tokens (billions)", "B"), ("tokens_B", "B"), ("tokens [1e9]", "B"), ("tokens_M", "M"),
    ("Training tokens / M", "M"), ("tokens (10^6)", "M"), ("tokens (thousands)", "K"),
    ("Step", "1"), ("seen_words", "1"), ("tokens", "B"), ("tokens", "M"), ("gpu_tokens", "1"),
]  # fmt: skip
RATIO_NAMES = [
    "activation_ratio", "Activation Ratio", "activationRatio", "active_fraction",
    "mean activation rate",
    "sparsity/activation_ratio", "sparsity", "activation_sparsity", "act", "Value", "ratio", "A",
    "activation_ratio_percent", "sparsity (%)", "fraction_of_something", "layer_3/activation_ratio",
]  # fmt: skip
OTHERS = ("tokens_per_second", "duration", "Wall time", "loss", "lr_fraction", "validation_tokens",
          "iteration", "activation_ratio_low", "note", "when", "")  # fmt: skip
HOLES = ("", "NA", "nan", "None", "null", "N/A", "-")


@dataclass
class Written:
    """A file and the curves in it: (tokens, ratios) by series."""

    path: Path
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    what: dict[str, Any] = field(default_factory=dict)


@dataclass
class Table:
    """Columns of values, None where missing, under names that may come from a dialect."""

    names: list[str]
    columns: list[list[Any]]
    tokens: int
    ratio: int


@st.composite
def tables(draw: Any) -> tuple[Table, dict[str, tuple[np.ndarray, np.ndarray]], dict[str, Any]]:
    """A table of one to three series with other columns beside, and what it holds."""
    token_name, unit = draw(st.sampled_from(TOKEN_NAMES))
    ratio_name = draw(st.sampled_from(RATIO_NAMES))
    series = draw(st.integers(1, 3))
    label = draw(st.sampled_from(["run", "seed", "model_name", "activation function", "Group"]))
    order = draw(st.sampled_from(["blocks", "interleaved"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = int(rng.integers(4, 15))
    rows: list[tuple[str, float, float]] = []
    for s in range(series):
        tokens = np.sort(rng.choice(np.arange(2, 400), points, replace=False)) * 2.5e8
        ratios = 0.05 + 0.1 * (s + 1) + rng.uniform(0.1, 0.2) * np.exp(-tokens / 3e10)
        own = str(s) if label == "seed" else f"relu-{s}"
        rows += [(own, t, round(float(a), 6)) for t, a in zip(tokens, ratios, strict=True)]
    if order == "interleaved":
        rows.sort(key=lambda row: row[1])
    sparse, percent = (
        "sparsity" in ratio_name.split("/")[-1],
        "%" in ratio_name or "percent" in ratio_name,
    )
    written = [(1 - a if sparse else a) * (100 if percent else 1) for _, _, a in rows]
    columns: dict[str, list[Any]] = {
        token_name: [
            int(t / FACTORS[unit]) if unit == "1" else t / FACTORS[unit] for _, t, _ in rows
        ],
        ratio_name: [round(value, 6) for value in written],
    }
    holes = {int(i) for i in rng.choice(len(rows), draw(st.integers(0, 2)), replace=False)}
    for i in holes:
        columns[ratio_name][i] = None
    if series > 1:
        columns[label] = [own for own, _, _ in rows]
    for other in draw(st.lists(st.sampled_from(OTHERS), max_size=3, unique=True)):
        columns[other] = [_other(other, i, rng) for i in range(len(rows))]
    names = draw(st.permutations(list(columns)))
    kept = [row for i, row in enumerate(rows) if i not in holes]
    curves = {
        own: _curve([row for row in kept if row[0] == own])
        for own in dict.fromkeys(r[0] for r in kept)
    }
    table = Table(
        list(names), [columns[n] for n in names], names.index(token_name), names.index(ratio_name)
    )
    return (
        table,
        curves,
        {"tokens": token_name, "unit": unit, "ratio": ratio_name, "series": series},
    )


def _curve(rows: list[tuple[str, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


def _other(name: str, i: int, rng: np.random.Generator) -> Any:
    match name:
        case "note":
            return ("warm, up" if i < 3 else "stable") if i != 5 else None
        case "when":
            return f"2026-0{1 + i % 9}-11 10:{i:02d}:00"
        case "Wall time":
            return 1733001550.123 + 1550 * i
        case "iteration" | "":
            return i
        case "validation_tokens":
            return 1048576
        case "tokens_per_second":
            return 98000 + 37 * i
    return round(float(rng.uniform(0.1, 0.9)), 6)


@st.composite
def written(draw: Any, folder: Path) -> Written:
    """A curve file of any kind, and what it must be read as."""
    table, curves, what = draw(tables())
    kind = draw(st.sampled_from(["text"] * 6 + ["json", "jsonl", "parquet", "arrow", "wandb"]))
    what = what | {"kind": kind}
    if kind == "text":
        path, dialect = draw(text_files(table, folder))
        return Written(path, curves, what | dialect)
    path = folder / f"curve.{'csv' if kind == 'wandb' else kind}"
    if kind == "wandb":
        _wandb(path, curves)
    elif kind in ("parquet", "arrow"):
        frame = pl.DataFrame(dict(zip(table.names, table.columns, strict=True)), strict=False)
        getattr(frame, {"parquet": "write_parquet", "arrow": "write_ipc"}[kind])(path)
    else:
        path.write_text(draw(json_texts(table, kind)), encoding="utf-8")
    return Written(path, curves, what)


def _wandb(path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """W&B's export: a column per run with its extremes beside, and holes in quotes."""
    names = [f"{own} - activation_ratio{end}" for own in curves for end in ("", "__MIN", "__MAX")]
    rows = [",".join(f'"{name}"' for name in ["tokens", *names])]
    for tokens in sorted({t for curve in curves.values() for t in curve[0]}):
        cells = [str(int(tokens))]
        for x, y in curves.values():
            found = y[x == tokens]
            value = f"{found[0]:.6f}" if len(found) else ""
            cells += [value, value and f"{found[0] - 0.01:.6f}", value and f"{found[0] + 0.01:.6f}"]
        rows.append(",".join(f'"{cell}"' for cell in cells))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@st.composite
def json_texts(draw: Any, table: Table, kind: str) -> str:
    """Lists by column, rows, pandas' split, or lines; numbers as numbers or strings."""
    strings = draw(st.booleans())
    columns = [
        [str(value) if strings and value is not None else value for value in column]
        for column in table.columns
    ]
    rows = [dict(zip(table.names, row, strict=True)) for row in zip(*columns, strict=True)]
    if kind == "jsonl":
        late = [{"loss": 2.0, "epoch": i} for i in range(draw(st.sampled_from([0, 150])))]
        rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
        return "\n".join(json.dumps(row) for row in [*late, *rows]) + "\n"
    match draw(st.sampled_from(["columns", "rows", "split", "pandas"])):
        case "columns":
            return json.dumps(dict(zip(table.names, columns, strict=True)))
        case "rows":
            return json.dumps(rows)
        case "split":
            data = [list(row.values()) for row in rows]
            return json.dumps(
                {"columns": table.names, "index": list(range(len(rows))), "data": data}
            )
    by_row = {
        name: {str(i): value for i, value in enumerate(column)}
        for name, column in zip(table.names, columns, strict=True)
    }
    return json.dumps(by_row)


@st.composite
def text_files(draw: Any, table: Table, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file of separated text in any dialect."""
    separator = draw(st.sampled_from([",", ";", "\t", "|", " "]))
    decimal = draw(st.sampled_from([".", ",", "."]))
    thousands = draw(st.sampled_from(["", "", ",", ".", " ", "'"]))
    if thousands == decimal:
        thousands = ""
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    hole = draw(st.sampled_from(HOLES))
    percent = draw(st.booleans()) and "%" not in table.names[table.ratio]
    percent = percent and "percent" not in table.names[table.ratio]
    columns = []
    for place, column in enumerate(table.columns):
        sign = percent and place == table.ratio
        columns.append([_cell(v, decimal, thousands, hole, sign) for v in column])
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter=separator, quoting=quoting, lineterminator="\n")
    rows = list(zip(*columns, strict=True))
    # Without names nothing tells sparsity from activation, or thousands from plain counts.
    named = any(word in table.names[table.ratio] for word in ("sparsity", "percent"))
    named = named or "thousands" in table.names[table.tokens]
    header = named or draw(st.sampled_from([True] * 5 + [False]))
    again = header and draw(st.integers(0, 4)) == 0
    if header:
        writer.writerow(table.names)
    for i, row in enumerate(rows):
        if again and i == len(rows) // 2:
            writer.writerow(table.names)
        writer.writerow(row)
    text = lines.getvalue()
    comment = draw(st.integers(0, 5)) == 0
    if comment:
        text = "# written by a program\n" + text
    elif draw(st.integers(0, 5)) == 0 and separator != " ":
        text = f"sep={separator}\n" + text
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-le"]))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    path = folder / f"curve.{draw(st.sampled_from(['csv', 'tsv', 'txt']))}"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path, {"separator": separator, "decimal": decimal, "thousands": thousands, "hole": hole,
                  "header": header, "encoding": encoding, "percent": percent}  # fmt: skip


def _cell(value: Any, decimal: str, thousands: str, hole: str, percent: bool) -> str:
    if value is None:
        return hole
    if isinstance(value, str):
        return value
    if percent:
        value = round(value * 100, 4)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.10f}".rstrip("0").rstrip(".")
    text = text.replace(",", "\0").replace(".", decimal).replace("\0", thousands)
    return text + ("%" if percent else "")
