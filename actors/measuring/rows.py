"""Rows of the store's tables from a measurement."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsing.actors.measuring.measure import DEAD_FREQUENCY, Measurement

COUNTED_IN = "sparse_run"
"""Where active neurons are counted; rows of earlier versions, of the dense run, have none."""


def sparsity_rows(measured: Measurement) -> list[dict[str, Any]]:
    """Rows for each domain and layer; layer null = the mean, which carries the losses."""
    rows: list[dict[str, Any]] = []
    for domain, part in measured.parts.items():
        shared: dict[str, Any] = {
            "domain": domain,
            "measured_tokens": part.tokens,
            "counted_in": COUNTED_IN,
        }
        low, high = part.interval
        rows.append(
            shared
            | {
                "activation_ratio": part.activation_ratio,
                "activation_ratio_low": low,
                "activation_ratio_high": high,
                "activation_ratio_dense_run": float(np.mean(part.dense_run_ratios)),
                "zero_output_ratio": float(np.mean(part.zero_output_ratios)),
                "dense_loss": part.dense_loss,
                "sparse_loss": part.sparse_loss,
                "ppl_rise_percent": part.ppl_rise_percent,
            }
        )
        layers = zip(
            part.activation_ratios,
            part.layer_intervals,
            part.dense_run_ratios,
            part.zero_output_ratios,
            measured.thresholds,
            strict=True,
        )
        rows += [
            shared
            | {
                "layer": layer,
                "activation_ratio": ratio,
                "activation_ratio_low": low,
                "activation_ratio_high": high,
                "activation_ratio_dense_run": dense_run,
                "zero_output_ratio": zeros,
                "threshold": threshold,
            }
            for layer, (ratio, (low, high), dense_run, zeros, threshold) in enumerate(layers)
        ]
    return rows


def neuron_rows(measured: Measurement) -> list[dict[str, Any]]:
    """One row for each domain and layer: every neuron's frequency, and the dead ones' share."""
    return [
        {
            "domain": domain,
            "layer": layer,
            "counted_in": COUNTED_IN,
            "frequency": frequency.astype("float32"),
            "dead_ratio": float((frequency < DEAD_FREQUENCY).mean()),
        }
        for domain, part in measured.parts.items()
        for layer, frequency in enumerate(part.frequency)
    ]


def vocabulary_rows(measured: Measurement) -> list[dict[str, Any]]:
    """One row for each token id that occurs in the reporting halves."""
    return [
        {"token_id": token, "activation_ratio": ratio, "count": count, "counted_in": COUNTED_IN}
        for token, (ratio, count) in measured.vocabulary.items()
    ]
