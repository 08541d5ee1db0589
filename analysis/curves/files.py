"""Curves from anyone's files: CSV, JSON and Parquet, columns by name or guessed and said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.definition.values import COUNT_UNITS
from sparsing.study.errors import DefinitionError, NotFoundError

TOKEN_NAMES = ("tokens", "token_passed", "training_tokens", "tokens_seen", "d")
RATIO_NAMES = ("activation_ratio", "activation", "ratio", "sparsity_ratio", "sparsity", "a")
TOKEN_STEMS, RATIO_STEMS = ("token",), ("activ", "act", "ratio", "spars")
SUFFIXES = ".csv, .tsv, .json, .jsonl, .parquet, .arrow"


@dataclass(frozen=True, kw_only=True)
class CurveFile:
    """A curve as read: plain tokens, ratios, weights if asked for, and what was guessed."""

    name: str
    tokens: Floats
    activation_ratio: Floats
    weights: Floats | None
    notes: tuple[str, ...]


def read_curve(
    path: str,
    *,
    tokens_column: str | None = None,
    ratio_column: str | None = None,
    error_column: str | None = None,
    unit: str = "1",
) -> CurveFile:
    """Read a curve; `unit` is that of the token counts in the file (1, K, M, B, T).

    `error_column` holds standard errors of the ratios; weights are their inverse squares. Raises
    NotFoundError where there is no such file, DefinitionError where it holds no curve.
    """
    frame = _read_frame(Path(path))
    for column in (tokens_column, ratio_column, error_column):
        if column is not None and not (column in frame and frame.schema[column].is_numeric()):
            raise DefinitionError(f"{path}: no column of numbers '{column}'; it has {_all(frame)}")
    taken = {tokens_column, ratio_column, error_column}
    free = frame.select(c for c in frame.columns if c not in taken and frame[c].dtype.is_numeric())
    x = tokens_column or _guess(path, free, TOKEN_NAMES, TOKEN_STEMS, ratio=False)
    y = ratio_column or _guess(
        path, free.drop(x, strict=False), RATIO_NAMES, RATIO_STEMS, ratio=True
    )
    x_guessed = tokens_column is None and x != TOKEN_NAMES[0]
    y_guessed = ratio_column is None and y != RATIO_NAMES[0]
    notes = [f"tokens read from column '{x}'"] * x_guessed
    notes += [f"activation ratio read from column '{y}'"] * y_guessed
    ratio = frame[y].cast(pl.Float64).to_numpy()
    if ratio_column is None and "spars" in y.lower():
        ratio = 1 - ratio
        notes.append(f"activation ratio is 1 - '{y}'")
    return CurveFile(
        name=path,
        tokens=frame[x].cast(pl.Float64).to_numpy() * COUNT_UNITS[unit if unit != "1" else ""],
        activation_ratio=ratio,
        weights=_weights(path, frame, error_column),
        notes=tuple(notes),
    )


def _weights(path: str, frame: pl.DataFrame, column: str | None) -> Floats | None:
    if column is None:
        return None
    errors = frame[column].cast(pl.Float64).to_numpy()
    if not (errors > 0).all():
        raise DefinitionError(f"{path}: standard errors in '{column}' must be above 0")
    return errors**-2


def _guess(
    path: str, free: pl.DataFrame, names: tuple[str, ...], stems: tuple[str, ...], *, ratio: bool
) -> str:
    """A column with a usual name, else with part of one, else the first with fitting values."""
    lower = {column.lower(): column for column in reversed(free.columns)}
    for name in names:
        if name in lower:
            return lower[name]
    partly = [column for stem in stems for column in free.columns if stem in column.lower()]
    fitting = [column for column in free.columns if _is_ratio(free[column]) == ratio]
    if found := partly or fitting or free.columns:
        return found[0]
    missing = names[0]
    raise DefinitionError(f"{path}: a curve needs columns of numbers; none is left for {missing}")


def _is_ratio(column: pl.Series) -> bool:
    inside = column.cast(pl.Float64).fill_nan(None).drop_nulls().is_between(0, 1)
    return len(inside) > 0 and bool(inside.all())


def _all(frame: pl.DataFrame) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in frame.schema.items()) or "no columns"


def _read_frame(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise NotFoundError(f"no file {path}")
    try:
        return _parse(path)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DefinitionError(f"{path} cannot be read as a {path.suffix} curve: {first}") from error


def _parse(path: Path) -> pl.DataFrame:
    match path.suffix.lower():
        case ".csv" | ".txt":
            return pl.read_csv(path, infer_schema_length=None)
        case ".tsv":
            return pl.read_csv(path, separator="\t", infer_schema_length=None)
        case ".json":
            return _from_json(json.loads(path.read_text("utf-8")))
        case ".jsonl" | ".ndjson":
            return pl.read_ndjson(path)
        case ".parquet":
            return pl.read_parquet(path)
        case ".arrow" | ".feather" | ".ipc":
            return pl.read_ipc(path)
    raise DefinitionError(f"{path}: curves are read from files ending in {SUFFIXES}")


def _from_json(data: Any) -> pl.DataFrame:
    """A frame from {column: [...]}, whose other entries are left aside, or from [{...}, ...]."""
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return pl.from_dicts(data, infer_schema_length=None)
    if not isinstance(data, dict):
        raise ValueError("expected an object of lists, or a list of objects")
    lists = {name: column for name, column in data.items() if isinstance(column, list)}
    lengths = {name: len(column) for name, column in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    return pl.DataFrame(lists, strict=False)
