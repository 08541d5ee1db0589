"""Scaling studies of activation sparsity in large language models.

    import sparsing

    sparsing.plan("quickstart")                        what it would cost
    study = sparsing.run("quickstart")                 train, measure, fit
    study = sparsing.open("quickstart")                a study of ./sparsing-store
    study.runs                                         one row per run
    sparsing.fit(tokens, activation_ratio)             the laws, on any curve

What is listed here is imported when it is first used: `import sparsing` alone loads neither torch
nor ray, scipy or polars. docs/api.md has an example of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsing.study.errors import (
    DamagedError,
    DefinitionError,
    NotFoundError,
    PrecisionError,
    RunsFailedError,
    SparsingError,
)

if TYPE_CHECKING:
    from sparsing.api.actions import measure, pareto, plan, run, submit
    from sparsing.api.curves import FittedCurve, fit, read_curves
    from sparsing.api.studies import OpenStudy, open, studies
    from sparsing.kernels.ffn import GatedFFN
    from sparsing.study.definition.model import Study

_HOMES = {
    "Study": "sparsing.study.definition.model",
    "plan": "sparsing.api.actions",
    "run": "sparsing.api.actions",
    "submit": "sparsing.api.actions",
    "open": "sparsing.api.studies",
    "studies": "sparsing.api.studies",
    "OpenStudy": "sparsing.api.studies",
    "fit": "sparsing.api.curves",
    "FittedCurve": "sparsing.api.curves",
    "read_curves": "sparsing.api.curves",
    "measure": "sparsing.api.actions",
    "pareto": "sparsing.api.actions",
    "GatedFFN": "sparsing.kernels.ffn",
}
"""Where each name is; a module is imported when one of its names is first used."""

__all__ = [
    "DamagedError",
    "DefinitionError",
    "FittedCurve",
    "GatedFFN",
    "NotFoundError",
    "OpenStudy",
    "PrecisionError",
    "RunsFailedError",
    "SparsingError",
    "Study",
    "fit",
    "measure",
    "open",
    "pareto",
    "plan",
    "read_curves",
    "run",
    "studies",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsing' has no attribute '{name}'")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
