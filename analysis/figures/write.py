"""Figures and tables of a study as files, each with its data as CSV and Parquet beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sparsing.analysis.figures.canvas import drawn, save
from sparsing.analysis.figures.catalogue import chosen
from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.figure import Made, MissingFigure, PaperFigure
from sparsing.study.store.study_store import StudyStore

PICTURES = ("svg", "pdf", "png")
FORMATS = (*PICTURES, "csv", "parquet")


@dataclass(frozen=True)
class Outcome:
    """What became of one figure."""

    figure: PaperFigure
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    missing: str = ""
    """Why it is not there, and what to add to the definition; empty where it is."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "key": self.figure.key,
            "name": self.figure.name,
            "title": self.figure.title,
            "files": [str(file) for file in self.files],
            "notes": list(self.notes),
            "missing": self.missing or None,
        }


def write_figures(
    store: StudyStore,
    folder: Path,
    *,
    only: Sequence[str] = (),
    formats: Sequence[str] = ("svg", "png", "csv", "parquet"),
    size: str = "talk",
    theme: str = "light",
    told: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Make figures of a study in a folder; `told` hears of each as it is there.

    Raises NotFoundError for a figure that the paper has not.
    """
    figures = chosen(only)
    data = StudyData.read(store)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for figure in figures:
        try:
            made = figure.make(data)
        except MissingFigure as why:
            outcome = Outcome(figure, missing=str(why))
        else:
            files = [*_write_data(figure, made, folder, formats)]
            files += _write_pictures(figure, made, folder, formats, size, theme)
            outcome = Outcome(figure, tuple(files), made.notes)
        outcomes.append(outcome)
        told(outcome)
    return outcomes


def _write_data(
    figure: PaperFigure, made: Made, folder: Path, formats: Sequence[str]
) -> list[Path]:
    files = []
    for part, frame in made.data.items():
        name = f"{figure.file_name}-{part}" if part else figure.file_name
        for form in ("csv", "parquet"):
            if form in formats:
                file = folder / f"{name}.{form}"
                _write_frame(frame, file)
                files.append(file)
    return files


def _write_frame(frame: pl.DataFrame, file: Path) -> None:
    if file.suffix == ".csv":
        frame.write_csv(file)
    else:
        frame.write_parquet(file)


def _write_pictures(
    figure: PaperFigure,
    made: Made,
    folder: Path,
    formats: Sequence[str],
    size: str,
    theme: str,
) -> list[Path]:
    files = []
    for form in PICTURES if made.panels else ():
        if form in formats:
            file = folder / f"{figure.file_name}.{form}"
            save(drawn(made.panels, size), file, theme=theme)
            files.append(file)
    return files
