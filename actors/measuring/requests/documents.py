"""Measurements and Pareto curves as documents for JSON."""

from __future__ import annotations

from typing import Any

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.metric_names import PARAMETERS
from sparsing.actors.measuring.pareto import ParetoPoint, pareto_rows
from sparsing.actors.measuring.precision import Measured, Metric
from sparsing.actors.measuring.rows import neuron_rows, sparsity_rows


def measured_document(models: list[Model], metric: Metric, measured: Measured) -> dict[str, Any]:
    """A measurement for JSON; its rows are those of the tables `sparsity` and `neurons`."""
    name = PARAMETERS[metric.name]
    return {
        "metric": metric.name,
        "parameter": {name: metric.parameter} if name else {},
        "precision": measured.precision,
        "choosing_tokens": measured.chosen_tokens,
        "reporting_tokens": int(measured.report.counts.sum()),
        "sequence_tokens": measured.report.positions,
        "tokens_before_each_sequence": list(measured.report.prefix),
        "models": [
            _about(model)
            | {
                "cett": one.cett,
                "sparsity": sparsity_rows(one),
                "neurons": [
                    {key: value for key, value in row.items() if key != "frequency"}
                    for row in neuron_rows(one)
                ],
            }
            for model, one in zip(models, measured.measurements, strict=True)
        ],
    }


def pareto_document(models: list[Model], curves: list[list[ParetoPoint]]) -> dict[str, Any]:
    """Pareto curves for JSON; their rows are those of the table `pareto`."""
    return {
        "models": [
            _about(model) | {"pareto": pareto_rows(points)}
            for model, points in zip(models, curves, strict=True)
        ]
    }


def _about(model: Model) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "activation": model.activation,
        "layers": len(model.subject.ffns),
        "d_f": [ffn.w_out.in_features for ffn in model.subject.ffns],
        "stored": model.stored,
        "computed": model.computed,
        "experts": model.experts,
    }
