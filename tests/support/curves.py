"""Where the tests' curves come from: the measurements if at hand, else the published laws."""

from __future__ import annotations

import os
from pathlib import Path

from sparsing.analysis.laws.published import (
    CURVES_FOLDER,
    MEASURED,
    PUBLISHED,
    law_of,
    published_curve,
    synthetic,
)

TABLE_2 = {name: (law_of(name), PUBLISHED[name]) for name in MEASURED}
"""(law, published coefficients) of the measured curves."""

__all__ = ["TABLE_2", "any_curve", "measured_folder", "synthetic"]


def measured_folder() -> Path | None:
    """Folder of the measured curves, if it is at hand."""
    beside = Path(__file__).parents[3] / "shared" / "paper" / "curves"
    folder = Path(os.environ.get(CURVES_FOLDER, beside))
    return folder if folder.is_dir() else None


def any_curve(name: str):
    """Tokens and ratios as measured, if at hand; else a synthetic curve."""
    folder = measured_folder()
    return synthetic(name) if folder is None else published_curve(name, folder)
